//! One client's session: what is in flight for it, and the frames it is owed.
//!
//! A frame stays here until its client is known to have it: by an `ack` in a reliable session, by
//! the pong to a later ping in any other. So a client that comes back gets what it has missed. The
//! relay pushes, the connection pulls and says what it has written. Knows no socket: its other end
//! is a [`Waker`]; knows no registry: `backup` copies what is here.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use registry::{NodeRef, RequestId, SessionId, SessionRecord};
use tokio::time::Instant;

use super::{token::Token, window::Hold};
use crate::{
    error::CloseCode,
    tasks::locked,
    wire::{ClientId, Frame},
};

/// Written frames of a session that does not acknowledge them, kept for a resume: older ones are
/// dropped, and a client that lacks them is not resumed.
const KEPT_FRAMES_MAX: usize = 512;
/// The same in bytes.
const KEPT_BYTES_MAX: usize = 256 * 1024;

/// What a request asks for, so that two with one id can be told apart: a hash over service, key,
/// headers and payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub u128);

/// What a session says to a request with an id that may be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// The id is free.
    No,
    /// The same request is in flight: the one answer is for both.
    Joins,
    /// The same request is in flight, and the node that took it died before the broker had
    /// confirmed it: it has to be produced again, under this id. Said once.
    Unconfirmed(RequestId),
    /// Another request is in flight under this id.
    Conflicts,
}

/// What a session may hold.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Bytes of frames that wait for a connected client.
    pub outbox_bytes_max: usize,
    /// Bytes of frames that are gathered while there is no connection.
    pub mailbox_bytes_max: usize,
    /// The same in frames.
    pub mailbox_frames_max: usize,
}

/// A request that is in flight for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Its id.
    pub request: RequestId,
    /// What it asks for.
    pub digest: Digest,
    /// Who answers.
    pub service: Arc<str>,
    /// When it ends by itself, in milliseconds since the Unix epoch.
    pub deadline_ms: u64,
    /// Whether its last frame has been queued.
    pub has_ended: bool,
    /// Whether nobody knows that it was produced: see [`Known::Unconfirmed`].
    pub is_unconfirmed: bool,
}

/// What became of a frame that was pushed.
#[derive(Debug)]
pub enum Pushed {
    /// It is owed to the client from now on.
    Queued,
    /// The same, and from now on the session has a frame that has to be parked unless the client
    /// acknowledges it in time.
    Watch,
    /// The same, and the mailbox has to have it, because the client is away.
    Away,
    /// There is no such session any more; the frame is given up.
    Ended,
    /// More than this limit lets the session hold without a connection: it has to end.
    Overflowed(&'static str),
    /// The session has gone to another node, and the frame has to follow it.
    Moved(Frame, Option<Hold>),
}

/// One of a session's connections: the latest one is the only one that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// That of no connection.
    pub const NONE: Self = Self(0);
}

/// What a connection has to do for its session.
#[derive(Debug)]
pub enum Duty {
    /// Write this text.
    Write(String),
    /// Close the socket with this code; nothing is written any more.
    Close(CloseCode),
}

/// What has changed by a client's having got its frames.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// Requests that are over for good.
    pub over: Vec<RequestId>,
    /// Requests whose receipt has come.
    pub receipts: Vec<RequestId>,
    /// Up to where frames were in the mailbox that are not needed there any more; 0: nowhere.
    pub trim: u64,
}

/// A frame that the mailbox should have.
#[derive(Clone, Debug)]
pub struct Unparked {
    /// Its number.
    pub seq: u64,
    /// The request that it ends.
    pub request: Option<RequestId>,
    /// What it says.
    pub frame: Frame,
}

impl Unparked {
    /// The request whose receipt the frame is.
    pub fn receipt(&self) -> Option<RequestId> {
        match self.frame {
            Frame::Receipt { request, .. } => Some(request),
            _ => None,
        }
    }
}

/// A frame that a client is not known to have.
#[derive(Debug)]
struct Owed {
    /// Its number; 0 when it has none: then it is for this connection alone.
    seq: u64,
    frame: Frame,
    /// The request that it ends, by the client's id.
    ends: Option<ClientId>,
    /// Keeps the reply's offset from being stored.
    hold: Option<Hold>,
    since: Instant,
    backing: Backing,
}

/// Whether the mailbox has a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backing {
    None,
    OnItsWay,
    Parked,
}

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
    /// Good too until the client is known to have the present one.
    former_token: Option<Token>,
    /// The number of the last frame that was queued.
    seq: u64,
    /// The number of the last frame that is not kept any more.
    confirmed: u64,
    /// The frames after it: first those the connection has taken, then those that wait.
    owed: VecDeque<Owed>,
    taken: usize,
    /// Of the taken ones, those that have left for the network.
    written: usize,
    taken_bytes: usize,
    waiting_bytes: usize,
    /// What was there when the client came back, beyond what the outbox may hold.
    backlog_bytes: usize,
    in_flight: HashMap<ClientId, InFlight>,
    connection: ConnectionId,
    phase: Phase,
    /// Why the present connection is to be closed.
    closing: Option<CloseCode>,
    /// Closes once nothing is owed any more.
    draining: bool,
    /// A frame waits for its time to be parked.
    is_watched: bool,
    /// The registry has heard of it.
    is_recorded: bool,
    waker: Option<Waker>,
}

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has a connection, or one is about to come.
    Attached,
    /// It waits for its client; with the frames and bytes gathered meanwhile.
    Detached { frames: usize, bytes: usize },
    /// Another node holds it, or nobody. What is left here goes there.
    Fenced(CloseCode),
    /// It has gone there.
    Moved,
    /// It is over.
    Ended,
}

/// What a session begins with on this node.
#[derive(Debug)]
pub struct Beginning {
    /// How often it has changed its holder, and once more.
    pub epoch: u64,
    /// What resumes it.
    pub token: Token,
    /// What resumed it here.
    pub former_token: Option<Token>,
    /// The number of the last frame that its client has.
    pub last_seq: u64,
}

impl Session {
    /// A session that owes nothing.
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
            seq: last_seq,
            confirmed: last_seq,
            owed: VecDeque::new(),
            taken: 0,
            written: 0,
            taken_bytes: 0,
            waiting_bytes: 0,
            backlog_bytes: 0,
            in_flight: HashMap::new(),
            connection: ConnectionId(1),
            phase: Phase::Attached,
            closing: None,
            draining: false,
            is_watched: false,
            is_recorded: false,
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

    /// Whether what it holds must survive this node: a reliable session's always, another one's
    /// while it has no connection. (What was on the wire to a client that acknowledges nothing
    /// cannot be known after a crash, so its session could not be resumed then anyway.)
    pub fn is_durable(&self) -> bool {
        self.is_reliable || locked(&self.state).phase != Phase::Attached
    }

    /// For which epoch this node holds it.
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

    /// The connection that counts.
    pub fn connection(&self) -> ConnectionId {
        locked(&self.state).connection
    }

    /// What the client has to show to resume.
    pub fn token(&self) -> Token {
        locked(&self.state).token.clone()
    }

    /// The session's line in the registry, while this node holds it.
    pub fn record(&self, node: &NodeRef) -> Option<SessionRecord> {
        let state = locked(&self.state);
        state.is_held().then(|| SessionRecord {
            session: self.id,
            epoch: state.epoch,
            node: node.clone(),
            user: None,
            reliable: self.is_reliable,
            attached: state.phase == Phase::Attached,
            token: state.token.hash(),
            former_token: state.former_token.as_ref().map(Token::hash),
        })
    }

    /// Whether the registry has heard of it.
    pub fn is_recorded(&self) -> bool {
        locked(&self.state).is_recorded
    }

    /// The registry has its record from now on; whether it had it before.
    pub fn recorded(&self) -> bool {
        std::mem::replace(&mut locked(&self.state).is_recorded, true)
    }

    /// The registry has lost its record.
    pub fn unrecorded(&self) {
        locked(&self.state).is_recorded = false;
    }

    /// Queues a frame, for the request that it ends if it ends one. `hold` is the offset of the
    /// reply that it carries: done once the client has the frame, or the mailbox. A frame that does
    /// not fit closes the connection with [`CloseCode::SlowConsumer`], and stays owed. One frame
    /// always fits an empty outbox.
    pub fn push(&self, frame: Frame, ends: Option<ClientId>, hold: Option<Hold>) -> Pushed {
        let mut state = locked(&self.state);
        let weight = frame.weight();
        match &mut state.phase {
            Phase::Ended => {
                hold.into_iter().for_each(Hold::done);
                return Pushed::Ended;
            }
            Phase::Moved => return Pushed::Moved(frame, hold),
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
                    hold.into_iter().for_each(Hold::done);
                    return Pushed::Overflowed(limit);
                }
            }
            Phase::Attached | Phase::Fenced(_) => {}
        }
        if state.phase == Phase::Attached && !self.fits(&state, weight) {
            state.close(CloseCode::SlowConsumer);
        }
        let is_last = ends.is_some();
        if let Some(in_flight) = ends.as_ref().and_then(|id| state.in_flight.get_mut(id)) {
            in_flight.has_ended = true;
        }
        let seq = if frame.is_numbered() {
            state.seq += 1;
            state.seq
        } else {
            0
        };
        state.waiting_bytes += weight;
        let since = Instant::now();
        state.owed.push_back(Owed { seq, frame, ends, hold, since, backing: Backing::None });
        state.wake();
        match state.phase {
            Phase::Detached { .. } => Pushed::Away,
            Phase::Attached if self.is_reliable && is_last => {
                match std::mem::replace(&mut state.is_watched, true) {
                    true => Pushed::Queued,
                    false => Pushed::Watch,
                }
            }
            _ => Pushed::Queued,
        }
    }

    fn fits(&self, state: &State, weight: usize) -> bool {
        let unread = match self.is_reliable {
            true => state.taken_bytes + state.waiting_bytes,
            false => state.waiting_bytes,
        };
        let room = self.limits.outbox_bytes_max.saturating_add(state.backlog_bytes);
        unread == 0 || unread + weight <= room
    }

    /// Asks the connection to close. The first reason stands.
    pub fn close(&self, code: CloseCode) {
        locked(&self.state).close(code);
    }

    /// This node stops: the connection closes once everything in flight is answered and written,
    /// or, where the client can go on elsewhere without loss, at once.
    pub fn drain(&self) {
        let mut state = locked(&self.state);
        state.draining = true;
        if self.is_reliable {
            state.close(CloseCode::Draining);
        }
        state.close_if_drained();
    }

    /// The next thing to do for a connection, or a wake-up once there is something.
    pub fn poll_duty(&self, connection: ConnectionId, context: &mut Context<'_>) -> Poll<Duty> {
        let mut state = locked(&self.state);
        if let Some(code) = state.closing_of(connection) {
            return Poll::Ready(Duty::Close(code));
        }
        // What another node holds is that node's to write.
        if state.taken == state.owed.len() || matches!(state.phase, Phase::Fenced(_)) {
            state.register(context);
            return Poll::Pending;
        }
        let next = &state.owed[state.taken];
        let (text, weight) = (next.frame.render(next.seq), next.frame.weight());
        state.taken += 1;
        if state.taken == state.owed.len() && !self.is_reliable {
            state.backlog_bytes = 0;
        }
        state.waiting_bytes -= weight;
        state.taken_bytes += weight;
        Poll::Ready(Duty::Write(text))
    }

    /// Why to close, for a connection that cannot write at present; or a wake-up once there is a
    /// reason.
    pub fn poll_closing(
        &self,
        connection: ConnectionId,
        context: &mut Context<'_>,
    ) -> Poll<CloseCode> {
        let mut state = locked(&self.state);
        match state.closing_of(connection) {
            Some(code) => Poll::Ready(code),
            None => {
                state.register(context);
                Poll::Pending
            }
        }
    }

    /// All frames that the connection has taken have left for the network. The ids of the requests
    /// they ended are free again, unless the client acknowledges frames.
    pub fn flushed(&self, connection: ConnectionId) {
        let mut state = locked(&self.state);
        if state.connection != connection || state.phase != Phase::Attached {
            return;
        }
        if !self.is_reliable {
            let State { owed, in_flight, written, taken, .. } = &mut *state;
            for id in owed.range_mut(*written..*taken).filter_map(|frame| frame.ends.take()) {
                in_flight.remove(&id);
            }
        }
        state.written = state.taken;
        state.drop_unnumbered();
        if !self.is_reliable {
            state.drop_oldest();
            state.shrink();
        }
        state.close_if_drained();
    }

    /// The number of the last frame that has left for the network, and how many frames before it
    /// are not confirmed.
    pub fn written(&self) -> (u64, usize) {
        let state = locked(&self.state);
        let last =
            state.owed.range(..state.written).rev().map(|owed| owed.seq).find(|seq| *seq > 0);
        (last.unwrap_or(state.confirmed), state.written)
    }

    /// Whether a frame with this number has been sent.
    pub fn has_sent(&self, seq: u64) -> bool {
        let state = locked(&self.state);
        let last = state.owed.range(..state.taken).rev().map(|owed| owed.seq).find(|seq| *seq > 0);
        seq <= last.unwrap_or(state.confirmed)
    }

    /// The client has every frame up to this number.
    pub fn confirm(&self, seq: u64) -> Confirmed {
        locked(&self.state).confirm(seq)
    }

    /// The client has been heard on this connection, so it has the present token.
    pub fn heard(&self, connection: ConnectionId) -> bool {
        let mut state = locked(&self.state);
        state.connection == connection && state.former_token.take().is_some()
    }

    /// A connection is gone; the session waits for its client from now on. False when it was not
    /// the one that counts, or the session is not this node's any more.
    pub fn detach(&self, connection: ConnectionId) -> bool {
        let mut state = locked(&self.state);
        if state.connection != connection || state.phase != Phase::Attached {
            return false;
        }
        state.phase = Phase::Detached { frames: 0, bytes: 0 };
        state.closing = None;
        state.waker = None;
        let confirmed = state.confirmed;
        state.rewind(confirmed);
        true
    }

    /// Goes on for a client that has come back to this node and says that it has every frame up to
    /// `last_seq`, which is no acknowledgement; a connection that it still has is told. `None` when
    /// that cannot be: frames after `last_seq` are not kept any more, or it was never sent.
    pub fn resume(&self, last_seq: u64, beginning: Beginning) -> Option<ConnectionId> {
        let mut state = locked(&self.state);
        if !state.is_held() || !(state.confirmed..=state.seq).contains(&last_seq) {
            return None;
        }
        state.wake();
        state.connection.0 += 1;
        state.phase = Phase::Attached;
        state.closing = None;
        state.epoch = beginning.epoch;
        state.token = beginning.token;
        state.former_token = beginning.former_token;
        state.rewind(last_seq);
        Some(state.connection)
    }

    /// Whether a detached session has waited since before its last detachment: used by the window's
    /// watch, which knows for which connection it waits.
    pub fn is_waiting_since(&self, connection: ConnectionId) -> bool {
        let state = locked(&self.state);
        state.connection == connection && matches!(state.phase, Phase::Detached { .. })
    }

    /// Another node holds the session: nothing of it is written any more, neither to the connection
    /// nor to the registry; the connection closes with `code` in the end. False when that was known.
    pub fn fence(&self, code: CloseCode) -> bool {
        let mut state = locked(&self.state);
        if !state.is_held() {
            return false;
        }
        state.phase = Phase::Fenced(code);
        true
    }

    /// How many requests are in flight, counting those whose answer the client may not have yet.
    pub fn in_flight(&self) -> usize {
        locked(&self.state).in_flight.len()
    }

    /// Every request in flight, by the client's id.
    pub fn requests(&self) -> Vec<(ClientId, InFlight)> {
        let state = locked(&self.state);
        state.in_flight.iter().map(|(id, request)| (id.clone(), request.clone())).collect()
    }

    /// Whether the id is in flight, and for the same request.
    pub fn known(&self, id: &ClientId, digest: Digest) -> Known {
        match locked(&self.state).in_flight.get_mut(id) {
            None => Known::No,
            Some(known) if known.digest != digest => Known::Conflicts,
            Some(known) if known.is_unconfirmed && !known.has_ended => {
                known.is_unconfirmed = false;
                Known::Unconfirmed(known.request)
            }
            Some(_) => Known::Joins,
        }
    }

    /// The request in flight under an id.
    pub fn request(&self, id: &ClientId) -> Option<RequestId> {
        locked(&self.state).in_flight.get(id).map(|known| known.request)
    }

    /// A request is in flight from now on. The caller has made sure that the id is free.
    pub fn begin(&self, id: ClientId, request: InFlight) {
        locked(&self.state).in_flight.insert(id, request);
    }

    /// A request was not taken after all.
    pub fn forget(&self, id: &ClientId) {
        let mut state = locked(&self.state);
        state.in_flight.remove(id);
        state.close_if_drained();
    }

    /// The frames that the mailbox should have and has not: all of them while there is no
    /// connection, else those that end a request and have waited since `before`. They count as on
    /// their way from now on.
    pub fn unparked(&self, before: Instant) -> Vec<Unparked> {
        let mut state = locked(&self.state);
        let is_away = state.phase != Phase::Attached;
        let is_due = |owed: &Owed| {
            let waits = is_away || (owed.since <= before && owed.ends.is_some());
            waits && owed.seq > 0 && owed.backing == Backing::None
        };
        let State { owed, in_flight, .. } = &mut *state;
        let due = owed.iter_mut().filter(|owed| is_due(owed));
        due.map(|owed| owed.park(in_flight)).collect()
    }

    /// The frames that a mailbox which is written anew should have: all of them while there is no
    /// connection, else those it had.
    pub fn mailbox(&self) -> Vec<Unparked> {
        let mut state = locked(&self.state);
        let is_away = state.phase != Phase::Attached;
        let State { owed, in_flight, .. } = &mut *state;
        let is_due = |owed: &&mut Owed| owed.seq > 0 && (is_away || owed.backing != Backing::None);
        owed.iter_mut().filter(is_due).map(|owed| owed.park(in_flight)).collect()
    }

    /// The mailbox has these frames: their replies are safe.
    pub fn parked(&self, seqs: &[u64]) {
        let mut state = locked(&self.state);
        for owed in &mut state.owed {
            if seqs.binary_search(&owed.seq).is_ok() {
                owed.backing = Backing::Parked;
                if let Some(hold) = owed.hold.take() {
                    hold.done();
                }
            }
        }
    }

    /// Whether the reply to a request is owed still and only this node has it.
    pub fn is_unsafe(&self, request: RequestId) -> bool {
        let state = locked(&self.state);
        let is_it =
            |owed: &Owed| owed.backing != Backing::Parked && owed.frame.ends() == Some(request);
        self.is_reliable_or_away(&state) && state.owed.iter().any(is_it)
    }

    fn is_reliable_or_away(&self, state: &State) -> bool {
        self.is_reliable || state.phase != Phase::Attached
    }

    /// From which time on the oldest frame waits that is to be parked in time; none when nothing
    /// has to be watched any more.
    pub fn unwatch(&self) -> Option<Instant> {
        let mut state = locked(&self.state);
        let is_due = |owed: &&Owed| owed.ends.is_some() && owed.backing == Backing::None;
        let since = state.owed.iter().find(is_due).map(|owed| owed.since);
        state.is_watched = since.is_some();
        since
    }

    /// Closes the connection and takes everything out, for the node that holds the session now and
    /// has asked for it, or because it does not ask: the frames that the client
    /// may lack, each with its hold, and the requests in flight. `None` when that has been done, or
    /// the session is over: there is nothing left to go on with.
    pub fn hand_over(&self, is_asked_for: bool) -> Option<HandedOver> {
        let mut state = locked(&self.state);
        let code = match state.phase {
            Phase::Moved | Phase::Ended => return None,
            Phase::Fenced(code) if !is_asked_for => code,
            _ => CloseCode::Resumed,
        };
        state.close(code);
        state.phase = Phase::Moved;
        let owed = std::mem::take(&mut state.owed);
        let (mut frames, mut holds) = (Vec::new(), Vec::new());
        for mut owed in owed.into_iter().filter(|owed| owed.seq > 0) {
            let request = owed.ends.as_ref().and_then(|id| state.in_flight.get(id));
            let request = request.map(|known| known.request).or_else(|| owed.frame.ends());
            if let Some(hold) = owed.hold.take() {
                holds.push((owed.frame.clone(), hold));
            }
            let request = owed.ends.is_some().then_some(request).flatten();
            frames.push(Unparked { seq: owed.seq, request, frame: owed.frame });
        }
        let in_flight = std::mem::take(&mut state.in_flight).into_iter().collect();
        (state.taken, state.written, state.taken_bytes, state.waiting_bytes) = (0, 0, 0, 0);
        let (seq, confirmed) = (state.seq, state.confirmed);
        Some(HandedOver { seq, confirmed, frames, holds, in_flight })
    }

    /// Of the frames taken over, the client says that it has those up to this number.
    pub fn skip(&self, last_seq: u64) {
        locked(&self.state).rewind(last_seq);
    }

    /// Takes over a frame that the former holder had queued or parked; it keeps its order, and gets
    /// the next number.
    pub fn adopt(&self, frame: Frame, ends: Option<ClientId>) {
        let mut state = locked(&self.state);
        state.seq += 1;
        let seq = state.seq;
        state.waiting_bytes += frame.weight();
        let since = Instant::now();
        state.owed.push_back(Owed { seq, frame, ends, hold: None, since, backing: Backing::None });
    }

    /// The session is over: what was in flight for it, and the number of frames that nobody will
    /// read.
    pub fn end(&self) -> (Vec<RequestId>, usize) {
        let mut state = locked(&self.state);
        state.close(CloseCode::Normal);
        state.phase = Phase::Ended;
        let mut unread = 0;
        let written = state.written;
        for (at, owed) in std::mem::take(&mut state.owed).into_iter().enumerate() {
            unread += usize::from(at >= written && owed.seq > 0);
            if let Some(hold) = owed.hold {
                hold.done();
            }
        }
        (state.taken, state.written, state.taken_bytes, state.waiting_bytes) = (0, 0, 0, 0);
        let in_flight = std::mem::take(&mut state.in_flight);
        (in_flight.into_values().map(|known| known.request).collect(), unread)
    }
}

/// What a session leaves to its next holder.
#[derive(Debug)]
pub struct HandedOver {
    /// The number of the last frame that was queued.
    pub seq: u64,
    /// The number up to which frames are not kept.
    pub confirmed: u64,
    /// The frames after it, in order.
    pub frames: Vec<Unparked>,
    /// Replies among them whose offsets are held back here.
    pub holds: Vec<(Frame, Hold)>,
    /// Requests in flight.
    pub in_flight: Vec<(ClientId, InFlight)>,
}

impl Owed {
    fn park(&mut self, in_flight: &HashMap<ClientId, InFlight>) -> Unparked {
        self.backing = Backing::OnItsWay;
        let ends = self.ends.as_ref().and_then(|id| in_flight.get(id));
        let request = ends.map(|known| known.request);
        Unparked { seq: self.seq, request, frame: self.frame.clone() }
    }
}

impl State {
    fn is_held(&self) -> bool {
        matches!(self.phase, Phase::Attached | Phase::Detached { .. })
    }

    fn closing_of(&self, connection: ConnectionId) -> Option<CloseCode> {
        match self.connection == connection {
            true => self.closing,
            false => Some(CloseCode::Resumed),
        }
    }

    fn confirm(&mut self, seq: u64) -> Confirmed {
        let mut confirmed = Confirmed::default();
        // What has no number goes with what was taken before it; if it still waits, it is not there.
        let is_over = |owed: &Owed, taken| owed.seq <= seq && (owed.seq > 0 || taken > 0);
        while self.owed.front().is_some_and(|owed| is_over(owed, self.taken)) {
            let trim = self
                .owed
                .front()
                .map_or(0, |owed| if owed.backing == Backing::None { 0 } else { owed.seq });
            confirmed.trim = confirmed.trim.max(trim);
            if let Some(Frame::Receipt { request, .. }) = self.owed.front().map(|owed| &owed.frame)
            {
                confirmed.receipts.push(*request);
            }
            confirmed.over.extend(self.drop_front());
        }
        self.shrink();
        self.close_if_drained();
        confirmed
    }

    /// Drops the oldest frame, which the client has or will never get; the request that is over
    /// with it.
    fn drop_front(&mut self) -> Option<RequestId> {
        let owed = self.owed.pop_front()?;
        let weight = owed.frame.weight();
        match self.taken {
            0 => self.waiting_bytes -= weight,
            _ => {
                self.taken -= 1;
                self.taken_bytes -= weight;
            }
        }
        self.written = self.written.saturating_sub(1);
        self.confirmed = self.confirmed.max(owed.seq);
        if let Some(hold) = owed.hold {
            hold.done();
        }
        let known = self.in_flight.remove(&owed.ends?)?;
        Some(known.request)
    }

    /// Bounds what is kept of written frames that nobody acknowledges.
    fn drop_oldest(&mut self) {
        while self.written > KEPT_FRAMES_MAX
            || (self.taken_bytes > KEPT_BYTES_MAX && self.written > 0)
        {
            self.drop_front();
        }
    }

    /// Nobody acknowledges what has no number, so it goes once it is written.
    fn drop_unnumbered(&mut self) {
        while self.written > 0 && self.owed.front().is_some_and(|owed| owed.seq == 0) {
            self.drop_front();
        }
    }

    /// Every frame after this number waits again, but for those that were for the former
    /// connection alone.
    fn rewind(&mut self, last_seq: u64) {
        self.owed.retain(|owed| owed.seq > 0);
        self.taken = self.owed.partition_point(|owed| owed.seq <= last_seq);
        self.written = self.taken;
        let weight = |owed: &Owed| owed.frame.weight();
        self.taken_bytes = self.owed.range(..self.taken).map(weight).sum();
        self.waiting_bytes = self.owed.range(self.taken..).map(weight).sum();
        self.backlog_bytes = self.taken_bytes + self.waiting_bytes;
    }

    /// An idle session holds no memory for queues.
    fn shrink(&mut self) {
        if self.owed.is_empty() {
            self.backlog_bytes = 0;
        }
        if self.owed.is_empty() && self.owed.capacity() > 0 {
            self.owed = VecDeque::new();
        }
        if self.in_flight.is_empty() && self.in_flight.capacity() > 0 {
            self.in_flight = HashMap::new();
        }
    }

    fn close_if_drained(&mut self) {
        let owes = !self.in_flight.is_empty() || self.written < self.owed.len();
        if self.draining && !owes {
            self.close(CloseCode::Draining);
        }
    }

    fn close(&mut self, code: CloseCode) {
        if self.closing.is_none() {
            self.closing = Some(code);
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
