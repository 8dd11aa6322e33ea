//! What a session is told of requests that do not get into the log, or get there twice; and what of a
//! request that has left this node does not get there.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;

use super::*;
use crate::{
    bus::{OnDelivery, Producer},
    relay::{
        Relay,
        bed::{self, Ground},
        session::{Duty, InFlight},
    },
    tasks::locked,
    wire::{ClientFrame, ClientId},
};

/// Has room for so many records, and never says what became of them.
#[derive(Debug)]
struct Room(AtomicUsize);

#[async_trait]
impl Producer for Room {
    fn produce(&self, _: &Outgoing<'_>, _: OnDelivery) -> Result<(), ProduceError> {
        let take = |left: usize| left.checked_sub(1);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.map(drop).map_err(|_| ProduceError::QueueFull)
    }

    fn is_available(&self) -> bool {
        true
    }

    fn outstanding(&self) -> usize {
        0
    }

    async fn flush(&self, _: Duration) {}
}

/// Takes every record, and says what became of it when the test does.
#[derive(Default)]
struct Patient(Mutex<Vec<OnDelivery>>);

impl std::fmt::Debug for Patient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Patient").finish_non_exhaustive()
    }
}

#[async_trait]
impl Producer for Patient {
    fn produce(&self, _: &Outgoing<'_>, on_delivery: OnDelivery) -> Result<(), ProduceError> {
        locked(&self.0).push(on_delivery);
        Ok(())
    }

    fn is_available(&self) -> bool {
        true
    }

    fn outstanding(&self) -> usize {
        locked(&self.0).len()
    }

    async fn flush(&self, _: Duration) {}
}

fn ask(relay: &Relay, session: &Arc<Session>) {
    let text = r#"{"service":"echo","id":1,"receipt":true}"#;
    let Ok(ClientFrame::Request(frame)) = ClientFrame::parse(text) else { unreachable!() };
    relay.requests.submit(session, &frame, || Ok(()));
}

#[tokio::test(start_paused = true)]
async fn of_a_second_record_a_client_is_told_nothing() {
    let producer = Arc::new(Patient::default());
    let relay = bed::relay(Ground { producer: Arc::clone(&producer) as _, ..Ground::default() });
    let (session, connection) = relay.lifecycle.start(false);
    ask(&relay, &session);
    for (id, known) in session.requests().all() {
        session.requests().adopt(id, InFlight { is_unconfirmed: true, ..known });
    }
    ask(&relay, &session);
    let records = std::mem::take(&mut *locked(&producer.0));
    assert_eq!(records.len(), 2);
    for (offset, record) in (0..).zip(records) {
        record.done(Ok(Position { partition: 0, offset }));
    }
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Duty::Write(receipt)) = session.on(connection).poll_duty(&mut context) else {
        panic!("a receipt")
    };
    assert!(receipt.text().contains(r#""offset":0"#), "{}", receipt.text());
    let next = session.on(connection).poll_duty(&mut context);
    assert!(!matches!(next, Poll::Ready(Duty::Write(_))), "{next:?}");
}

/// Its session has left and come back: its client has been told, or asks again.
#[tokio::test(start_paused = true)]
async fn a_record_of_an_earlier_stay_is_not_produced() {
    let producer = Arc::new(Patient::default());
    let relay = bed::relay(Ground { producer: Arc::clone(&producer) as _, ..Ground::default() });
    let (session, _) = relay.lifecycle.start(false);
    ask(&relay, &session);
    let mut record = locked(&producer.0).pop().unwrap();
    record.kept_back();
    assert!(record.is_wanted() && record.goes());
    record.kept_back();

    let pending = &relay.completion.pending;
    let request = session.requests().get(&ClientId::from_json("1").unwrap()).unwrap();
    let mut entry = pending.take(request).unwrap();
    assert_eq!(entry.recording, Recording::Waiting);
    entry.route = Arc::new(Route::clone(&entry.route));
    pending.insert(request, entry);
    assert!(!record.is_wanted() && !record.goes());
    record.done(Err(ProduceError::Unreachable));
    let recording = pending.look(request, |entry| entry.recording);
    assert_eq!(recording, Some(Recording::Waiting), "it waits for its own record");
}

/// What the client of a session is told that sends one request twice, while its node does not know
/// whether the first record is in the log, and has room for so many.
async fn told(records: usize) -> String {
    let producer = Arc::new(Room(AtomicUsize::new(records)));
    let relay = bed::relay(Ground { producer, ..Ground::default() });
    let (session, connection) = relay.lifecycle.start(false);
    let ask = || {
        let text = r#"{"service":"echo","id":1}"#;
        let Ok(ClientFrame::Request(frame)) = ClientFrame::parse(text) else { unreachable!() };
        relay.requests.submit(&session, &frame, || Ok(()));
    };
    ask();
    // As it is with what a dead node has left.
    for (id, known) in session.requests().all() {
        session.requests().adopt(id, InFlight { is_unconfirmed: true, ..known });
    }
    ask();
    let mut context = Context::from_waker(Waker::noop());
    match session.on(connection).poll_duty(&mut context) {
        Poll::Ready(Duty::Write(frame)) => frame.text(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_record_without_room_takes_back_nothing_of_the_first() {
    for (records, recorded) in [(0, "false"), (1, "true")] {
        let told = told(records).await;
        assert!(told.contains(r#""code":"overloaded""#), "{told}");
        assert!(told.contains(&format!(r#""recorded":{recorded}"#)), "{records}: {told}");
    }
}
