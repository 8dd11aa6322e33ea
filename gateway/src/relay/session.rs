//! One client's session: what is in flight for it, and the frames it is owed.
//!
//! A frame stays here until its client is known to have it: by an `ack` in a reliable session, by
//! the pong to a later ping in any other. So a client that comes back gets what it has missed. The
//! relay pushes, the connection pulls and says what it has written. Knows no socket: its other end
//! is a [`Waker`]; knows no registry: `checkpoints` copies what is here.

use std::{
    collections::HashMap,
    fmt,
    sync::Mutex,
    task::{Context, Waker},
};

use registry::{Generation, SessionId};

use super::offsets::OffsetGuard;
use crate::{
    error::CloseCode,
    tasks::locked,
    wire::{ClientId, Frame},
};

mod attachment;
mod mailbox;
mod outbox;
mod ownership;
mod parts;
mod requests;
pub mod table;
mod terms;
pub mod token;

pub use attachment::Attachment;
pub use mailbox::MailboxView;
use outbox::{Dropped, Outbox, Owed};
pub(super) use outbox::{KEPT_BYTES_MAX, KEPT_FRAMES_MAX};
pub use ownership::Ownership;
pub use requests::InFlightRequests;
pub use table::Sessions;
pub use terms::{
    Beginning, Closing, Confirmed, ConnectionId, Digest, Duty, Ended, HandedOver, InFlight, Known,
    NextFrame, NotBegun, Pushed, ReadPart, SessionLimits, Unparked,
};
pub use token::Token;

/// One session. Every method is short and takes its lock once.
pub struct Session {
    id: SessionId,
    is_reliable: bool,
    limits: SessionLimits,
    state: Mutex<State>,
}

struct State {
    epoch: u64,
    token: Token,
    /// Valid until the client is known to have the present one.
    former_token: Option<Token>,
    outbox: Outbox,
    in_flight: HashMap<ClientId, InFlight>,
    connection: ConnectionId,
    phase: Phase,
    /// Why the present connection has to be closed.
    closing: Option<Closing>,
    /// The connection is closed as soon as nothing is owed any more.
    draining: bool,
    /// Whether a frame has to be parked if nobody acknowledges it in time.
    is_watched: bool,
    /// Whether the registry has an entry for the session.
    is_recorded: bool,
    /// The registry's generation in which its whole checkpoint was written.
    generation: Option<Generation>,
    waker: Option<Waker>,
}

/// The phase of a session's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has a connection, or one is about to come.
    Attached,
    /// It waits for its client; with the number and bytes of the frames that have gathered
    /// meanwhile.
    Detached { frames: usize, bytes: usize },
    /// Another node holds it, or nobody. What is left here follows it.
    Fenced(CloseCode),
    /// What was left has followed it.
    Moved,
    /// It is over.
    Ended,
}

impl Session {
    /// A session with nothing in flight and no frames.
    pub fn new(
        id: SessionId,
        is_reliable: bool,
        limits: SessionLimits,
        beginning: Beginning,
    ) -> Self {
        let Beginning { epoch, token, former_token, last_seq } = beginning;
        let state = State {
            epoch,
            token,
            former_token,
            outbox: Outbox::new(is_reliable, last_seq),
            in_flight: HashMap::new(),
            connection: ConnectionId(1),
            phase: Phase::Attached,
            closing: None,
            draining: false,
            is_watched: false,
            is_recorded: false,
            generation: None,
            waker: None,
        };
        Self { id, is_reliable, limits, state: Mutex::new(state) }
    }

    /// Who this is.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Whether its client acknowledges frames.
    pub fn is_reliable(&self) -> bool {
        self.is_reliable
    }

    /// Whether it must survive this node: a reliable session always, a plain one while it has no
    /// connection. (After a crash nobody knows what was on the wire to a client that acknowledges
    /// nothing, so a connected plain session could not be resumed anyway.)
    pub fn is_durable(&self) -> bool {
        self.is_durable_in(&locked(&self.state))
    }

    fn is_durable_in(&self, state: &State) -> bool {
        self.is_reliable || state.phase != Phase::Attached
    }

    /// The epoch for which this node holds it.
    pub fn epoch(&self) -> u64 {
        locked(&self.state).epoch
    }

    /// Whether it has not ended, and no other node holds it.
    pub fn is_held(&self) -> bool {
        locked(&self.state).is_held()
    }

    /// Whether it has a connection.
    pub fn is_attached(&self) -> bool {
        locked(&self.state).phase == Phase::Attached
    }

    /// The one connection that counts.
    pub fn connection(&self) -> ConnectionId {
        locked(&self.state).connection
    }

    /// The token with which its client may resume it.
    pub fn token(&self) -> Token {
        locked(&self.state).token.clone()
    }

    /// Queues a frame, for the request that it ends if it ends one. `hold` is the offset of the
    /// reply that it carries: done once the client has the frame, or the mailbox. A frame that does
    /// not fit closes the connection with [`CloseCode::SlowConsumer`], and stays owed. One frame
    /// always fits an empty outbox.
    pub fn push(&self, frame: Frame, ends: Option<ClientId>, guard: Option<OffsetGuard>) -> Pushed {
        let mut state = locked(&self.state);
        let weight = frame.weight();
        let is_part = frame.part().is_some();
        if is_part && let Some(limit) = state.limit_of_parts(weight, &self.limits) {
            return Pushed::NoRoom(limit, frame, guard);
        }
        match &mut state.phase {
            Phase::Ended => return Pushed::Ended(frame, guard),
            Phase::Moved => return Pushed::Moved(frame, guard),
            Phase::Detached { .. } if !frame.is_numbered() => return Pushed::Queued,
            Phase::Detached { frames, bytes } => {
                *frames += 1;
                *bytes += weight;
                let limit = if *frames > self.limits.mailbox_frames_max {
                    Some("mailbox_frames_max")
                } else if *bytes > self.limits.mailbox_bytes_max {
                    Some("mailbox_bytes_max")
                } else {
                    None
                };
                if let Some(limit) = limit {
                    return Pushed::Overflowed(limit, frame, guard);
                }
            }
            Phase::Attached | Phase::Fenced(_) => {}
        }
        let room = self.limits.outbox_bytes_max;
        if state.phase == Phase::Attached
            && !is_part
            && let Some(bytes) = state.outbox.overflow(weight, room)
        {
            state.close(Closing { code: CloseCode::SlowConsumer, waiting_bytes: Some(bytes) });
        }
        let is_last = ends.is_some();
        if let Some(in_flight) = ends.as_ref().and_then(|id| state.in_flight.get_mut(id)) {
            in_flight.has_ended = true;
        }
        state.outbox.push(frame, ends, guard);
        state.wake();
        match state.phase {
            Phase::Detached { .. } => Pushed::Away,
            Phase::Attached if self.is_reliable && (is_last || is_part) => {
                match std::mem::replace(&mut state.is_watched, true) {
                    true => Pushed::Queued,
                    false => Pushed::Watch,
                }
            }
            _ => Pushed::Queued,
        }
    }

    /// Asks the connection to close. Of several reasons the first one counts.
    pub fn close(&self, code: CloseCode) {
        locked(&self.state).close(code.into());
    }

    /// This node stops, so the connection has to close: once everything in flight is answered and
    /// written, or at once if the client can go on elsewhere without loss.
    pub fn drain(&self) {
        let mut state = locked(&self.state);
        state.draining = true;
        if self.is_reliable {
            state.close(CloseCode::Draining.into());
        }
        state.close_if_drained();
    }

    /// Whether it is elsewhere, or its connection is about to be closed, after which the client asks
    /// again, on another node, for everything that it has heard nothing about: what is still read on
    /// this connection counts as never sent.
    pub fn is_left_behind(&self) -> bool {
        locked(&self.state).is_left_behind(self.is_reliable)
    }

    /// The number of the last frame that has left for the network, and how many frames up to it are
    /// kept.
    pub fn written(&self) -> (u64, usize) {
        locked(&self.state).outbox.last_written()
    }

    /// The number of the last frame that was sent, 0 before the first.
    pub fn last_sent(&self) -> u64 {
        locked(&self.state).outbox.last_taken()
    }

    /// Whether a frame with this number has been sent.
    pub fn has_sent(&self, seq: u64) -> bool {
        seq <= locked(&self.state).outbox.last_taken()
    }

    /// The client has every frame up to this number.
    pub fn confirm(&self, seq: u64) -> Confirmed {
        locked(&self.state).confirm(seq)
    }

    /// The session is over.
    pub fn end(&self) -> Ended {
        let mut state = locked(&self.state);
        state.close(CloseCode::Normal.into());
        state.phase = Phase::Ended;
        let (owed, written) = state.outbox.drain();
        let unread = owed.iter().skip(written).filter(|owed| owed.seq > 0).count();
        let held = owed.into_iter().filter_map(Owed::held).collect();
        let in_flight = std::mem::take(&mut state.in_flight);
        let mut requests: Vec<_> = in_flight.into_values().map(|known| known.request).collect();
        requests.sort_unstable();
        Ended { requests, unread, held }
    }
}

impl State {
    fn is_held(&self) -> bool {
        matches!(self.phase, Phase::Attached | Phase::Detached { .. })
    }

    fn is_left_behind(&self, is_reliable: bool) -> bool {
        !self.is_held() || (is_reliable && self.closing.is_some())
    }

    fn closing_of(&self, connection: ConnectionId) -> Option<Closing> {
        match self.connection == connection {
            true => self.closing,
            false => Some(CloseCode::Resumed.into()),
        }
    }

    fn confirm(&mut self, seq: u64) -> Confirmed {
        let Dropped { ends, receipts, parts, trim } = self.outbox.confirm(seq);
        let over = ends.iter().filter_map(|id| self.in_flight.remove(id));
        let over = over.map(|known| known.request).collect();
        self.shrink();
        self.close_if_drained();
        Confirmed { over, receipts, parts, trim }
    }

    /// Gives memory back when the session is idle.
    fn shrink(&mut self) {
        if self.in_flight.is_empty() {
            self.in_flight.shrink_to_fit();
        }
    }

    fn close_if_drained(&mut self) {
        let owes = !self.in_flight.is_empty() || !self.outbox.is_written();
        if self.draining && !owes {
            self.close(CloseCode::Draining.into());
        }
    }

    fn close(&mut self, closing: Closing) {
        if self.closing.is_none() {
            self.closing = Some(closing);
            self.wake();
        }
    }

    fn register(&mut self, context: &Context<'_>) {
        match &self.waker {
            Some(waker) if waker.will_wake(context.waker()) => {}
            _ => self.waker = Some(context.waker().clone()),
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
