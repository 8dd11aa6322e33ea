//! A session by itself: its frames, its ids, its guards. What any order of events may do to it is
//! in `any_order`.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::{task::Poll, time::Duration};

use bytes::Bytes;
use futures_util::task::{ArcWake, noop_waker, waker};
use registry::RequestId;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    outbox::{KEPT_BYTES_MAX, KEPT_FRAMES_MAX},
    *,
};
use crate::{
    error::{ErrorCode, Failure},
    relay::offsets::{OffsetTracker, Record},
    wire::Reply,
};

mod any_order;
mod change_of_owner;

const WIDE: SessionLimits = SessionLimits {
    outbox_bytes_max: 1 << 30,
    mailbox_bytes_max: 1 << 30,
    mailbox_frames_max: 1 << 20,
    stream_bytes_max: 1 << 30,
};
const LATER: Duration = Duration::from_secs(3600);

#[derive(Default)]
struct Count(AtomicUsize);

impl ArcWake for Count {
    fn wake_by_ref(this: &Arc<Self>) {
        this.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn beginning(epoch: u64, last_seq: u64) -> Beginning {
    let token = Token::random(SessionId::from_bytes([7; 16]));
    Beginning { epoch, token, former_token: None, last_seq }
}

fn with_limits(is_reliable: bool, limits: SessionLimits) -> Session {
    Session::new(SessionId::from_bytes([7; 16]), is_reliable, limits, beginning(1, 0))
}

fn reliable() -> Session {
    with_limits(true, WIDE)
}

fn plain() -> Session {
    with_limits(false, WIDE)
}

fn id(number: usize) -> ClientId {
    ClientId::from_json(&number.to_string()).unwrap()
}

fn request(number: usize) -> RequestId {
    RequestId::from_uuid(Uuid::from_u128(number as u128))
}

fn response(number: usize, bytes: usize) -> Frame {
    let reply = Reply { payload: Bytes::from(vec![b'x'; bytes]), ..Reply::default() };
    Frame::Response { id: id(number), request: request(number), reply }
}

fn receipt(number: usize) -> Frame {
    let (id, request, topic) = (id(number), request(number), "topic".into());
    Frame::Receipt { id, request, topic, partition: 0, offset: 0, is_deletable: false }
}

fn in_flight(number: usize) -> InFlight {
    InFlight {
        request: request(number),
        digest: Digest(1),
        service: "service".into(),
        deadline: Instant::now(),
        has_ended: false,
        is_unconfirmed: false,
    }
}

/// Pushes a request's last frame.
fn end(session: &Session, number: usize) -> Pushed {
    session.push(response(number, 1), Some(id(number)), None)
}

fn next_of(session: &Session, connection: ConnectionId) -> Option<Duty> {
    match session.on(connection).poll_duty(&mut Context::from_waker(&noop_waker())) {
        Poll::Ready(duty) => Some(duty),
        Poll::Pending => None,
    }
}

fn next(session: &Session) -> Option<Duty> {
    next_of(session, session.connection())
}

/// The number that a frame's text carries; 0: none.
fn seq_of(text: &str) -> u64 {
    let value: serde_json::Value = serde_json::from_str(text).unwrap();
    value.get("seq").map_or(0, |seq| seq.as_u64().unwrap())
}

/// The numbers of all frames that the connection takes now.
fn seqs(session: &Session) -> Vec<u64> {
    std::iter::from_fn(|| match next(session)? {
        Duty::Write(frame) => Some(seq_of(&frame.text())),
        Duty::Close(_) => None,
    })
    .collect()
}

fn write_all(session: &Session) -> Vec<u64> {
    let seqs = seqs(session);
    session.on(session.connection()).flushed();
    seqs
}

fn closing(session: &Session) -> Option<CloseCode> {
    match next(session) {
        Some(Duty::Close(closing)) => Some(closing.code),
        Some(Duty::Write(_)) | None => None,
    }
}

fn soon() -> Instant {
    Instant::now() + LATER
}

fn parked_seqs(frames: &[Unparked]) -> Vec<u64> {
    frames.iter().map(|frame| frame.seq).collect()
}

#[test]
fn frames_are_numbered_in_order_and_pongs_are_not() {
    let session = reliable();
    assert!(matches!(end(&session, 1), Pushed::Watch));
    assert!(matches!(session.push(Frame::Pong { id: None }, None, None), Pushed::Queued));
    assert!(matches!(end(&session, 2), Pushed::Queued), "it is watched already");
    assert_eq!(write_all(&session), [1, 0, 2]);
    assert_eq!(session.written(), (2, 3));
}

#[test]
fn one_frame_always_fits_and_the_next_closes_and_stays() {
    for session in [true, false].map(|is_reliable| {
        with_limits(is_reliable, SessionLimits { outbox_bytes_max: 100, ..WIDE })
    }) {
        session.push(response(1, 1000), None, None);
        session.push(response(2, 1), None, None);
        let waiting_bytes = Some(response(1, 1000).weight() + response(2, 1).weight());
        let expected = Closing { code: CloseCode::SlowConsumer, waiting_bytes };
        assert!(matches!(next(&session), Some(Duty::Close(closing)) if closing == expected));
        session.push(response(3, 1), None, None);
        assert!(session.on(session.connection()).detach());
        assert!(session.ownership().resume(0, beginning(2, 0)).is_some());
        assert_eq!(write_all(&session), [1, 2, 3]);
    }
}

#[test]
fn what_a_plain_client_has_taken_makes_room_and_a_reliable_one_has_to_say_so() {
    let limits = SessionLimits { outbox_bytes_max: 1000, ..WIDE };
    let (plain, reliable) = (with_limits(false, limits), with_limits(true, limits));
    for number in 1..100 {
        plain.push(response(number, 500), None, None);
        assert_eq!(seqs(&plain).len(), 1);
        reliable.push(response(number, 500), None, None);
        assert_eq!(write_all(&reliable), [number as u64]);
        reliable.confirm(number as u64);
    }
    assert_eq!((closing(&plain), closing(&reliable)), (None, None));
    reliable.push(response(1, 500), None, None);
    assert_eq!(write_all(&reliable), [100]);
    reliable.push(response(1, 500), None, None);
    assert_eq!(closing(&reliable), Some(CloseCode::SlowConsumer));
}

#[test]
fn a_waiting_connection_is_woken_once_by_a_push_and_by_a_close() {
    let session = reliable();
    let wakes = Arc::new(Count::default());
    let waker = waker(Arc::clone(&wakes));
    let mut context = Context::from_waker(&waker);
    let connection = session.connection();
    assert!(session.on(connection).poll_duty(&mut context).is_pending());
    end(&session, 1);
    end(&session, 2);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    assert_eq!(seqs(&session), [1, 2]);
    assert!(session.on(connection).poll_closing(&mut context).is_pending());
    session.close(CloseCode::Draining);
    session.close(CloseCode::Internal);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
    assert_eq!(closing(&session), Some(CloseCode::Draining), "the first reason stands");
}

#[test]
fn a_connection_that_is_resumed_elsewhere_is_woken_and_closes() {
    let session = reliable();
    let wakes = Arc::new(Count::default());
    let waker = waker(Arc::clone(&wakes));
    let former = session.connection();
    assert!(session.on(former).poll_duty(&mut Context::from_waker(&waker)).is_pending());
    end(&session, 1);
    let present = session.ownership().resume(0, beginning(2, 0)).unwrap();
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    let closed = next_of(&session, former);
    assert!(matches!(closed, Some(Duty::Close(Closing { code: CloseCode::Resumed, .. }))));
    session.on(former).flushed();
    assert!(!session.on(former).detach(), "it does not count any more");
    assert!(!session.on(former).heard());
    assert!(matches!(next_of(&session, present), Some(Duty::Write(_))));
}

#[test]
fn draining_closes_a_plain_session_once_nothing_is_owed_and_a_reliable_one_at_once() {
    let idle = plain();
    idle.drain();
    assert_eq!(closing(&idle), Some(CloseCode::Draining));

    let busy = plain();
    busy.requests().begin(id(1), in_flight(1)).unwrap();
    busy.drain();
    end(&busy, 1);
    assert_eq!(seqs(&busy), [1]);
    assert_eq!(closing(&busy), None);
    assert_eq!(busy.requests().begin(id(2), in_flight(2)), Err(NotBegun::Draining));
    busy.on(busy.connection()).flushed();
    assert_eq!(closing(&busy), Some(CloseCode::Draining));

    let reliable = reliable();
    reliable.requests().begin(id(1), in_flight(1)).unwrap();
    reliable.drain();
    assert_eq!(closing(&reliable), Some(CloseCode::Draining));
    // Its client asks elsewhere for what is still on its way; a plain one's has to be told.
    assert!(reliable.is_left_behind() && !idle.is_left_behind());
    assert_eq!(reliable.requests().begin(id(2), in_flight(2)), Err(NotBegun::LeftBehind));
    assert_eq!(reliable.requests().count(), 1);
}

#[test]
fn an_id_of_a_plain_session_is_free_once_its_end_is_written() {
    let session = plain();
    assert_eq!(session.requests().known(&id(1), Digest(1)), Known::No);
    session.requests().begin(id(1), in_flight(1)).unwrap();
    assert_eq!(session.requests().known(&id(1), Digest(1)), Known::Joins);
    assert_eq!(session.requests().known(&id(1), Digest(2)), Known::Conflicts);
    end(&session, 1);
    assert_eq!(seqs(&session), [1]);
    assert_eq!(session.requests().known(&id(1), Digest(1)), Known::Joins, "taken is not written");
    session.on(session.connection()).flushed();
    assert_eq!(session.requests().known(&id(1), Digest(1)), Known::No);
    // The frame is still kept; what comes of it later does not concern the id's next request.
    session.requests().begin(id(1), in_flight(2)).unwrap();
    let Confirmed { over, receipts, parts, trim } = session.confirm(1);
    assert!(over.is_empty() && receipts.is_empty() && parts.is_empty() && trim == 0);
    assert_eq!(session.requests().get(&id(1)), Some(request(2)));
}

#[test]
fn an_id_of_a_reliable_session_is_free_once_its_end_is_acknowledged() {
    let session = reliable();
    session.requests().begin(id(1), in_flight(1)).unwrap();
    end(&session, 1);
    assert_eq!(write_all(&session), [1]);
    assert_eq!(session.requests().known(&id(1), Digest(1)), Known::Joins);
    assert_eq!(session.confirm(1).over, [request(1)]);
    assert_eq!(session.requests().known(&id(1), Digest(1)), Known::No);
    assert_eq!(session.requests().count(), 0);
}

#[test]
fn a_refusal_that_its_client_had_not_got_when_it_came_back_is_the_only_end() {
    let tell = |session: &Session, number, code| {
        let failure = Failure::new(code, "");
        let frame = Frame::Error { id: Some(id(number)), request: None, failure, reply: None };
        session.push(frame, None, None)
    };
    let refuse = |session: &Session, number| tell(session, number, ErrorCode::Unavailable);
    let session = reliable();
    refuse(&session, 1);
    refuse(&session, 2);
    assert_eq!(
        session.requests().known(&id(2), Digest(1)),
        Known::No,
        "tried again, as it was told"
    );
    session.on(session.connection()).detach();
    session.ownership().resume(1, beginning(2, 0));
    assert_eq!(session.requests().known(&id(1), Digest(1)), Known::No, "it had this one");
    assert_eq!(session.requests().known(&id(2), Digest(1)), Known::Joins);
    assert_eq!(write_all(&session), [2]);
    assert_eq!(
        session.requests().known(&id(2), Digest(1)),
        Known::Joins,
        "sent before it was read"
    );
    refuse(&session, 3);
    assert_eq!(session.requests().known(&id(3), Digest(1)), Known::No);
    session.confirm(2);
    assert_eq!(session.requests().known(&id(2), Digest(1)), Known::No);

    let former = reliable();
    refuse(&former, 1);
    let frame = former.ownership().hand_over(true).unwrap().frames.remove(0).frame;
    let next = reliable();
    next.ownership().adopt(frame, None);
    next.ownership().skip(0);
    assert_eq!(next.requests().known(&id(1), Digest(1)), Known::Joins, "on another node too");

    let other = reliable();
    tell(&other, 1, ErrorCode::NotFound);
    tell(&other, 2, ErrorCode::Duplicate);
    other.on(other.connection()).detach();
    other.ownership().resume(0, beginning(2, 0));
    for number in [1, 2] {
        assert_eq!(
            other.requests().known(&id(number), Digest(1)),
            Known::No,
            "no request was refused"
        );
    }
}

#[test]
fn a_client_that_acknowledges_nothing_may_ask_again_once_its_refusal_is_sent() {
    let session = plain();
    let failure = Failure::new(ErrorCode::Unavailable, "");
    let refusal = Frame::Error { id: Some(id(1)), request: None, failure, reply: None };
    session.push(refusal, None, None);
    write_all(&session);
    session.on(session.connection()).detach();
    session.ownership().resume(0, beginning(2, 0));
    assert_eq!(
        session.requests().known(&id(1), Digest(1)),
        Known::Joins,
        "it cannot have read that yet"
    );
    assert_eq!(write_all(&session), [1]);
    assert_eq!(session.requests().known(&id(1), Digest(1)), Known::No, "no pong has to come first");
}

#[test]
fn an_unconfirmed_request_is_produced_again_once() {
    let session = reliable();
    session.requests().begin(id(1), InFlight { is_unconfirmed: true, ..in_flight(1) }).unwrap();
    assert_eq!(session.requests().known(&id(1), Digest(2)), Known::Conflicts);
    assert_eq!(session.requests().known(&id(1), Digest(1)), Known::Unconfirmed(request(1)));
    assert_eq!(session.requests().known(&id(1), Digest(1)), Known::Joins);
    session.requests().begin(id(2), InFlight { is_unconfirmed: true, ..in_flight(2) }).unwrap();
    end(&session, 2);
    assert_eq!(session.requests().known(&id(2), Digest(1)), Known::Joins, "it is answered");
}

#[test]
fn resumes_from_every_number_that_is_kept_and_from_no_other() {
    for last_seq in 0..=7 {
        let session = reliable();
        (1..=5).for_each(|number| drop(end(&session, number)));
        write_all(&session);
        session.confirm(2);
        session.on(session.connection()).detach();
        let resumed = session.ownership().resume(last_seq, beginning(2, 0)).is_some();
        assert_eq!(resumed, (2..=5).contains(&last_seq), "{last_seq}");
        if resumed {
            let missed: Vec<u64> = (last_seq + 1..=5).collect();
            assert_eq!(write_all(&session), missed);
            assert_eq!(session.epoch(), 2);
        }
    }
}

#[test]
fn what_was_sent_may_be_acknowledged_and_nothing_else() {
    let session = reliable();
    assert!(session.has_sent(0));
    assert!(!session.has_sent(1));
    (1..=2).for_each(|number| drop(end(&session, number)));
    assert!(matches!(next(&session), Some(Duty::Write(_))));
    assert!(session.has_sent(1), "it may be there before we know that it left");
    assert!(!session.has_sent(2));
    session.confirm(1);
    assert!(session.has_sent(1));
    // After a resume the client may acknowledge what it had got before.
    assert_eq!(seqs(&session), [2]);
    session.on(session.connection()).detach();
    session.ownership().resume(2, beginning(2, 0));
    assert!(session.has_sent(2));
}

#[test]
fn a_pong_is_written_and_then_forgotten() {
    let session = reliable();
    session.push(Frame::Pong { id: None }, None, None);
    session.confirm(0);
    assert_eq!(write_all(&session), [0], "an old acknowledgement does not concern it");
    assert_eq!(session.written(), (0, 0));
}

#[test]
fn a_plain_session_keeps_what_is_written_up_to_a_bound() {
    let session = plain();
    let frames = KEPT_FRAMES_MAX + 10;
    for number in 1..=frames {
        end(&session, number);
    }
    assert_eq!(write_all(&session).len(), frames);
    assert_eq!(session.written(), (frames as u64, KEPT_FRAMES_MAX));
    session.on(session.connection()).detach();
    assert!(session.ownership().resume(9, beginning(2, 0)).is_none());
    assert!(session.ownership().resume(10, beginning(2, 0)).is_some());
    assert_eq!(write_all(&session).len(), KEPT_FRAMES_MAX);

    let bytes = plain();
    for number in 1..=3 {
        bytes.push(response(number, KEPT_BYTES_MAX / 2), Some(id(number)), None);
        assert_eq!(write_all(&bytes), [number as u64]);
    }
    assert_eq!(bytes.written(), (3, 1));
}

#[test]
fn what_waits_for_a_plain_client_is_kept_beyond_the_bound() {
    let session = plain();
    for number in 1..=2 * KEPT_FRAMES_MAX {
        end(&session, number);
    }
    assert!(session.on(session.connection()).detach());
    assert!(session.ownership().resume(0, beginning(2, 0)).is_some());
    assert_eq!(write_all(&session).len(), 2 * KEPT_FRAMES_MAX);
}

#[test]
fn what_a_former_connection_confirms_is_not_taken_from_the_present_one() {
    let session = plain();
    end(&session, 1);
    write_all(&session);
    let former = session.connection();
    assert_eq!(session.on(former).taken(), 1);
    session.on(former).detach();
    let present = session.ownership().resume(0, beginning(2, 0)).unwrap();
    assert_eq!(session.on(former).taken(), 0);
    session.on(former).confirm(1);
    assert_eq!(write_all(&session), [1], "its client has said that it lacks it");
    session.on(present).confirm(1);
    assert_eq!(session.written(), (1, 0));
}

#[test]
fn only_frames_of_this_connection_tell_that_its_welcome_was_read() {
    let session = reliable();
    end(&session, 1);
    end(&session, 2);
    write_all(&session);
    let former = session.connection();
    session.on(former).detach();
    let present = session.ownership().resume(1, beginning(2, 1)).unwrap();
    end(&session, 3);
    assert!(!session.on(present).is_first_sent(3), "not written yet");
    write_all(&session);
    let is_first = |seq| session.on(present).is_first_sent(seq);
    assert_eq!([1, 2, 3, 4].map(is_first), [false, false, true, false]);
    assert!(!session.on(former).is_first_sent(3));
}

#[test]
fn the_last_of_what_was_missed_is_told() {
    for is_reliable in [false, true] {
        let session = with_limits(is_reliable, WIDE);
        (1..=3).for_each(|number| drop(end(&session, number)));
        session.on(session.connection()).detach();
        session.ownership().resume(1, beginning(2, 1)).unwrap();
        end(&session, 4);
        let last: Vec<bool> = std::iter::from_fn(|| match next(&session)? {
            Duty::Write(frame) => Some(frame.is_last_missed()),
            Duty::Close(_) => None,
        })
        .collect();
        assert_eq!(last, [false, !is_reliable, false]);
    }
}
