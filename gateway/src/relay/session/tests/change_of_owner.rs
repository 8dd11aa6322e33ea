//! A session without a connection, its mailbox, and what it leaves to its next owner.

use super::*;
use crate::wire::Item;

/// A reply whose offset is held back until its frame is safe.
fn end_guarded(session: &Session, number: usize, window: &OffsetTracker) -> Pushed {
    let guard = window.guard(number as i64, Record::sized(1));
    session.push(response(number, 1), Some(id(number)), Some(guard))
}

fn away() -> Session {
    let session = reliable();
    session.on(session.connection()).detach();
    session
}

#[test]
fn a_hold_is_done_when_the_client_has_the_frame() {
    let (session, window) = (reliable(), OffsetTracker::default());
    session.requests().begin(id(1), in_flight(1)).unwrap();
    assert!(matches!(end_guarded(&session, 1, &window), Pushed::Watch));
    assert!(session.mailbox().is_unsafe(request(1), &Item::default()));
    write_all(&session);
    assert_eq!(window.committable(), Some(1), "written is not acknowledged");
    session.confirm(1);
    assert_eq!(window.committable(), Some(2));
    assert!(!session.mailbox().is_unsafe(request(1), &Item::default()));
}

#[test]
fn a_hold_is_done_when_the_mailbox_has_the_frame() {
    let (session, window) = (away(), OffsetTracker::default());
    assert!(matches!(end_guarded(&session, 1, &window), Pushed::Away));
    let unparked = session.mailbox().unparked(Instant::now() - LATER);
    assert_eq!(parked_seqs(&unparked), [1]);
    assert_eq!(window.committable(), Some(1), "on its way is not there");
    assert!(session.mailbox().unparked(soon()).is_empty(), "once is enough");
    assert!(session.mailbox().is_unsafe(request(1), &Item::default()));
    session.mailbox().parked(&[1]);
    assert_eq!(window.committable(), Some(2));
    assert!(!session.mailbox().is_unsafe(request(1), &Item::default()));
    assert_eq!(session.confirm(1).trim, 1, "the mailbox has to forget it");
}

#[test]
fn what_was_taken_over_belongs_into_the_mailbox() {
    let session = reliable();
    session.requests().begin(id(1), in_flight(1)).unwrap();
    session.ownership().adopt(response(1, 1), Some(id(1)));
    assert!(
        session.mailbox().is_unsafe(request(1), &Item::default()),
        "a new owner's copy begins without it"
    );
    let mailbox = session.mailbox().all();
    assert_eq!(parked_seqs(&mailbox), [1]);
    assert!(session.mailbox().unparked(soon()).is_empty(), "it is on its way");
    session.mailbox().parked(&[1]);
    assert!(!session.mailbox().is_unsafe(request(1), &Item::default()));
    assert_eq!(session.confirm(1).trim, 1, "the mailbox has to forget it");
}

#[test]
fn while_a_client_is_there_only_last_frames_are_parked_and_only_late() {
    let session = reliable();
    session.requests().begin(id(1), in_flight(1)).unwrap();
    session.push(receipt(1), None, None);
    assert!(session.mailbox().unparked(soon()).is_empty());
    end(&session, 1);
    assert!(session.mailbox().unparked(Instant::now() - LATER).is_empty());
    assert!(session.mailbox().unwatch().is_some());
    let unparked = session.mailbox().unparked(soon());
    assert_eq!(parked_seqs(&unparked), [2]);
    assert_eq!(unparked[0].request, Some(request(1)));
    assert_eq!(session.mailbox().unwatch(), None);
    assert!(matches!(end(&session, 2), Pushed::Watch), "another one is watched anew");
}

#[test]
fn a_mailbox_that_is_written_anew_gets_what_it_had_or_all_while_the_client_is_away() {
    let session = reliable();
    session.push(receipt(1), None, None);
    end(&session, 1);
    session.push(Frame::Pong { id: None }, None, None);
    assert!(session.mailbox().all().is_empty());
    session.mailbox().unparked(soon());
    assert_eq!(parked_seqs(&session.mailbox().all()), [2]);
    session.on(session.connection()).detach();
    assert_eq!(parked_seqs(&session.mailbox().all()), [1, 2]);
}

#[test]
fn too_much_without_a_connection_overflows() {
    let limits = SessionLimits { mailbox_frames_max: 2, ..WIDE };
    let (session, window) = (with_limits(true, limits), OffsetTracker::default());
    end(&session, 1);
    session.on(session.connection()).detach();
    assert!(matches!(end(&session, 2), Pushed::Away));
    assert!(matches!(session.push(Frame::Pong { id: None }, None, None), Pushed::Queued));
    assert!(matches!(end(&session, 3), Pushed::Away), "what was there before does not count");
    let Pushed::Overflowed(_, _, guard) = end_guarded(&session, 4, &window) else {
        panic!("it fits")
    };
    assert_eq!(window.committable(), Some(4), "another node may hold the session by now");
    guard.unwrap().done();

    let bytes = with_limits(false, SessionLimits { mailbox_bytes_max: 1000, ..WIDE });
    bytes.on(bytes.connection()).detach();
    assert!(matches!(bytes.push(response(1, 500), None, None), Pushed::Away));
    assert!(matches!(bytes.push(response(2, 500), None, None), Pushed::Overflowed(..)));
}

#[test]
fn waits_for_the_client_of_its_last_connection() {
    let session = reliable();
    let first = session.connection();
    assert!(!session.on(first).is_waiting_since());
    assert!(session.on(first).detach());
    assert!(!session.on(first).detach());
    assert!(session.on(first).is_waiting_since());
    let second = session.ownership().resume(0, beginning(2, 0)).unwrap();
    assert!(!session.on(first).is_waiting_since());
    session.on(second).detach();
    assert!(!session.on(first).is_waiting_since(), "its window has begun anew");
    assert!(session.on(second).is_waiting_since());
}

#[test]
fn a_token_is_good_until_its_successor_was_heard_of() {
    let session = reliable();
    let node = registry::NodeRef { id: registry::NodeId::parse("gw-1").unwrap(), incarnation: 1 };
    let former = session.token();
    let next = Beginning { former_token: Some(former.clone()), ..beginning(2, 0) };
    let connection = session.ownership().resume(0, next).unwrap();
    let record = session.ownership().record(&node).unwrap();
    assert_eq!(record.former_token, Some(former.hash()));
    assert_eq!((record.token, record.epoch), (session.token().hash(), 2));
    assert!(session.on(connection).heard());
    assert!(!session.on(connection).heard(), "it is told once");
    assert_eq!(session.ownership().record(&node).unwrap().former_token, None);
    session.ownership().fence(CloseCode::Draining);
    assert!(session.ownership().record(&node).is_none(), "it is another node's");
}

#[test]
fn hands_over_everything_and_nothing_twice() {
    let (session, window) = (reliable(), OffsetTracker::default());
    for number in 1..=3 {
        session.requests().begin(id(number), in_flight(number)).unwrap();
    }
    session.push(receipt(1), None, None);
    end_guarded(&session, 1, &window);
    write_all(&session);
    session.push(Frame::Pong { id: None }, None, None);
    end_guarded(&session, 2, &window);
    session.confirm(1);

    let left = session.ownership().hand_over(true).unwrap();
    assert_eq!((left.confirmed, left.seq), (1, 3));
    assert_eq!(parked_seqs(&left.frames), [2, 3]);
    let ends: Vec<_> = left.frames.iter().map(|frame| frame.request).collect();
    assert_eq!(ends, [Some(request(1)), Some(request(2))]);
    assert_eq!((left.guards.len(), left.in_flight.len()), (2, 3));
    assert_eq!(window.committable(), Some(1), "the offsets are held back still");
    assert!(session.ownership().hand_over(true).is_none());
    assert_eq!(closing(&session), Some(CloseCode::Resumed));

    let guard = window.guard(9, Record::sized(1));
    let pushed = session.push(response(3, 1), Some(id(3)), Some(guard));
    assert!(matches!(pushed, Pushed::Moved(_, Some(_))));
}

#[test]
fn its_next_owner_goes_on_with_the_same_numbers() {
    let former = reliable();
    (1..=4).for_each(|number| drop(end(&former, number)));
    write_all(&former);
    former.confirm(1);
    let left = former.ownership().hand_over(true).unwrap();
    let next = Session::new(former.id(), true, WIDE, beginning(2, left.confirmed));
    left.frames.into_iter().for_each(|left| next.ownership().adopt(left.frame, None));
    next.ownership().skip(3);
    assert_eq!(write_all(&next), [4]);
    next.push(receipt(5), None, None);
    assert_eq!(write_all(&next), [5]);
    assert!(next.has_sent(5));
    next.confirm(5);
    assert_eq!(next.written(), (5, 0));
}

#[test]
fn a_fenced_session_closes_takes_frames_and_is_no_ones_to_resume() {
    let session = reliable();
    assert!(session.ownership().fence(CloseCode::Draining));
    assert!(!session.ownership().fence(CloseCode::Draining));
    assert!(!session.is_held());
    assert!(session.ownership().resume(0, beginning(3, 0)).is_none());
    assert!(!session.on(session.connection()).detach());
    assert!(matches!(end(&session, 1), Pushed::Queued), "its next owner may ask for it");
    assert_eq!(parked_seqs(&session.ownership().hand_over(true).unwrap().frames), [1]);
}

#[test]
fn an_end_tells_what_is_left_and_lets_no_offset_go_by_itself() {
    let (session, window) = (reliable(), OffsetTracker::default());
    for number in 1..=3 {
        session.requests().begin(id(number), in_flight(number)).unwrap();
    }
    end_guarded(&session, 1, &window);
    write_all(&session);
    end_guarded(&session, 2, &window);
    let Ended { requests, unread, held } = session.end();
    assert_eq!((requests, unread), (vec![request(1), request(2), request(3)], 1));
    let ended: Vec<_> = held.iter().filter_map(|(frame, _)| frame.ends()).collect();
    assert_eq!((ended, window.committable()), (vec![request(1), request(2)], Some(1)));
    held.into_iter().for_each(|(_, guard)| guard.done());
    let Pushed::Ended(_, guard) = end_guarded(&session, 3, &window) else { panic!("it goes on") };
    assert_eq!(window.committable(), Some(3));
    guard.unwrap().done();
    assert_eq!(window.committable(), Some(4));
}
