//! How a session gets to the node to which its client has come back: claimed in the registry, then
//! fetched from its former holder, or, when that is dead or does not answer, from its copy.

use std::{sync::Arc, time::Duration};

use registry::{
    Claim, Claimed, HeldRequest, Holding, NodeRef, ParkedFrame, Progress, Registry, RegistryError,
    RequestId, SessionId,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Relay,
    hub::Arrival,
    membership::Membership,
    session::{Beginning, ConnectionId, Session, Unparked},
    stored::{self, RequestDetail},
    token::Token,
};
use crate::{peer::PeerLink, telemetry::Resume};

mod arriving;
mod leaving;

/// How long a former holder may take to hand a session over; then its copy has to do.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(800);
/// A token may be faster than the record of its session: one that is refused is tried once more.
const SECOND_TRY: Duration = Duration::from_millis(50);
/// How long it may take until the reply partitions of a dead node have another reader. A request
/// that was in flight there does not end before that: its client may have had its reply already.
const TAKEOVER_TIME: Duration = Duration::from_secs(10);
/// The same from when the node table has missed the node, which it does hardly before the group.
const TAKEOVER_TIME_OF_MISSED: Duration = Duration::from_secs(4);
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
    state: Inherited,
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
#[derive(Debug, Serialize, Deserialize)]
struct Inherited {
    /// What its client may lack.
    frames: Vec<Unparked>,
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
                (is_kept.then_some(released.state)?, Resume::Released)
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

    /// Whether a former holder was silent for so long that it counts as dead. One that is not named
    /// any more was found so by who parked a reply.
    fn is_missed(&self, node: Option<&NodeRef>) -> bool {
        !self.membership.is_incomplete()
            && node.is_none_or(|node| self.membership.find(node).is_none())
    }

    /// What the registry has of a session whose holder is gone. Of one whose client acknowledges
    /// nothing and was connected until then, nobody knows what was on the wire.
    fn inherit_copy(&self, holding: Holding, last_seq: u64) -> Option<Inherited> {
        let former = &holding.former;
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
        let takeover = match self.is_missed(former.node.as_ref()) {
            true => TAKEOVER_TIME_OF_MISSED,
            false => TAKEOVER_TIME,
        };
        let takeover_ms = self.relay.nature.unix_ms().saturating_add(takeover.as_millis() as u64);
        for (_, detail, _) in &mut requests {
            detail.deadline_ms = detail.deadline_ms.max(takeover_ms);
        }
        let frame = |parked: ParkedFrame| {
            let ParkedFrame { seq, request, frame } = parked;
            Some(Unparked { seq, request, frame: stored::decode(&frame)? })
        };
        let frames = holding.mailbox.into_iter().map(frame).collect::<Option<_>>()?;
        Some(Inherited { frames, requests })
    }
}
