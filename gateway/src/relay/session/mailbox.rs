//! What of a session has to be in its mailbox in the registry, and is.

use registry::RequestId;
use tokio::time::Instant;

use super::{Phase, Session, Unparked};
use crate::tasks::locked;

/// What of a session belongs into its mailbox.
#[derive(Clone, Copy, Debug)]
pub struct MailboxView<'s>(&'s Session);

impl Session {
    /// What of it has to be in its mailbox, and is.
    pub fn mailbox(&self) -> MailboxView<'_> {
        MailboxView(self)
    }
}

impl MailboxView<'_> {
    /// The frames that the mailbox should have and has not: all of them while there is no
    /// connection, else those that end a request and have waited since `before`. They count as on
    /// their way from now on.
    pub fn unparked(&self, before: Instant) -> Vec<Unparked> {
        let mut state = locked(&self.0.state);
        let is_away = state.phase != Phase::Attached;
        state.outbox.unparked(is_away, before)
    }

    /// The frames that a mailbox which is written anew should have: all of them while there is no
    /// connection, else those it had.
    pub fn all(&self) -> Vec<Unparked> {
        let mut state = locked(&self.0.state);
        let is_away = state.phase != Phase::Attached;
        state.outbox.mailbox(is_away)
    }

    /// The mailbox has these frames: their replies are safe.
    pub fn parked(&self, seqs: &[u64]) {
        locked(&self.0.state).outbox.parked(seqs);
    }

    /// Whether the reply to a request is owed still and only this node has it.
    pub fn is_unsafe(&self, request: RequestId) -> bool {
        let state = locked(&self.0.state);
        self.0.is_durable_in(&state) && state.outbox.is_only_here(request)
    }

    /// Whether it is owed a reply that only this node has and whose offset is not to be stored yet.
    pub fn keeps_offsets(&self) -> bool {
        locked(&self.0.state).outbox.keeps_offsets()
    }

    /// From which time on the oldest frame waits that is to be parked in time; none when nothing
    /// has to be watched any more.
    pub fn unwatch(&self) -> Option<Instant> {
        let mut state = locked(&self.0.state);
        let since = state.outbox.waits_since();
        state.is_watched = since.is_some();
        since
    }
}
