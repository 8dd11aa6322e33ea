//! One client's session: what is in flight for it, and the bounded queue of frames it is owed.
//!
//! The relay pushes, the connection pulls and says what it has written. Knows no socket: its
//! other end is a [`Waker`].

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Mutex,
    task::{Context, Poll, Waker},
};

use registry::{RequestId, SessionId};

use crate::{
    error::CloseCode,
    tasks::locked,
    wire::{ClientId, Frame},
};

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
    /// Another request is in flight under this id.
    Conflicts,
}

/// One session. Every method is short and takes its lock once.
pub struct Session {
    id: SessionId,
    outbox_bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of the last frame that was queued.
    seq: u64,
    outbox: VecDeque<Queued>,
    outbox_bytes: usize,
    in_flight: HashMap<ClientId, (RequestId, Digest)>,
    closing: Option<CloseCode>,
    /// Closes once nothing is owed any more.
    draining: bool,
    /// The connection, when it has nothing to write.
    waker: Option<Waker>,
}

/// A frame on its way out.
#[derive(Debug)]
pub struct Queued {
    /// Its number; 0 when it has none.
    pub seq: u64,
    /// What it says.
    pub frame: Frame,
    /// The request that it ends, to be reported to [`Session::written`].
    pub ends: Option<ClientId>,
}

/// What a connection has to do for its session.
#[derive(Debug)]
pub enum Duty {
    /// Write this frame.
    Write(Queued),
    /// Close the socket with this code; nothing is written any more.
    Close(CloseCode),
}

impl Session {
    /// A session without a past. `outbox_bytes_max` bounds what it may be owed.
    pub fn new(id: SessionId, outbox_bytes_max: usize) -> Self {
        Self { id, outbox_bytes_max, state: Mutex::default() }
    }

    /// Who this is.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Queues a frame, for the request that it ends if it ends one. Returns false when the session
    /// is closing and the frame is given up; a frame that does not fit closes it with
    /// [`CloseCode::SlowConsumer`]. One frame always fits an empty outbox.
    pub fn push(&self, frame: Frame, ends: Option<ClientId>) -> bool {
        let mut state = locked(&self.state);
        if state.closing.is_some() {
            return false;
        }
        let weight = frame.weight();
        if !state.outbox.is_empty() && state.outbox_bytes + weight > self.outbox_bytes_max {
            state.close(CloseCode::SlowConsumer);
            return false;
        }
        let seq = if frame.is_numbered() {
            state.seq += 1;
            state.seq
        } else {
            0
        };
        state.outbox_bytes += weight;
        state.outbox.push_back(Queued { seq, frame, ends });
        state.wake();
        true
    }

    /// Asks the connection to close. The first reason stands.
    pub fn close(&self, code: CloseCode) {
        let mut state = locked(&self.state);
        if state.closing.is_none() {
            state.close(code);
        }
    }

    /// Asks the connection to close once everything in flight is answered and written.
    pub fn drain(&self) {
        let mut state = locked(&self.state);
        state.draining = true;
        state.close_if_drained();
    }

    /// Why the session is closing, if it is.
    pub fn closing(&self) -> Option<CloseCode> {
        locked(&self.state).closing
    }

    /// The next thing to do for the connection, or a wake-up once there is something.
    pub fn poll_duty(&self, context: &mut Context<'_>) -> Poll<Duty> {
        let mut state = locked(&self.state);
        if let Some(code) = state.closing {
            return Poll::Ready(Duty::Close(code));
        }
        if let Some(queued) = state.outbox.pop_front() {
            state.outbox_bytes -= queued.frame.weight();
            if state.outbox.is_empty() {
                // An idle connection holds no queue.
                state.outbox = VecDeque::new();
            }
            return Poll::Ready(Duty::Write(queued));
        }
        state.register(context);
        Poll::Pending
    }

    /// Why to close, for a connection that cannot write at present; or a wake-up once there is a
    /// reason.
    pub fn poll_closing(&self, context: &mut Context<'_>) -> Poll<CloseCode> {
        let mut state = locked(&self.state);
        match state.closing {
            Some(code) => Poll::Ready(code),
            None => {
                state.register(context);
                Poll::Pending
            }
        }
    }

    /// All frames taken so far have been written, those that ended these requests among them: the
    /// ids are free again.
    pub fn written(&self, ended: impl IntoIterator<Item = ClientId>) {
        let mut state = locked(&self.state);
        for id in ended {
            state.in_flight.remove(&id);
        }
        if state.in_flight.is_empty() {
            state.in_flight = HashMap::new();
            state.close_if_drained();
        }
    }

    /// The number of the last frame that was queued.
    pub fn last_seq(&self) -> u64 {
        locked(&self.state).seq
    }

    /// How many requests are in flight, counting those whose answer is not written yet.
    pub fn in_flight(&self) -> usize {
        locked(&self.state).in_flight.len()
    }

    /// Whether nothing is in flight and nothing is left to write.
    pub fn is_idle(&self) -> bool {
        let state = locked(&self.state);
        state.in_flight.is_empty() && state.outbox.is_empty()
    }

    /// Whether the id is in flight, and for the same request.
    pub fn known(&self, id: &ClientId, digest: Digest) -> Known {
        match locked(&self.state).in_flight.get(id) {
            None => Known::No,
            Some((_, known)) if *known == digest => Known::Joins,
            Some(_) => Known::Conflicts,
        }
    }

    /// The request in flight under an id.
    pub fn request(&self, id: &ClientId) -> Option<RequestId> {
        locked(&self.state).in_flight.get(id).map(|(request, _)| *request)
    }

    /// A request is in flight from now on. Only the connection calls this, after
    /// [`Session::known`] said that the id is free.
    pub fn begin(&self, id: ClientId, request: RequestId, digest: Digest) {
        locked(&self.state).in_flight.insert(id, (request, digest));
    }

    /// The connection is gone: what was in flight for it, and the number of frames that nobody
    /// will read.
    pub fn end(&self) -> (Vec<RequestId>, usize) {
        let mut state = locked(&self.state);
        state.closing.get_or_insert(CloseCode::Normal);
        let unread = std::mem::take(&mut state.outbox).len();
        state.outbox_bytes = 0;
        state.waker = None;
        let in_flight = std::mem::take(&mut state.in_flight);
        (in_flight.into_values().map(|(request, _)| request).collect(), unread)
    }
}

impl State {
    fn close_if_drained(&mut self) {
        let owed = !self.in_flight.is_empty() || !self.outbox.is_empty();
        if self.draining && !owed && self.closing.is_none() {
            self.close(CloseCode::Draining);
        }
    }

    fn close(&mut self, code: CloseCode) {
        self.closing = Some(code);
        self.wake();
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
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use bytes::Bytes;
    use futures_util::task::{ArcWake, waker};
    use uuid::Uuid;

    use super::*;
    use crate::wire::Reply;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl ArcWake for Count {
        fn wake_by_ref(this: &Arc<Self>) {
            this.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn session(outbox_bytes_max: usize) -> Session {
        Session::new(SessionId::random(), outbox_bytes_max)
    }

    fn id(json: &str) -> ClientId {
        ClientId::from_json(json).unwrap()
    }

    fn response(bytes: usize) -> Frame {
        let reply = Reply { payload: Bytes::from(vec![b'1'; bytes]), ..Reply::default() };
        Frame::Response { id: id("1"), request: RequestId::from_uuid(Uuid::nil()), reply }
    }

    fn next(session: &Session) -> Option<Duty> {
        let wakes = Arc::new(Count::default());
        match session.poll_duty(&mut Context::from_waker(&waker(wakes))) {
            Poll::Ready(duty) => Some(duty),
            Poll::Pending => None,
        }
    }

    fn seqs(session: &Session) -> Vec<u64> {
        std::iter::from_fn(|| match next(session)? {
            Duty::Write(queued) => Some(queued.seq),
            Duty::Close(_) => None,
        })
        .collect()
    }

    #[test]
    fn frames_are_numbered_in_order_and_pongs_are_not() {
        let session = session(10_000);
        assert!(session.push(response(1), None));
        assert!(session.push(Frame::Pong { id: None }, None));
        assert!(session.push(response(1), None));
        assert_eq!(seqs(&session), [1, 0, 2]);
        assert_eq!(session.last_seq(), 2);
    }

    #[test]
    fn one_frame_always_fits_and_the_next_closes() {
        let session = session(100);
        assert!(session.push(response(1000), None));
        assert!(!session.push(response(1), None));
        assert_eq!(session.closing(), Some(CloseCode::SlowConsumer));
        assert!(matches!(next(&session), Some(Duty::Close(CloseCode::SlowConsumer))));
        assert!(!session.push(response(1), None), "a closing session takes nothing");
    }

    #[test]
    fn what_has_been_taken_makes_room() {
        let session = session(1000);
        for _ in 0..100 {
            assert!(session.push(response(500), None));
            assert!(next(&session).is_some());
        }
        assert_eq!(session.closing(), None);
    }

    #[test]
    fn an_id_is_taken_until_its_end_is_written() {
        let session = session(1000);
        let (this, other) = (Digest(1), Digest(2));
        assert_eq!(session.known(&id("1"), this), Known::No);
        session.begin(id("1"), RequestId::from_uuid(Uuid::nil()), this);
        assert_eq!(session.known(&id("1"), this), Known::Joins);
        assert_eq!(session.known(&id("1"), other), Known::Conflicts);
        assert_eq!(session.known(&id(r#""1""#), this), Known::No);
        session.push(response(1), Some(id("1")));
        assert_eq!(session.known(&id("1"), this), Known::Joins, "queued is not written");
        assert!(!session.is_idle());
        let Some(Duty::Write(queued)) = next(&session) else { panic!("a frame is queued") };
        session.written(queued.ends);
        assert_eq!(session.known(&id("1"), this), Known::No);
        assert!(session.is_idle());
    }

    #[test]
    fn a_waiting_connection_is_woken_once_by_a_push_and_by_a_close() {
        let session = session(1000);
        let wakes = Arc::new(Count::default());
        let waker = waker(Arc::clone(&wakes));
        let mut context = Context::from_waker(&waker);
        assert!(session.poll_duty(&mut context).is_pending());
        session.push(response(1), None);
        session.push(response(1), None);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert_eq!(seqs(&session), [1, 2]);
        assert!(session.poll_duty(&mut context).is_pending());
        session.close(CloseCode::Draining);
        session.close(CloseCode::Internal);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
        assert_eq!(session.closing(), Some(CloseCode::Draining), "the first reason stands");
    }

    #[test]
    fn a_draining_session_closes_once_nothing_is_owed() {
        let idle = session(1000);
        idle.drain();
        assert_eq!(idle.closing(), Some(CloseCode::Draining));

        let busy = session(1000);
        busy.begin(id("1"), RequestId::from_uuid(Uuid::nil()), Digest(1));
        busy.drain();
        busy.push(response(1), Some(id("1")));
        assert_eq!(busy.closing(), None);
        let Some(Duty::Write(queued)) = next(&busy) else { panic!("a frame is queued") };
        assert_eq!(busy.closing(), None);
        busy.written(queued.ends);
        assert_eq!(busy.closing(), Some(CloseCode::Draining));
    }

    #[test]
    fn an_end_tells_what_is_left() {
        let session = session(1000);
        session.begin(id("1"), RequestId::from_uuid(Uuid::nil()), Digest(1));
        session.push(response(1), None);
        assert_eq!(session.end(), (vec![RequestId::from_uuid(Uuid::nil())], 1));
        assert!(!session.push(response(1), None));
    }
}
