//! How a session gets to the node to which its client has come back: it is claimed in the registry,
//! and then fetched from its former owner, or, if that is dead or does not answer, from its
//! checkpoint.

use std::{sync::Arc, time::Duration};

use registry::{Claim, Claimed, Holding, NodeRef, Registry, RegistryError, SessionId, all};
use tokio::time::Instant;

use former::{Former, epochs_of};

use super::{answer::Answer, leaving::Leaving};
use crate::{
    config::Config,
    peer::PeerLink,
    relay::{
        checkpoints::Checkpoints,
        cluster::Membership,
        requests::{Completion, Requests},
        session::{
            Beginning, ConnectionId, Session, SessionLimits, Sessions, Token, table::Arrival,
        },
        surroundings::Surroundings,
    },
    telemetry::{Resume, Telemetry},
};

mod arriving;
mod copy;
mod former;
mod proof;

/// How long the former owner may take to hand a session over; after that the checkpoint is used.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(800);
/// The pause between two looks at something that will soon be so.
const TICK: Duration = Duration::from_millis(5);
/// The same for something that the registry has lost and another node has to write again.
const RECOVERY_TICK: Duration = Duration::from_millis(100);
/// How long a client waits for an owner that is about to write its session again.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(10);

/// Brings sessions to this node.
#[derive(Debug)]
pub struct Resumption {
    node: NodeRef,
    requests: Arc<Requests>,
    sessions: Arc<Sessions>,
    checkpoints: Arc<Checkpoints>,
    completion: Arc<Completion>,
    leaving: Arc<Leaving>,
    membership: Arc<Membership>,
    registry: Arc<dyn Registry>,
    link: Arc<dyn PeerLink>,
    telemetry: Arc<Telemetry>,
    limits: SessionLimits,
}

/// Why it cannot be said whether a session goes on here. Its client may come again with the same
/// token.
#[derive(Debug, thiserror::Error)]
pub enum Undecided {
    /// The registry cannot be reached.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// This node is about to stop: another one has to decide.
    #[error("this node is draining")]
    Draining,
    /// Another node has claimed the session in the same moment.
    #[error("another node has claimed the session")]
    Claimed,
}

/// How an attempt to bring a session here has ended.
enum Attempt {
    /// It goes on here.
    Resumed(Arc<Session>, ConnectionId),
    /// The token resumes nothing.
    Refused,
    /// It was claimed for this epoch, but something would be missing.
    Incomplete(u64),
    /// The registry has to be written again first.
    Later,
    /// Another node has claimed it before it was known to go on here.
    Claimed,
}

impl Resumption {
    /// Sessions come as `config` has them, and leave through `leaving`.
    pub fn new(
        config: &Config,
        around: &Surroundings,
        requests: &Arc<Requests>,
        leaving: &Arc<Leaving>,
        membership: &Arc<Membership>,
    ) -> Self {
        Self {
            node: around.node.clone(),
            requests: Arc::clone(requests),
            sessions: Arc::clone(&leaving.sessions),
            checkpoints: Arc::clone(&leaving.checkpoints),
            completion: Arc::clone(&leaving.completion),
            leaving: Arc::clone(leaving),
            membership: Arc::clone(membership),
            registry: Arc::clone(&around.registry),
            link: Arc::clone(&around.link),
            telemetry: Arc::clone(&around.telemetry),
            limits: SessionLimits::new(config),
        }
    }

    /// Brings the session of `token` here, for a client that has every frame up to `last_seq`.
    /// `None` when it cannot be promised that nothing is missing: then the session is over.
    ///
    /// `is_wanted` is asked when it is this client's turn: a client that has gone meanwhile must
    /// not take the session from the connection on which it has come back.
    ///
    /// # Errors
    /// [`Undecided`]. The token stays good.
    pub async fn resume(
        &self,
        token: &Token,
        last_seq: u64,
        mut is_wanted: impl FnMut() -> bool,
    ) -> Result<Option<(Arc<Session>, ConnectionId)>, Undecided> {
        let id = token.session();
        let give_up = Instant::now() + RECOVERY_PATIENCE;
        loop {
            if self.requests.gate.is_draining() {
                return Err(Undecided::Draining);
            }
            // Before anything is delayed for it: a client that knows only the id must not hinder
            // anybody.
            if !self.is_good(token, &mut is_wanted).await? {
                self.telemetry.resumed(Resume::Refused);
                return Ok(None);
            }
            let arrival = self.arrival(id).await;
            if !is_wanted() {
                return Ok(None);
            }
            match self.attempt(&arrival, token, last_seq).await? {
                Attempt::Resumed(session, connection) => return Ok(Some((session, connection))),
                Attempt::Claimed => return Err(Undecided::Claimed),
                Attempt::Later if Instant::now() < give_up => {}
                Attempt::Refused | Attempt::Later => {
                    self.telemetry.resumed(Resume::Refused);
                    return Ok(None);
                }
                Attempt::Incomplete(epoch) => {
                    self.not_resumable(id, epoch).await;
                    return Ok(None);
                }
            }
            drop(arrival);
            self.wait_for_recovery().await?;
        }
    }

    /// Waits a little for live nodes to write again what the registry has lost. A node that drains
    /// has no time for that.
    async fn wait_for_recovery(&self) -> Result<(), Undecided> {
        if self.requests.gate.is_draining() {
            return Err(Undecided::Draining);
        }
        tokio::time::sleep(RECOVERY_TICK).await;
        Ok(())
    }

    async fn attempt(
        &self,
        arrival: &Arrival<'_>,
        token: &Token,
        last_seq: u64,
    ) -> Result<Attempt, RegistryError> {
        let next = Token::random(token.session());
        let Some(holding) = self.claim(token, &next).await? else {
            // This node's memory is right about its own session; the registry has lost it.
            return Ok(match self.opened_here(token) {
                Some(session) => self.write_again(&session),
                None => Attempt::Refused,
            });
        };
        arrival.claimed(holding.epoch);
        let former_token = Some(token.clone());
        let beginning = Beginning { epoch: holding.epoch, token: next, former_token, last_seq };
        self.fetch(arrival, *holding, beginning).await
    }

    fn write_again(&self, session: &Arc<Session>) -> Attempt {
        self.checkpoints.rewrite(session);
        Attempt::Later
    }

    /// It cannot be promised that nothing is missing.
    async fn not_resumable(&self, id: SessionId, epoch: u64) {
        self.telemetry.resumed(Resume::Incomplete);
        if let Some(session) = self.sessions.get(id) {
            self.completion.give_up_session(&session, "not_resumable");
        }
        if let Err(error) = all(self.registry.end_sessions(&[(id, epoch)]).await) {
            tracing::debug!(session = %id, %error, "not removed; it will expire");
        }
    }

    /// One client at a time comes back to a session here.
    async fn arrival(&self, session: SessionId) -> Arrival<'_> {
        loop {
            match self.sessions.expect(session) {
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
            node: self.node.clone(),
            next_token: next.hash(),
            ttl: self.checkpoints.ttl(),
        };
        let started = Instant::now();
        let claimed = self.registry.claim(&claim).await?;
        self.telemetry.registry_call("claim", started.elapsed());
        match claimed {
            Claimed::Taken(holding) => Ok(Some(holding)),
            Claimed::Refused | Claimed::OtherUser => Ok(None),
        }
    }

    /// Goes on with a session that this node holds, where what it has of it counts.
    fn go_on_here(
        &self,
        session: &Arc<Session>,
        holding: &Holding,
        beginning: &Beginning,
    ) -> Option<Attempt> {
        let (held_for, epoch) = (session.epoch(), holding.epoch);
        if held_for < epochs_of(holding).start {
            self.leaving.give_up(session);
            return None;
        }
        // This node is named as the owner but does not have the session: an earlier claim of this
        // node's, whose answer was lost. If it is not named and the epoch is later, the registry
        // went back to an earlier state.
        let is_named = holding.former.node.as_ref() == Some(&self.node);
        if !is_named && held_for < epoch {
            return None;
        }
        let is_opened = |shown: &Token| session.ownership().is_opened_by(shown);
        if !is_named && !beginning.former_token.as_ref().is_none_or(is_opened) {
            // Replaced long ago, as this node knows better than the registry.
            self.checkpoints.rewrite(session);
            return Some(Attempt::Refused);
        }
        let resumed = self.resume_here(session.id(), beginning.clone());
        Some(resumed.map_or(Attempt::Incomplete(epoch), |(s, c)| Attempt::Resumed(s, c)))
    }

    async fn fetch(
        &self,
        arrival: &Arrival<'_>,
        holding: Holding,
        mut beginning: Beginning,
    ) -> Result<Attempt, RegistryError> {
        let (last_seq, epoch) = (beginning.last_seq, holding.epoch);
        let (id, is_reliable) = (arrival.session(), holding.former.reliable);
        let incomplete = Ok(Attempt::Incomplete(epoch));
        if self.checkpoints.is_ending(id, epochs_of(&holding).start) {
            return incomplete;
        }
        if let Some(session) = self.sessions.get(id).filter(|session| session.is_held())
            && let Some(attempt) = self.go_on_here(&session, &holding, &beginning)
        {
            return Ok(attempt);
        }
        let state = match self.released(id, &holding).await {
            Former::Answered(Answer::Ended) => None,
            Former::Answered(Answer::Later) => return Ok(Attempt::Later),
            Former::Answered(Answer::Released { seq, confirmed, snapshot }) => {
                let is_kept = (confirmed..=seq).contains(&last_seq);
                // Its frames keep their numbers.
                beginning.last_seq = confirmed;
                is_kept.then_some((snapshot, Resume::Released))
            }
            Former::Gone => {
                // No memory completes a checkpoint, so it has to be whole.
                self.membership.saw(self.registry.generation().await?);
                let is_present = self.is_whole(&holding.former);
                let is_whole = is_present && holding.is_whole;
                if !is_present && self.membership.is_recovering() {
                    // Its owner may live, and be about to write it again.
                    return Ok(Attempt::Later);
                }
                let generation = holding.former.generation;
                let copy = is_whole.then(|| self.snapshot_of(holding, last_seq)).flatten();
                if copy.is_some()
                    && !self.takes_the_copy(is_reliable, generation, &beginning).await?
                {
                    return Ok(Attempt::Claimed);
                }
                copy.map(|copy| (copy, Resume::Copied))
            }
        };
        let Some((snapshot, resume)) = state else { return incomplete };
        self.telemetry.resumed(resume);
        let session = self.adopt(id, is_reliable, beginning, snapshot);
        session.ownership().skip(last_seq);
        if !is_reliable {
            self.completion.confirm(&session, last_seq);
        }
        let connection = session.connection();
        Ok(Attempt::Resumed(session, connection))
    }
}

#[cfg(test)]
mod tests;
