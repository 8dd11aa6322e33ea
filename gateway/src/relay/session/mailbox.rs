//! Which frames of a session have to be in its mailbox in the registry, and which are there.

use registry::RequestId;
use tokio::time::Instant;

use super::{Phase, Session, Unparked, outbox::backing::first_unparked_part};
use crate::{tasks::locked, wire::Item};

/// The mailbox's view of a session.
#[derive(Clone, Copy, Debug)]
pub struct MailboxView<'s>(&'s Session);

impl Session {
    /// The session as its mailbox needs it.
    pub fn mailbox(&self) -> MailboxView<'_> {
        MailboxView(self)
    }
}

impl MailboxView<'_> {
    /// The frames that the mailbox should have and does not: all of them while there is no
    /// connection, otherwise those that are, or end, an answer and have waited since `before`. They count as
    /// being written from now on.
    pub fn unparked(&self, before: Instant) -> Vec<Unparked> {
        let mut state = locked(&self.0.state);
        let is_away = state.phase != Phase::Attached;
        state.outbox.unparked(is_away, before)
    }

    /// The frames for a mailbox that is written anew: all of them while there is no connection,
    /// otherwise those that it had.
    pub fn all(&self) -> Vec<Unparked> {
        let mut state = locked(&self.0.state);
        let is_away = state.phase != Phase::Attached;
        state.outbox.mailbox(is_away)
    }

    /// The mailbox has these frames: their replies are safe.
    pub fn parked(&self, seqs: &[u64]) {
        locked(&self.0.state).outbox.parked(seqs);
    }

    /// Whether this reply to a request is still owed and only this node has it.
    pub fn is_unsafe(&self, request: RequestId, item: &Item) -> bool {
        let state = locked(&self.0.state);
        self.0.is_durable_in(&state) && state.outbox.is_only_here(request, item)
    }

    /// The first part of a request's answer that is owed and that the mailbox neither has nor is about
    /// to get; if there is none, and the answer is complete, how many parts it has.
    pub fn first_unparked_part(&self, request: RequestId) -> Option<u32> {
        first_unparked_part(&locked(&self.0.state).outbox, request)
    }

    /// Whether a reply is owed that only this node has, and whose offset must not be committed yet.
    pub fn keeps_offsets(&self) -> bool {
        locked(&self.0.state).outbox.keeps_offsets()
    }

    /// Since when the oldest frame waits that has to be parked in time; `None` if there is no such
    /// frame any more.
    pub fn unwatch(&self) -> Option<Instant> {
        let mut state = locked(&self.0.state);
        let since = state.outbox.waits_since();
        state.is_watched = since.is_some();
        since
    }
}
