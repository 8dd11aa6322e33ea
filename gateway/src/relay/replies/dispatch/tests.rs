//! The reader with the whole relay behind it, record by record: what becomes of their offsets.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use async_trait::async_trait;
use registry::RequestId;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    bus::{
        BusEvent, ConsumerControl, Lag, OnDelivery, Outgoing, ProduceError, Producer, Trouble,
        Unreadable, UnreadableReason,
    },
    peer::Verdict,
    relay::{
        Relay,
        bed::{self, Ground},
        reading::{Reader, TICK},
        session::{ConnectionId, Duty, Session},
    },
    tasks::locked,
    wire::{ClientFrame, ClientId, Item},
};

/// Takes records and never says that the broker has them.
#[derive(Debug)]
struct Mute;

#[async_trait]
impl Producer for Mute {
    fn produce(&self, _: &Outgoing<'_>, _: OnDelivery) -> Result<(), ProduceError> {
        Ok(())
    }

    fn is_available(&self) -> bool {
        true
    }

    fn outstanding(&self) -> usize {
        0
    }

    async fn flush(&self, _: Duration) {}
}

/// What the reader has told its consumer.
#[derive(Debug, Default)]
struct Told {
    stored: Mutex<HashMap<i32, i64>>,
    paused: Mutex<Vec<i32>>,
}

impl ConsumerControl for Told {
    fn store(&self, partition: i32, offset: i64) {
        locked(&self.stored).insert(partition, offset);
    }

    fn pause(&self, partition: i32) {
        locked(&self.paused).push(partition);
    }

    fn resume(&self, partition: i32) {
        locked(&self.paused).retain(|paused| *paused != partition);
    }

    fn rewind(&self, _: i32) -> bool {
        false
    }

    fn topic_id(&self) -> Option<String> {
        None
    }

    fn partition_count(&self) -> Option<i32> {
        Some(12)
    }

    fn lag(&self) -> Vec<Lag> {
        Vec::new()
    }

    fn troubles(&self) -> Vec<Trouble> {
        Vec::new()
    }
}

/// A node that is alone, and what it reads.
struct Bed {
    relay: Arc<Relay>,
    reader: Reader<Dispatch>,
    told: Arc<Told>,
    next: HashMap<i32, i64>,
}

impl Bed {
    /// A node that reads so many partitions.
    async fn new(partitions: i32) -> Self {
        let relay = bed::relay(Ground { producer: Arc::new(Mute), ..Ground::default() });
        relay.start(&CancellationToken::new());
        let told = Arc::new(Told::default());
        let (mut reader, _) = relay.reader("replies", relay.replies(), Arc::clone(&told) as _);
        let all: Vec<i32> = (0..partitions).collect();
        reader.on_event(BusEvent::Assigned(&all));
        // Long enough to know the node table.
        tokio::time::sleep(Duration::from_secs(12)).await;
        Self { relay, reader, told, next: HashMap::new() }
    }

    /// A request of a reliable session that wants a receipt, and will not get it.
    async fn ask(&self) -> (Arc<Session>, ConnectionId, RequestId) {
        let (session, connection) = self.relay.lifecycle.start(true);
        let text = r#"{"service":"echo","id":1,"receipt":true}"#;
        let Ok(ClientFrame::Request(frame)) = ClientFrame::parse(text) else { unreachable!() };
        self.relay.requests.submit(&session, &frame, || Ok(()));
        let id = ClientId::from_json("1").unwrap();
        let request = session.requests().get(&id).expect("it was taken");
        tokio::time::sleep(Duration::from_millis(500)).await;
        (session, connection, request)
    }

    fn read(&mut self, partition: i32, request: RequestId, value: &[u8]) {
        let next = self.next.entry(partition).or_default();
        let (offset, mut key) = (*next, [0; 36]);
        *next += 1;
        let key = Some(request.encode(&mut key).as_bytes());
        let value = Some(value);
        let record = Incoming { partition, offset, key, value, headers: &[], at_ms: None };
        self.reader.on_event(BusEvent::Record(record));
    }

    /// Lets time pass, with what the reader does in it.
    async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.reader.housekeep();
            tokio::time::sleep(TICK).await;
        }
    }

    fn stored(&self, partition: i32) -> i64 {
        locked(&self.told.stored).get(&partition).copied().unwrap_or_default()
    }

    fn metric(&self, name: &str) -> Option<f64> {
        let text = self.relay.telemetry.render();
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.map(|value| value.parse().unwrap())
    }

    fn oldest(&self, partition: i32) -> Option<f64> {
        let labels = format!(r#"{{topic="replies",partition="{partition}"}}"#);
        self.metric(&format!("roundtrip_oldest_unhandled_seconds{labels}"))
    }
}

/// Writes all that the session is owed.
fn write(session: &Session, connection: ConnectionId) -> Vec<String> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut texts = Vec::new();
    while let std::task::Poll::Ready(Duty::Write(frame)) =
        session.on(connection).poll_duty(&mut context)
    {
        texts.push(frame.text());
    }
    session.on(connection).flushed();
    texts
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_request_whose_reply_was_early_holds_no_offset_back() {
    let mut bed = Bed::new(1).await;
    let (session, connection, request) = bed.ask().await;
    bed.read(0, request, b"1");
    bed.pass(TICK * 3).await;
    assert!(write(&session, connection).is_empty(), "the reply waits for the receipt");
    assert_eq!(bed.stored(0), 0);
    assert!(bed.relay.completion.cancel(request));
    let told = write(&session, connection);
    assert!(told.len() == 1 && told[0].contains(r#""code":"cancelled""#), "{told:?}");
    bed.relay.completion.confirm(&session, 1);
    bed.pass(TICK * 3).await;
    assert_eq!(bed.stored(0), 1);
    assert_eq!(bed.metric("roundtrip_replies_handled_again_total"), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_with_an_early_reply_holds_no_offset_back() {
    let mut bed = Bed::new(1).await;
    let (session, connection, request) = bed.ask().await;
    bed.read(0, request, b"1");
    bed.relay.lifecycle.end(&session, connection);
    bed.pass(TICK * 3).await;
    assert_eq!(bed.stored(0), 1);
    assert_eq!(bed.metric("roundtrip_replies_handled_again_total"), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn a_reply_for_a_session_whose_end_is_not_written_yet_has_to_wait() {
    let bed = Bed::new(1).await;
    let (session, connection, request) = bed.ask().await;
    bed.relay.lifecycle.end(&session, connection);
    let whereabouts =
        || bed.relay.forwarding.whereabouts(request, Some(session.id()), &Item::default());
    assert_eq!(whereabouts(), Verdict::Later, "else it would be parked for a session that is over");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(whereabouts(), Verdict::Unknown);
}

#[tokio::test(start_paused = true)]
async fn whoever_has_claimed_a_session_just_before_its_end_is_told_of_that() {
    let bed = Bed::new(1).await;
    let (session, connection, _) = bed.ask().await;
    bed.relay.lifecycle.end(&session, connection);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let epochs = session.epoch()..session.epoch() + 1;
    let released = bed.relay.leaving.release(session.id(), epochs.clone()).await;
    assert!(released.is_some(), "nothing at all would mean: take the copy");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(bed.relay.leaving.release(session.id(), epochs).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_dropped_is_handled_again() {
    let mut bed = Bed::new(1).await;
    let (_session, _, request) = bed.ask().await;
    bed.read(0, request, b"1");
    drop(bed.relay.completion.pending.take(request));
    bed.pass(TICK * 3).await;
    assert_eq!(bed.metric("roundtrip_replies_handled_again_total"), Some(1.0));
    bed.pass(Duration::from_secs(3)).await;
    assert_eq!(bed.stored(0), 1, "found to be nobody's any more, and not before");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_has_stopped_stores_nothing_that_is_dropped_later() {
    let mut bed = Bed::new(1).await;
    let (_session, _, request) = bed.ask().await;
    bed.read(0, request, b"1");
    bed.reader.store();
    let Bed { relay, reader, told, .. } = bed;
    drop(reader);
    drop(relay.completion.pending.take(request));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(locked(&told.stored).get(&0), Some(&0));
}

#[tokio::test(start_paused = true)]
async fn the_oldest_unhandled_reply_shows_from_assignment_to_revocation() {
    let mut bed = Bed::new(2).await;
    assert_eq!((bed.oldest(0), bed.oldest(1)), (Some(0.0), Some(0.0)));
    let (session, connection, request) = bed.ask().await;
    bed.read(1, request, b"1");
    bed.pass(Duration::from_secs(3)).await;
    assert_eq!(bed.oldest(0), Some(0.0));
    assert!(bed.oldest(1).is_some_and(|age| (2.5..3.5).contains(&age)), "{:?}", bed.oldest(1));
    assert!(bed.metric("roundtrip_unhandled_bytes").is_some_and(|bytes| bytes > 0.0));
    bed.relay.lifecycle.end(&session, connection);
    bed.pass(TICK * 3).await;
    assert_eq!((bed.oldest(1), bed.metric("roundtrip_unhandled_bytes")), (Some(0.0), Some(0.0)));
    bed.reader.on_event(BusEvent::Revoked { partitions: &[1], lost: false });
    bed.pass(TICK * 3).await;
    assert_eq!((bed.oldest(0), bed.oldest(1)), (Some(0.0), None));
}

#[tokio::test(start_paused = true)]
async fn partitions_that_fill_the_nodes_window_are_paused_and_the_others_are_not() {
    let mut bed = Bed::new(8).await;
    // Nobody's, so they wait for seconds to be sure of it.
    let foreign = |number: u128| RequestId::from_uuid(uuid::Uuid::from_u128(number));
    let value = vec![b'x'; 1024 * 1024];
    for number in 0..60 {
        bed.read(number % 4, foreign(u128::from(number.unsigned_abs())), &value);
    }
    let paused = locked(&bed.told.paused).clone();
    assert!((0..4).all(|partition| paused.contains(&partition)), "{paused:?}");
    bed.read(7, foreign(1000), &value);
    assert!(!locked(&bed.told.paused).contains(&7), "what waits elsewhere stops nobody");
    let hits = bed.metric(r#"roundtrip_limit_hits_total{limit="window_node"}"#);
    assert!(hits.is_some_and(|hits| hits >= 4.0), "{hits:?}");
    bed.pass(Duration::from_secs(30)).await;
    assert!(locked(&bed.told.paused).is_empty(), "there is room again");
    assert_eq!((bed.stored(0), bed.stored(7)), (15, 1));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_cannot_be_read_is_passed_and_counted() {
    let mut bed = Bed::new(1).await;
    let (session, connection, request) = bed.ask().await;
    bed.read(0, request, b"1");
    let batch = Unreadable {
        topic: "replies".to_owned(),
        partition: 0,
        offset: 1,
        next: Some(4),
        reason: UnreadableReason::Corrupt,
        cause: "failed CRC32C check".to_owned(),
    };
    bed.reader.on_event(BusEvent::Unreadable(&batch));
    bed.reader.housekeep();
    assert_eq!(bed.stored(0), 0, "the reply before it is not handled");
    bed.relay.lifecycle.end(&session, connection);
    bed.pass(TICK * 3).await;
    assert_eq!(bed.stored(0), 4);
    // librdkafka had stepped over this one by itself.
    let earlier = Unreadable { offset: 0, next: Some(1), ..batch };
    bed.reader.on_event(BusEvent::Unreadable(&earlier));
    bed.reader.housekeep();
    assert_eq!(bed.stored(0), 4);
    let labels = r#"{topic="replies",partition="0",reason="corrupt"}"#;
    assert_eq!(bed.metric(&format!("roundtrip_consumer_errors_total{labels}")), Some(2.0));
}

#[tokio::test(start_paused = true)]
async fn a_topic_made_anew_is_handled_from_its_beginning() {
    let mut bed = Bed::new(1).await;
    let nobody = RequestId::from_uuid(uuid::Uuid::from_u128(7));
    for _ in 0..9 {
        bed.read(0, nobody, b"1");
    }
    bed.pass(Duration::from_secs(1)).await;
    assert_eq!(bed.stored(0), 9);
    let (_session, _, request) = bed.ask().await;
    bed.read(0, request, b"of the former topic");

    bed.next.clear();
    bed.reader.on_event(BusEvent::Rewound(&[0]));
    bed.read(0, nobody, b"1");
    bed.pass(Duration::from_secs(1)).await;
    assert_eq!(bed.stored(0), 1, "what waited in the former topic holds nothing back");

    // Where nobody has said so, the offsets do.
    bed.read(0, nobody, b"1");
    bed.pass(Duration::from_secs(1)).await;
    assert_eq!(bed.stored(0), 2);
    bed.next.clear();
    bed.read(0, nobody, b"1");
    bed.pass(Duration::from_secs(1)).await;
    assert_eq!(bed.stored(0), 1);
}
