//! A session as one of its connections sees it: what to write, and what has been read.

use std::task::{Context, Poll};

use super::{Closing, Confirmed, ConnectionId, Duty, Phase, Session, State};
use crate::tasks::locked;

/// A connection of a session. Once another connection has taken its place, its methods have no
/// effect, or the one that they name for that case.
#[derive(Clone, Copy, Debug)]
pub struct Attachment<'s> {
    session: &'s Session,
    id: ConnectionId,
}

impl Session {
    /// The session, as this connection sees it.
    pub fn on(&self, connection: ConnectionId) -> Attachment<'_> {
        Attachment { session: self, id: connection }
    }
}

impl Attachment<'_> {
    /// The next thing to do for a connection, or a wake-up once there is something.
    pub fn poll_duty(&self, context: &mut Context<'_>) -> Poll<Duty> {
        let mut state = locked(&self.session.state);
        if let Some(closing) = state.closing_of(self.id) {
            return Poll::Ready(Duty::Close(closing));
        }
        // Only the node that holds the session may write for it.
        let is_elsewhere = matches!(state.phase, Phase::Fenced(_));
        match if is_elsewhere { None } else { state.outbox.take() } {
            Some(frame) => Poll::Ready(Duty::Write(frame)),
            None => {
                state.register(context);
                Poll::Pending
            }
        }
    }

    /// The reason to close, for a connection that cannot write at present; or a wake-up once there
    /// is one.
    pub fn poll_closing(&self, context: &mut Context<'_>) -> Poll<Closing> {
        let mut state = locked(&self.session.state);
        match state.closing_of(self.id) {
            Some(closing) => Poll::Ready(closing),
            None => {
                state.register(context);
                Poll::Pending
            }
        }
    }

    /// All frames that the connection has taken have left for the network. If the client
    /// acknowledges no frames, the ids of the requests that they ended are free again.
    pub fn flushed(&self) {
        let mut state = locked(&self.session.state);
        if state.connection != self.id || state.phase != Phase::Attached {
            return;
        }
        let State { outbox, in_flight, .. } = &mut *state;
        outbox.flushed(|id| {
            in_flight.remove(&id);
        });
        state.shrink();
        state.close_if_drained();
    }

    /// The number of the last frame that the connection has taken: what it writes now comes after
    /// it. 0 if the connection does not count any more.
    pub fn taken(&self) -> u64 {
        let state = locked(&self.session.state);
        if state.connection == self.id { state.outbox.last_taken() } else { 0 }
    }

    /// Whether a frame with this number was first sent on this connection: a client that has it can
    /// only have it from there.
    pub fn is_first_sent(&self, seq: u64) -> bool {
        let state = locked(&self.session.state);
        let is_sent = seq <= state.outbox.last_taken();
        state.connection == self.id && is_sent && state.outbox.is_new(seq)
    }

    /// The client has every frame up to this number, as heard on this connection. Nothing is
    /// confirmed if another connection has taken its place, because the client has said there what
    /// it lacks.
    pub fn confirm(&self, seq: u64) -> Confirmed {
        let mut state = locked(&self.session.state);
        if state.connection == self.id { state.confirm(seq) } else { Confirmed::default() }
    }

    /// The client has read the welcome of this connection, so it has the present token.
    pub fn heard(&self) -> bool {
        let mut state = locked(&self.session.state);
        state.connection == self.id && state.former_token.take().is_some()
    }

    /// The connection is gone, and the session waits for its client. False if it was not the one
    /// that counts, or if this node does not hold the session any more.
    pub fn detach(&self) -> bool {
        let mut state = locked(&self.session.state);
        if state.connection != self.id || state.phase != Phase::Attached {
            return false;
        }
        state.phase = Phase::Detached { frames: 0, bytes: 0 };
        state.closing = None;
        state.waker = None;
        let confirmed = *state.outbox.resumable().start();
        state.outbox.rewind(confirmed);
        true
    }

    /// Whether the session has waited for its client ever since this connection was lost.
    pub fn is_waiting_since(&self) -> bool {
        let state = locked(&self.session.state);
        state.connection == self.id && matches!(state.phase, Phase::Detached { .. })
    }
}
