//! Which sessions are whose turn, and when.

use super::*;
use crate::relay::session::{Beginning, SessionLimits, Token};

const WINDOW: Duration = Duration::from_secs(60);
const MANY: usize = 1000;

fn beginning(id: SessionId) -> Beginning {
    Beginning { epoch: 1, token: Token::random(id), former_token: None, last_seq: 0 }
}

fn session(table: &Sessions, number: u8) -> Arc<Session> {
    let id = SessionId::from_bytes([number; 16]);
    let limits = SessionLimits {
        outbox_bytes_max: 1,
        mailbox_bytes_max: 1,
        mailbox_frames_max: 1,
        stream_bytes_max: 1,
    };
    let session = Arc::new(Session::new(id, true, limits, beginning(id)));
    table.add(&session);
    session
}

/// A session that waits for its client from now on.
fn waiting(table: &Sessions, number: u8) -> Arc<Session> {
    let session = session(table, number);
    session.on(session.connection()).detach();
    table.wait_for_client(&session, WINDOW);
    session
}

fn ids(sessions: &[Arc<Session>]) -> Vec<SessionId> {
    sessions.iter().map(|session| session.id()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_window_is_over_unless_the_client_came_back() {
    let table = Sessions::default();
    let (stays_away, comes_back) = (waiting(&table, 1), waiting(&table, 2));
    tokio::time::advance(WINDOW / 2).await;
    let connection = comes_back.ownership().resume(0, beginning(comes_back.id())).unwrap();
    comes_back.on(connection).detach();
    table.wait_for_client(&comes_back, WINDOW);
    assert!(table.due(Instant::now(), MANY).over.is_empty());
    tokio::time::advance(WINDOW / 2).await;
    assert_eq!(ids(&table.due(Instant::now(), MANY).over), [stays_away.id()]);
    assert!(table.due(Instant::now(), MANY).over.is_empty(), "told once");
    tokio::time::advance(WINDOW / 2).await;
    assert_eq!(ids(&table.due(Instant::now(), MANY).over), [comes_back.id()]);
}

#[tokio::test(start_paused = true)]
async fn of_too_many_that_wait_the_oldest_have_waited_long_enough() {
    let table = Sessions::default();
    let all: Vec<_> = (0..5).map(|number| waiting(&table, number)).collect();
    assert_eq!(ids(&table.due(Instant::now(), 3).over), ids(&all[..2]));
}

#[tokio::test(start_paused = true)]
async fn fences_and_watches_are_due_in_their_order() {
    let table = Sessions::default();
    let all: Vec<_> = (0..2).map(|number| session(&table, number)).collect();
    for (session, second) in all.iter().zip(1..) {
        table.wait_for_owner(session, Duration::from_secs(second));
        table.watch(session, Instant::now() + Duration::from_secs(second));
    }
    for session in &all {
        tokio::time::advance(Duration::from_secs(1)).await;
        let due = table.due(Instant::now(), MANY);
        assert_eq!((ids(&due.left), ids(&due.unparked)), (vec![session.id()], vec![session.id()]));
        assert!(due.over.is_empty());
    }
}

#[test]
fn every_session_has_its_turn_once() {
    let table = Sessions::default();
    let mut all = ids(&(0..100).map(|number| session(&table, number)).collect::<Vec<_>>());
    let mut turns: Vec<SessionId> = (0..7).flat_map(|turn| ids(&table.turn(turn, 7))).collect();
    all.sort_unstable_by_key(|id| *id.as_uuid());
    turns.sort_unstable_by_key(|id| *id.as_uuid());
    assert_eq!(all, turns);
}

#[test]
fn a_session_arrives_once_at_a_time() {
    let table = Sessions::default();
    let id = SessionId::from_bytes([1; 16]);
    let arrival = table.expect(id).unwrap();
    assert_eq!(arrival.session(), id);
    assert!(table.expect(id).is_none());
    assert!(table.is_expected(id));
    drop(arrival);
    assert!(!table.is_expected(id));
    assert!(table.expect(id).is_some());
}

#[test]
fn a_session_that_came_back_outlives_the_end_of_its_former_self() {
    let table = Sessions::default();
    let former = session(&table, 1);
    let present = session(&table, 1);
    table.remove(&former);
    assert!(table.get(present.id()).is_some_and(|held| Arc::ptr_eq(&held, &present)));
    table.remove(&present);
    assert!(table.is_empty());
}
