//! Sessions that have ended here, for as long as other nodes may not know of it.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use registry::SessionId;
use tokio::time::Instant;

/// Ended sessions that are remembered, or wait for the registry to come back; more expire there by
/// themselves.
pub(super) const ENDS_MAX: usize = 64 * 1024;
/// How long after the registry has heard of a session's end another node may still ask for it,
/// because it had claimed it before: as long as a call of the registry and the call to this node
/// take.
const KEPT: Duration = Duration::from_secs(10);

/// Ended sessions, with the epochs for which they were held here.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// The registry has perhaps not heard of it.
    unwritten: HashMap<SessionId, u64>,
    /// The registry has.
    written: HashMap<SessionId, u64>,
    /// The same sessions, in the order in which the registry heard of them.
    written_at: VecDeque<(Instant, SessionId)>,
}

impl Ended {
    /// A session has ended.
    pub(super) fn add(&mut self, id: SessionId, epoch: u64) {
        self.unwritten.insert(id, epoch);
    }

    /// The registry has heard of these.
    pub(super) fn written(&mut self, ends: Vec<(SessionId, u64)>, now: Instant) {
        for (id, epoch) in ends {
            self.unwritten.remove(&id);
            self.written.insert(id, epoch);
            self.written_at.push_back((now, id));
        }
        self.forget(now);
    }

    /// Whether a session has ended that was held here for this epoch or a later one.
    pub(super) fn has(&mut self, id: SessionId, epoch: u64, now: Instant) -> bool {
        self.forget(now);
        let ended = self.unwritten.get(&id).max(self.written.get(&id));
        ended.is_some_and(|ended| *ended >= epoch)
    }

    /// Whether a session has ended and the registry has perhaps not heard of it.
    pub(super) fn is_unwritten(&self, id: SessionId) -> bool {
        self.unwritten.contains_key(&id)
    }

    fn forget(&mut self, now: Instant) {
        while let Some((at, id)) = self.written_at.front().copied()
            && (at + KEPT <= now || self.written_at.len() > ENDS_MAX)
        {
            self.written_at.pop_front();
            self.written.remove(&id);
        }
    }
}
