//! How a session gets to the node to which its client has come back: claimed in the registry, then
//! fetched from its former holder, or, when that is dead or does not answer, from its copy.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use registry::{
    Claim, Claimed, HeldRequest, Holding, NodeRef, ParkedFrame, Progress, Registry, RegistryError,
    RequestId, Route, SessionId,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Relay,
    hub::Arrival,
    membership::Membership,
    pending::{Entry, Recording, Waiter},
    session::{Beginning, ConnectionId, Digest, InFlight, Session, Unparked},
    stored::{self, RequestDetail},
    token::Token,
};
use crate::{
    bus::Position,
    error::{CloseCode, ErrorCode, Failure},
    peer::PeerLink,
    telemetry::Resume,
    wire::Frame,
};

/// How long a former holder may take to hand a session over; then its copy has to do.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(800);
/// How long a release waits for the broker to confirm what has just been produced: its next holder
/// could not be told.
const RECORDING_PATIENCE: Duration = Duration::from_millis(200);
/// How long a release waits for a session that is on its way to this node itself.
const ARRIVAL_PATIENCE: Duration = Duration::from_millis(500);
/// A token may be faster than the record of its session: one that is refused is tried once more.
const SECOND_TRY: Duration = Duration::from_millis(50);
/// How long it may take until the reply partitions of a dead node have another reader. A request
/// that was in flight there does not end before that: its client may have had its reply already.
const TAKEOVER_TIME: Duration = Duration::from_secs(10);
/// Between two looks at something that will soon be so.
const TICK: Duration = Duration::from_millis(5);

/// Brings sessions to this node.
#[derive(Debug)]
pub struct Handover {
    relay: Arc<Relay>,
    registry: Arc<dyn Registry>,
    membership: Arc<Membership>,
    link: Arc<dyn PeerLink>,
}

/// What a session's former holder hands over.
#[derive(Debug, Serialize, Deserialize)]
struct Released {
    /// The number of the last frame.
    seq: u64,
    /// The number up to which frames are not kept.
    confirmed: u64,
    frames: Vec<Left>,
    requests: Vec<(RequestId, RequestDetail, Reached)>,
}

/// How far a request is, as it is handed over.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Reached {
    Submitted,
    Recorded,
    Ended,
}

impl From<Progress> for Reached {
    fn from(progress: Progress) -> Self {
        match progress {
            Progress::Submitted => Self::Submitted,
            Progress::Recorded => Self::Recorded,
            Progress::Ended => Self::Ended,
        }
    }
}

/// A frame that a client may lack.
#[derive(Debug, Serialize, Deserialize)]
struct Left {
    seq: u64,
    request: Option<RequestId>,
    frame: Frame,
}

/// What became of a session's former holder.
enum Former {
    /// It has handed the session over.
    Released(Released),
    /// It lives, and the session has ended there.
    Ended,
    /// It is dead, or does not answer: the copy has to do.
    Gone,
}

/// A session's state, wherever it came from.
struct Inherited {
    frames: Vec<Left>,
    requests: Vec<(RequestId, RequestDetail, Progress)>,
}

impl Handover {
    /// Claims go to `registry`, calls of former holders through `link`.
    pub fn new(
        relay: Arc<Relay>,
        registry: Arc<dyn Registry>,
        membership: Arc<Membership>,
        link: Arc<dyn PeerLink>,
    ) -> Self {
        Self { relay, registry, membership, link }
    }

    /// Brings the session of `token` here, for a client that has every frame up to `last_seq`.
    /// `None` when it cannot be promised that nothing is missing: then the session is over.
    ///
    /// `is_wanted` is asked when it is this client's turn: one that has gone meanwhile must not take
    /// the session from the connection that it has come back on.
    ///
    /// # Errors
    /// The registry cannot be reached. The token stays good.
    pub async fn resume(
        &self,
        token: &Token,
        last_seq: u64,
        is_wanted: impl FnOnce() -> bool,
    ) -> Result<Option<(Arc<Session>, ConnectionId)>, RegistryError> {
        let id = token.session();
        let arrival = self.arrival(id).await;
        if !is_wanted() {
            return Ok(None);
        }
        let next = Token::random(id);
        let holding = match self.claim(token, &next).await? {
            Some(holding) => *holding,
            None => {
                self.relay.telemetry().resumed(Resume::Refused);
                return Ok(None);
            }
        };
        let epoch = holding.epoch;
        arrival.claimed(epoch);
        let beginning =
            Beginning { epoch, token: next, former_token: Some(token.clone()), last_seq };
        let resumed = self.fetch(&arrival, holding, beginning).await;
        if resumed.is_none() {
            self.relay.telemetry().resumed(Resume::Incomplete);
            if let Some(session) = self.relay.hub().get(id) {
                self.relay.end_session(&session, "not_resumable");
            }
            if let Err(error) = self.registry.end_sessions(&[(id, epoch)]).await {
                tracing::debug!(session = %id, %error, "not removed; it will expire");
            }
        }
        Ok(resumed)
    }

    /// One client at a time comes back to a session here.
    async fn arrival(&self, session: SessionId) -> Arrival<'_> {
        loop {
            match self.relay.hub().expect(session) {
                Some(arrival) => return arrival,
                None => tokio::time::sleep(TICK).await,
            }
        }
    }

    async fn claim(
        &self,
        token: &Token,
        next: &Token,
    ) -> Result<Option<Box<Holding>>, RegistryError> {
        let claim = Claim {
            session: token.session(),
            token: token.hash(),
            user: None,
            node: self.relay.node().clone(),
            next_token: next.hash(),
            ttl: self.relay.backups().ttl(),
        };
        let started = Instant::now();
        let mut claimed = self.registry.claim(&claim).await?;
        if claimed == Claimed::Refused {
            tokio::time::sleep(SECOND_TRY).await;
            claimed = self.registry.claim(&claim).await?;
        }
        self.relay.telemetry().registry_call("claim", started.elapsed());
        match claimed {
            Claimed::Taken(holding) => Ok(Some(holding)),
            Claimed::Refused | Claimed::OtherUser => Ok(None),
        }
    }

    async fn fetch(
        &self,
        arrival: &Arrival<'_>,
        holding: Holding,
        mut beginning: Beginning,
    ) -> Option<(Arc<Session>, ConnectionId)> {
        let last_seq = beginning.last_seq;
        let (id, is_reliable) = (arrival.session(), holding.former.reliable);
        if self.relay.backups().is_ending(id, holding.former.epoch) {
            return None;
        }
        // Named as the holder and without the session: a claim of this node's whose answer was lost.
        let is_held = || self.relay.hub().get(id).is_some_and(|session| session.is_held());
        if holding.former.node.as_ref() == Some(self.relay.node()) && is_held() {
            return self.relay.resume_here(id, beginning);
        }
        let (inherited, resume) = match self.released(id, &holding).await {
            Former::Ended => return None,
            Former::Released(released) => {
                let is_kept = (released.confirmed..=released.seq).contains(&last_seq);
                // Its frames keep their numbers.
                beginning.last_seq = released.confirmed;
                (is_kept.then(|| released.into())?, Resume::Released)
            }
            Former::Gone => (self.inherit_copy(holding, last_seq)?, Resume::Copied),
        };
        self.relay.telemetry().resumed(resume);
        let session = self.relay.adopt(id, is_reliable, beginning, inherited);
        session.skip(last_seq);
        if !is_reliable {
            self.relay.confirm(&session, last_seq);
        }
        let connection = session.connection();
        Some((session, connection))
    }

    /// What the former holder hands over.
    async fn released(&self, id: SessionId, holding: &Holding) -> Former {
        let Some(former) = &holding.former.node else { return Former::Gone };
        if former == self.relay.node() {
            // It may have taken such a claim for another node's, and be waiting to be asked.
            let left = self.relay.leave(id, holding.epoch).await;
            return left.map_or(Former::Gone, Former::Released);
        }
        let Some(url) = self.find(former).await else { return Former::Gone };
        match self.link.release(&url, id, holding.epoch, RELEASE_TIMEOUT).await {
            Ok(Some(answer)) => match stored::decode::<Option<Released>>(&answer) {
                Some(Some(released)) => Former::Released(released),
                Some(None) => Former::Ended,
                None => Former::Gone,
            },
            // It has claimed the session and never heard that it had got it.
            Ok(None) => Former::Gone,
            Err(error) => {
                tracing::debug!(session = %id, peer = %former, %error, "not handed over");
                Former::Gone
            }
        }
    }

    async fn find(&self, node: &NodeRef) -> Option<String> {
        if self.membership.find(node).is_none()
            && let Err(error) = self.membership.refresh().await
        {
            tracing::debug!(%error, "node table not read");
        }
        self.membership.find(node).map(|entry| entry.url)
    }

    /// What the registry has of a session whose holder is gone. Of one whose client acknowledges
    /// nothing and was connected until then, nobody knows what was on the wire.
    fn inherit_copy(&self, holding: Holding, last_seq: u64) -> Option<Inherited> {
        let former = holding.former;
        if former.overflowed || (former.attached && !former.reliable) {
            return None;
        }
        // A session whose client acknowledges nothing keeps what it can, and has parked all of it.
        let first = holding.mailbox.iter().map(|parked| parked.seq).find(|seq| *seq > 0);
        if !former.reliable && first.is_some_and(|first| first > last_seq.saturating_add(1)) {
            return None;
        }
        let request = |held: HeldRequest| {
            Some((held.request, stored::decode::<RequestDetail>(&held.detail)?, held.progress))
        };
        let mut requests: Vec<_> =
            holding.requests.into_iter().map(request).collect::<Option<_>>()?;
        // The reply may be in the log already, for whoever reads the dead node's partitions next.
        let now_ms = self.relay.nature.unix_ms();
        let takeover_ms = now_ms.saturating_add(TAKEOVER_TIME.as_millis() as u64);
        for (_, detail, _) in &mut requests {
            detail.deadline_ms = detail.deadline_ms.max(takeover_ms);
        }
        let frame = |parked: ParkedFrame| {
            let ParkedFrame { seq, request, frame } = parked;
            Some(Left { seq, request, frame: stored::decode(&frame)? })
        };
        let frames = holding.mailbox.into_iter().map(frame).collect::<Option<_>>()?;
        Some(Inherited { frames, requests })
    }
}

impl From<Released> for Inherited {
    fn from(released: Released) -> Self {
        let request = |(request, detail, reached): (RequestId, RequestDetail, Reached)| {
            let progress = match reached {
                Reached::Submitted => Progress::Submitted,
                Reached::Recorded => Progress::Recorded,
                Reached::Ended => Progress::Ended,
            };
            // The receipt is among the frames, or the client has it.
            (request, RequestDetail { receipt: false, ..detail }, progress)
        };
        let requests = released.requests.into_iter().map(request).collect();
        Self { frames: released.frames, requests }
    }
}

impl Relay {
    /// Goes on with a session that this node holds.
    fn resume_here(
        &self,
        id: SessionId,
        beginning: Beginning,
    ) -> Option<(Arc<Session>, ConnectionId)> {
        let session = self.hub.get(id)?;
        let last_seq = beginning.last_seq;
        let connection = session.resume(last_seq, beginning)?;
        if !session.is_reliable() {
            self.confirm(&session, last_seq);
        }
        self.backups.rewrite(&session);
        self.telemetry.resumed(Resume::Here);
        Some((session, connection))
    }

    /// Goes on with a session that another node has held.
    fn adopt(
        self: &Arc<Self>,
        id: SessionId,
        is_reliable: bool,
        beginning: Beginning,
        inherited: Inherited,
    ) -> Arc<Session> {
        let last_seq = beginning.last_seq;
        let session = Arc::new(Session::new(id, is_reliable, self.session_limits, beginning));
        let has = |left: &Left| left.seq > 0 && left.seq <= last_seq;
        let over: Vec<_> =
            inherited.frames.iter().filter(|left| has(left)).filter_map(|l| l.request).collect();
        // A receipt that is in the mailbox, or that the client has, is not owed beside it.
        let receipt = |left: &Left| match left.frame {
            Frame::Receipt { request, .. } => Some(request),
            _ => None,
        };
        let receipts: Vec<_> = inherited.frames.iter().filter_map(receipt).collect();
        let mut requests = inherited.requests;
        for (request, detail, _) in &mut requests {
            detail.receipt &= !receipts.contains(request);
        }
        requests.retain(|(request, ..)| !over.contains(request));
        // As they were submitted: so their receipts come in that order.
        requests.sort_unstable_by_key(|(request, ..)| *request);
        for (request, detail, progress) in &requests {
            let in_flight = InFlight {
                request: *request,
                digest: Digest(detail.digest),
                service: (&*detail.service).into(),
                deadline_ms: detail.deadline_ms,
                has_ended: *progress == Progress::Ended,
                is_unconfirmed: *progress == Progress::Submitted,
            };
            session.begin(detail.id.clone(), in_flight);
        }
        for mut left in inherited.frames.into_iter().filter(|left| !has(left)) {
            let ends = left.request.and_then(|request| requests.iter().find(|r| r.0 == request));
            if let Some((_, detail, _)) = ends
                && let Some(service) = self.services.get(&*detail.service)
            {
                left.frame.keep_headers(|name| service.passes_to_client(name));
            }
            session.adopt(left.frame, ends.map(|(_, detail, _)| detail.id.clone()));
        }
        // This node may have held it before, and not have heard that it had lost it.
        if let Some(former) = self.hub.get(id) {
            former.fence(CloseCode::Resumed);
            self.let_go(&former);
        }
        self.hub.add(&session);
        for (request, detail, progress) in requests {
            if progress != Progress::Ended {
                self.wait_again(&session, request, &detail);
            }
        }
        self.backups.rewrite(&session);
        session
    }

    /// A request of an adopted session waits here from now on, for what is left of its time.
    fn wait_again(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request: RequestId,
        detail: &RequestDetail,
    ) {
        let (id, digest) = (detail.id.clone(), Digest(detail.digest));
        let Some(service) = self.services.get(&*detail.service) else {
            let failure = Failure::new(ErrorCode::Unavailable, "this node has no such service");
            let failure = failure.recorded(true);
            let (id, request) = (Some(detail.id.clone()), Some(request));
            let frame = Frame::Error { id: id.clone(), request, failure, reply: None };
            return self.owe(session, frame, id, None);
        };
        let now_ms = self.nature.unix_ms();
        let age = Duration::from_millis(now_ms.saturating_sub(request.unix_ms()));
        let now = Instant::now();
        let started = now.checked_sub(age).unwrap_or(now);
        let left = Duration::from_millis(detail.deadline_ms.saturating_sub(now_ms));
        let position = detail.position.map(|(partition, offset)| Position { partition, offset });
        let route = Arc::new(Route {
            node: self.node.clone(),
            session: Some(session.id()),
            client_id: Some(detail.id.as_json().into()),
            deadline_ms: detail.deadline_ms,
        });
        let recording = match position {
            Some(position) => Recording::Confirmed { at: now, position },
            None => Recording::Unconfirmed,
        };
        let entry = Entry {
            service: Arc::clone(service),
            // A receipt that is still owed for what is recorded comes below; what is not confirmed
            // gets one if its client sends it again, and its reply waits for none.
            waiter: Waiter::Session { session: Arc::clone(session), id, digest, receipt: false },
            started,
            deadline: now + left,
            partition: None,
            recording,
            early: None,
            route: Arc::clone(&route),
        };
        if let (true, Some(Position { partition, offset })) = (detail.receipt, position) {
            let (id, topic) = (detail.id.clone(), Arc::clone(&service.topic));
            self.owe(session, Frame::Receipt { id, request, topic, partition, offset }, None, None);
        }
        // What an earlier holding of the session has left here.
        if let Some(early) = self.take_quietly(request, |_| true).and_then(|entry| entry.early) {
            self.strays.send(request, early.reply, early.hold);
        }
        service.metrics.in_flight.inc();
        self.pending.insert(request, entry);
        self.routes.put(request, route, true);
    }

    /// Hands a session over to the node that holds it, from `epoch` on, or says that it has ended
    /// here. `None` when nothing is known of it (any more).
    pub async fn release(&self, id: SessionId, epoch: u64) -> Option<Bytes> {
        if self.backups.is_ending(id, epoch.saturating_sub(1)) {
            return Some(stored::encode(&None::<Released>));
        }
        // Another client that has come back a moment earlier has its turn first.
        let deadline = Instant::now() + ARRIVAL_PATIENCE;
        while self.hub.is_expected_before(id, epoch) && Instant::now() < deadline {
            tokio::time::sleep(TICK).await;
        }
        self.leave(id, epoch).await.map(|released| stored::encode(&Some(released)))
    }

    /// Takes a session out, with all that its holder from `epoch` on has to have of it.
    async fn leave(&self, id: SessionId, epoch: u64) -> Option<Released> {
        let session = self.hub.get(id).filter(|session| session.epoch() < epoch)?;
        self.wait_for_recordings(&session).await;
        self.hub.remove(&session);
        let left = session.hand_over(true)?;
        let mut requests = Vec::with_capacity(left.in_flight.len());
        for (id, known) in left.in_flight {
            let entry = self.take_quietly(known.request, |waiter| waiter.is_of(&session));
            let detail = entry.as_ref().and_then(Entry::detail);
            let detail = detail.unwrap_or_else(|| RequestDetail::ended(id, &known));
            let is_waiting = |entry: &Entry| entry.recording == Recording::Waiting;
            let progress = match &entry {
                _ if known.has_ended => Progress::Ended,
                Some(entry) if is_waiting(entry) => Progress::Submitted,
                // In the producer's hands, which live on.
                _ => Progress::Recorded,
            };
            requests.push((known.request, detail, Reached::from(progress)));
            if let Some(early) = entry.and_then(|entry| entry.early) {
                self.strays.send(known.request, early.reply, early.hold);
            }
        }
        for (frame, hold) in left.holds {
            self.strays.send_after(frame, Some(hold));
        }
        let frame = |Unparked { seq, request, frame }| Left { seq, request, frame };
        let frames = left.frames.into_iter().map(frame).collect();
        tracing::debug!(session = %id, "handed over");
        let (seq, confirmed) = (left.seq, left.confirmed);
        Some(Released { seq, confirmed, frames, requests })
    }

    /// A client that is in a hurry may have left before its session has quite come here.
    async fn wait_for_recordings(&self, session: &Session) {
        let is_open = |(_, known): &(_, InFlight)| {
            let look = |entry: &mut Entry| !entry.recording.is_confirmed();
            self.pending.look(known.request, look) == Some(true)
        };
        let deadline = Instant::now() + RECORDING_PATIENCE;
        while session.requests().iter().any(is_open) && Instant::now() < deadline {
            tokio::time::sleep(TICK).await;
        }
    }
}
