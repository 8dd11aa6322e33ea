//! The registry and the peers as one node reaches them: late, sometimes not at all, sometimes
//! without hearing the answer.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use gateway::{
    peer::{
        Delivery, PeerError, PeerLink, Unsettled, Verdict,
        format::{self, Asked},
    },
    relay::Relay,
};
use registry::{
    Announcement, Answers, Arrival, CheckpointUpdate, Checkpointed, Claim, Claimed, Event,
    Expectation, Generation, Latest, MailboxLimits, NodeEntry, NodeRef, NodeTable, Nodes, Recorded,
    RegistryError, RequestId, RequestTable, ResultEntry, ResultTable, Route, SessionEntry,
    SessionId, SessionRecord, SessionTable, StateWait, Stored, TokenHash, ViewKey, ViewTable,
    Waiting, faulty::FaultyRegistry,
};
use tokio::{sync::oneshot, time::sleep};

use crate::world::{Life, World};

/// How long a node waits for a registry that does not answer.
const REGISTRY_TIMEOUT: Duration = Duration::from_millis(500);

/// One node's wires.
#[derive(Clone)]
pub(crate) struct Wires {
    pub(crate) world: Arc<World>,
    pub(crate) life: Arc<Life>,
}

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    LostOnTheWay,
    AnswerLost,
}

impl Wires {
    fn fate(&self) -> Fate {
        match self.world.below(if self.world.is_shaky() { 100 } else { 1 }) {
            98 => Fate::LostOnTheWay,
            99 => Fate::AnswerLost,
            _ => Fate::Answered,
        }
    }

    async fn ask<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, RegistryError>> + Send + 'static,
    ) -> Result<T, RegistryError> {
        self.life.awake().await;
        let fate = self.fate();
        let lost = || RegistryError::Unreachable("lost".into());
        if fate == Fate::LostOnTheWay || self.world.is_registry_away(self.life.index) {
            sleep(REGISTRY_TIMEOUT).await;
            self.life.awake().await;
            return Err(lost());
        }
        let (there, back) = (self.world.ms(0, 8), self.world.ms(0, 8));
        let answer = if self.world.chance(10) {
            // The call arrives, even if the node that has made it dies meanwhile.
            let (tell, told) = oneshot::channel();
            self.world.spawn(async move {
                sleep(there * 4).await;
                drop(tell.send(call.await));
            });
            told.await.map_err(|_| lost())?
        } else {
            sleep(there).await;
            call.await
        };
        sleep(back).await;
        self.life.awake().await;
        if fate == Fate::AnswerLost || self.world.is_registry_away(self.life.index) {
            return Err(lost());
        }
        answer
    }

    /// Makes a call, and reads the verdicts. Now and then one is of a later version.
    async fn verdicts(
        &self,
        peer: &NodeEntry,
        within: Duration,
        call: Bytes,
        count: usize,
    ) -> Result<Vec<Verdict>, PeerError> {
        let answer = self.call(peer, within, Call(call)).await?;
        let mut verdicts = format::read_verdicts(&answer, count).map_err(PeerError::Malformed)?;
        for verdict in &mut verdicts {
            if self.world.is_strange() {
                *verdict = Verdict::Unread;
            }
        }
        Ok(verdicts)
    }

    /// Like [`Wires::ask`], for a call about several things, each with an answer of its own.
    async fn ask_each<T: Clone + Send + 'static>(
        &self,
        count: usize,
        call: impl Future<Output = Answers<T>> + Send + 'static,
    ) -> Answers<T> {
        let answers = self.ask(async move { Ok(call.await) }).await;
        answers.unwrap_or_else(|error| vec![Err(error); count])
    }

    fn table(&self) -> FaultyRegistry {
        self.world.table.clone()
    }

    /// Makes a call that does `what` on a peer.
    async fn call<T: Send + 'static>(
        &self,
        peer: &NodeEntry,
        within: Duration,
        what: impl AsyncWork<T>,
    ) -> Result<T, PeerError> {
        self.life.awake().await;
        let world = Arc::clone(&self.world);
        let index: usize = peer.url.parse().expect("a node's number");
        let (this, fate) = (self.life.index, self.fate());
        let call = async move {
            if fate == Fate::LostOnTheWay || world.is_cut(this, index) {
                return std::future::pending().await;
            }
            world.sleep(0, 15).await;
            let Some(node) = world.node(index) else {
                return Err(PeerError::Unreachable("refused".to_owned()));
            };
            node.life.awake().await;
            let (tell, told) = oneshot::channel();
            let relay = Arc::clone(&node.relay);
            node.spawn(async move { drop(tell.send(what.on(relay).await)) });
            let answer = told.await.map_err(|_| PeerError::Unreachable("died".to_owned()))?;
            node.life.awake().await;
            world.sleep(0, 15).await;
            if fate == Fate::AnswerLost || world.is_cut(this, index) {
                return std::future::pending().await;
            }
            Ok(answer)
        };
        let answer = tokio::time::timeout(within, call).await;
        self.life.awake().await;
        answer.unwrap_or_else(|_| Err(PeerError::Unreachable("no answer in time".to_owned())))
    }
}

/// What is done on a peer.
pub(crate) trait AsyncWork<T>: Send + 'static {
    fn on(self, relay: Arc<Relay>) -> impl Future<Output = T> + Send;
}

struct Call(Bytes);
struct Release(SessionId, Range<u64>);

impl AsyncWork<Bytes> for Call {
    async fn on(self, relay: Arc<Relay>) -> Bytes {
        let (asked, forwarding) = (format::read_call(&self.0), &relay.forwarding);
        let Asked { deliveries, settlements } = asked.expect("a call");
        let deliver = |delivery: Delivery| {
            let Delivery { request, session, reply, .. } = delivery;
            forwarding.deliver_forwarded(request, session, reply, Duration::ZERO)
        };
        let ask =
            |kept: Unsettled| forwarding.whereabouts(kept.request, Some(kept.session), &kept.item);
        let delivered = deliveries.into_iter().map(deliver);
        let verdicts: Vec<Verdict> = delivered.chain(settlements.into_iter().map(ask)).collect();
        format::write_verdicts(verdicts)
    }
}

impl AsyncWork<Option<Bytes>> for Release {
    async fn on(self, relay: Arc<Relay>) -> Option<Bytes> {
        relay.leaving.release(self.0, self.1).await
    }
}

#[async_trait]
impl PeerLink for Wires {
    async fn deliver(
        &self,
        peer: &NodeEntry,
        batch: &[Delivery],
        within: Duration,
    ) -> Result<Vec<Verdict>, PeerError> {
        self.verdicts(peer, within, format::write_deliveries(batch), batch.len()).await
    }

    async fn settle(
        &self,
        peer: &NodeEntry,
        kept: &[Unsettled],
        within: Duration,
    ) -> Result<Vec<Verdict>, PeerError> {
        self.verdicts(peer, within, format::write_settlements(kept), kept.len()).await
    }

    async fn release(
        &self,
        peer: &NodeEntry,
        session: SessionId,
        epochs: Range<u64>,
        within: Duration,
    ) -> Result<Option<Bytes>, PeerError> {
        let asked = format::write_release(&epochs);
        let released = self
            .call(peer, within, Release(session, format::read_release(&asked).expect("a call")))
            .await;
        if released.is_err() {
            // The peer may have given the session up all the same, and nobody knows then what had
            // not been copied before.
            self.world.book.cut_off();
        }
        released
    }
}

#[async_trait]
impl RequestTable for Wires {
    async fn put_routes(&self, routes: &[(RequestId, Arc<Route>)]) -> Answers<()> {
        // A route's life is the difference of two times of the node's own clock.
        let (here, there) = (self.world.clock_of(self.life.index), &self.world.clock);
        let (here_ms, there_ms) = (here.unix_ms(), there.unix_ms());
        let by_table = |(request, route): &(RequestId, Arc<Route>)| {
            let left_ms = route.deadline_ms.saturating_sub(here_ms);
            (*request, Arc::new(Route { deadline_ms: there_ms + left_ms, ..(**route).clone() }))
        };
        let (table, routes) = (self.table(), routes.iter().map(by_table).collect::<Vec<_>>());
        self.ask_each(routes.len(), async move { table.put_routes(&routes).await }).await
    }

    async fn find_routes(&self, of: &[RequestId]) -> Answers<Option<Route>> {
        let (table, of) = (self.table(), of.to_vec());
        self.ask_each(of.len(), async move { table.find_routes(&of).await }).await
    }

    async fn remove_routes(&self, of: &[RequestId]) -> Answers<()> {
        let (table, of) = (self.table(), of.to_vec());
        self.ask_each(of.len(), async move { table.remove_routes(&of).await }).await
    }
}

#[async_trait]
impl NodeTable for Wires {
    async fn announce(&self, of: &NodeEntry, ttl: Duration) -> Result<Announcement, RegistryError> {
        let (table, of, life) = (self.table(), of.clone(), Arc::clone(&self.life));
        let announce = async move {
            let announcement = table.announce(&of, ttl).await;
            if announcement == Ok(Announcement::Fresh) {
                life.is_fresh.store(true, Ordering::Relaxed);
            }
            announcement
        };
        let announcement = self.ask(announce).await?;
        // If the answer that the run is new gets lost, the next one says so in its place: the
        // registry says it once only.
        Ok(match self.life.is_fresh.swap(false, Ordering::Relaxed) {
            true => Announcement::Fresh,
            false => announcement,
        })
    }

    async fn nodes(&self) -> Result<Nodes, RegistryError> {
        let table = self.table();
        self.ask(async move { table.nodes().await }).await
    }

    async fn generation(&self) -> Result<Option<Generation>, RegistryError> {
        let table = self.table();
        self.ask(async move { table.generation().await }).await
    }

    async fn leave(&self, node: &NodeRef) -> Result<(), RegistryError> {
        let (table, node) = (self.table(), node.clone());
        self.ask(async move { table.leave(&node).await }).await
    }
}

#[async_trait]
impl SessionTable for Wires {
    async fn record(&self, records: &[SessionRecord], ttl: Duration) -> Answers<Recorded> {
        let (table, records, defect) = (self.table(), records.to_vec(), self.world.defect);
        let count = records.len();
        let world = Arc::clone(&self.world);
        let call = async move {
            let spoilt = defect.spoil_records(&records, &table.memory).await;
            let answers = table.record(&spoilt, ttl).await;
            let heard = records.iter().zip(&answers).filter(|(_, answer)| answer.is_ok());
            world.book.recorded(heard.map(|(record, _)| record.session.to_string()));
            answers
        };
        self.ask_each(count, call).await
    }

    async fn update_checkpoints(
        &self,
        checkpoints: &[CheckpointUpdate],
        limits: MailboxLimits,
    ) -> Answers<Checkpointed> {
        let (table, checkpoints, defect) = (self.table(), checkpoints.to_vec(), self.world.defect);
        let count = checkpoints.len();
        let call = async move {
            table
                .update_checkpoints(
                    &defect.spoil_checkpoints(&checkpoints, &table.memory).await,
                    limits,
                )
                .await
        };
        self.ask_each(count, call).await
    }

    async fn find_sessions(&self, of: &[SessionId]) -> Answers<Option<SessionEntry>> {
        let (table, of) = (self.table(), of.to_vec());
        self.ask_each(of.len(), async move { table.find_sessions(&of).await }).await
    }

    async fn try_token(
        &self,
        session: &SessionId,
        token: &TokenHash,
    ) -> Result<Option<SessionEntry>, RegistryError> {
        let (table, session, token) = (self.table(), *session, *token);
        self.ask(async move { table.try_token(&session, &token).await }).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, RegistryError> {
        let (table, claim) = (self.table(), claim.clone());
        let mut claimed = self.ask(async move { table.claim(&claim).await }).await?;
        if let Claimed::Taken(holding) = &mut claimed {
            self.world.defect.spoil_holding(holding);
        }
        Ok(claimed)
    }

    async fn end_sessions(&self, sessions: &[(SessionId, u64)]) -> Answers<()> {
        let (table, sessions) = (self.table(), sessions.to_vec());
        self.ask_each(sessions.len(), async move { table.end_sessions(&sessions).await }).await
    }
}

#[async_trait]
impl ViewTable for Wires {
    async fn write_events(&self, of: &[Event], ttl: Duration) -> Answers<Vec<RequestId>> {
        let (table, of) = (self.table(), of.to_vec());
        self.ask_each(of.len(), async move { table.write_events(&of, ttl).await }).await
    }

    async fn begin_waits(&self, of: &[StateWait]) -> Answers<Waiting> {
        let (table, of) = (self.table(), of.to_vec());
        self.ask_each(of.len(), async move { table.begin_waits(&of).await }).await
    }

    async fn forget_waits(&self, of: &[(ViewKey, RequestId)]) -> Answers<()> {
        let (table, of) = (self.table(), of.to_vec());
        self.ask_each(of.len(), async move { table.forget_waits(&of).await }).await
    }

    async fn find_latest(&self, of: &[ViewKey]) -> Answers<Option<Latest>> {
        let (table, of) = (self.table(), of.to_vec());
        self.ask_each(of.len(), async move { table.find_latest(&of).await }).await
    }

    async fn put_marks(&self, of: &[(Arc<str>, i32, Box<str>)], ttl: Duration) -> Answers<()> {
        let (table, of) = (self.table(), of.to_vec());
        self.ask_each(of.len(), async move { table.put_marks(&of, ttl).await }).await
    }

    async fn find_marks(&self, of: &[(Arc<str>, i32)]) -> Answers<Option<Box<str>>> {
        let (table, of) = (self.table(), of.to_vec());
        self.ask_each(of.len(), async move { table.find_marks(&of).await }).await
    }
}

#[async_trait]
impl ResultTable for Wires {
    async fn expect_results(&self, of: &[Expectation]) -> Answers<()> {
        let (table, of) = (self.table(), of.to_vec());
        self.ask_each(of.len(), async move { table.expect_results(&of).await }).await
    }

    async fn store_results(&self, of: &[Arrival]) -> Answers<Stored> {
        let (table, of) = (self.table(), of.to_vec());
        self.ask_each(of.len(), async move { table.store_results(&of).await }).await
    }

    async fn find_results(&self, of: &[RequestId]) -> Answers<Option<ResultEntry>> {
        let (table, of) = (self.table(), of.to_vec());
        self.ask_each(of.len(), async move { table.find_results(&of).await }).await
    }
}

impl fmt::Debug for Wires {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wires").field("life", &self.life).finish_non_exhaustive()
    }
}
