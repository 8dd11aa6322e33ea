//! What a session is told of requests that do not get into the log.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;

use super::*;
use crate::{
    bus::{OnDelivery, Producer},
    relay::{
        bed::{self, Ground},
        session::{Duty, InFlight},
    },
    wire::ClientFrame,
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
