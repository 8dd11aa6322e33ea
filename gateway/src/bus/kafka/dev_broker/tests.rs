//! The Kafka bus against the broker in process: the list of all buses, and what only Kafka can do.

use std::{
    cell::RefCell,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord},
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use tokio::time::Instant;

use super::*;
use crate::bus::{
    Consumer, Position, ProduceError, Producer,
    conformance::{Bed, Reader, checks, eventually, plain, write},
    kafka::{consumer::KafkaConsumer, producer::KafkaProducer},
};

struct Dev {
    broker: DevBroker,
    topics: AtomicU32,
}

fn dev() -> Dev {
    Dev { broker: DevBroker::start(&[]).unwrap(), topics: AtomicU32::new(0) }
}

#[async_trait(?Send)]
impl Bed for Dev {
    fn producer(&self, queue: usize) -> Arc<dyn Producer> {
        let mut settings = self.broker.settings();
        settings.properties.extend([
            ("queue.buffering.max.messages".to_owned(), queue.to_string()),
            // Longer than a check waits: what was taken is not to end before.
            ("message.timeout.ms".to_owned(), "120000".to_owned()),
        ]);
        Arc::new(KafkaProducer::start(&settings).unwrap())
    }

    fn consumer(&self, group: &str, topic: &str) -> Box<dyn Consumer> {
        Box::new(KafkaConsumer::start(&self.broker.settings(), group, topic).unwrap())
    }

    async fn topic(&self, partitions: i32) -> String {
        let topic = format!("topic-{}", self.topics.fetch_add(1, Ordering::Relaxed));
        self.broker.create_topic(&topic, partitions).unwrap();
        topic
    }

    async fn set_reachable(&self, reachable: bool) {
        self.broker.set_reachable(reachable).unwrap();
    }
}

checks!(bed: dev(), doomed: dev());

#[tokio::test]
async fn header_values_can_be_null() {
    let bed = dev();
    let topic = bed.topic(1).await;
    let raw: BaseProducer = bed.broker.settings().client_config(&[], &[]).create().unwrap();
    let headers = OwnedHeaders::new()
        .insert(Header { key: "a", value: None::<&[u8]> })
        .insert(Header { key: "a", value: Some(b"" as &[u8]) });
    let record = BaseRecord::<[u8], [u8]>::to(&topic).payload(b"x").headers(headers);
    raw.send(record).map_err(|(error, _)| error).unwrap();
    let mut reader = Reader::new(bed.consumer("null-header", &topic));
    reader
        .read_until("the record", |reader| {
            raw.poll(Duration::ZERO);
            reader.records().count() == 1
        })
        .await;
    let record = reader.records().next().unwrap();
    assert_eq!(record.headers, [("a".to_owned(), None), ("a".to_owned(), Some(vec![]))]);
}

#[tokio::test]
async fn a_missing_topic_is_waited_for() {
    let bed = dev();
    let mut reader = Reader::new(bed.consumer("early", "late"));
    reader.read(Duration::from_millis(100)).await;
    assert_eq!((reader.seen.len(), reader.consumer.control().partition_count()), (0, None));
    bed.broker.create_topic("late", 2).unwrap();
    write(&*bed.producer(10), &plain("late", 1, b"x")).await;
    reader.read_until("the record", |reader| reader.records().count() == 1).await;
    assert_eq!(reader.assigned.len(), 2);
    assert_eq!(reader.consumer.control().partition_count(), Some(2));
}

#[tokio::test]
async fn lag_is_seen() {
    let bed = dev();
    let (topic, producer) = (bed.topic(1).await, bed.producer(10));
    let mut reader = Reader::new(bed.consumer("lag", &topic));
    reader.read_until("the assignment", |reader| !reader.assigned.is_empty()).await;
    let control = reader.consumer.control();
    control.pause(0);
    for _ in 0..3 {
        write(&*producer, &plain(&topic, 0, b"x")).await;
    }
    control.resume(0);
    reader
        .read_until("the lag of nothing", |reader| {
            reader.records().count() == 3 && control.lag().iter().any(|lag| lag.records == 0)
        })
        .await;
}

#[tokio::test]
async fn a_dropped_producer_tells_what_it_gives_up() {
    let bed = dev();
    let (topic, producer) = (bed.topic(1).await, bed.producer(10));
    write(&*producer, &plain(&topic, 0, b"x")).await;
    bed.set_reachable(false).await;
    let told = Arc::new(AtomicUsize::new(0));
    for _ in 0..10 {
        let told = Arc::clone(&told);
        let on_delivery = Box::new(move |result: Result<_, _>| {
            assert!(result.is_err());
            told.fetch_add(1, Ordering::Relaxed);
        });
        producer.produce(&plain(&topic, 0, b"x"), on_delivery).unwrap();
    }
    drop(producer);
    eventually("all are told", || told.load(Ordering::Relaxed) == 10).await;
}

#[tokio::test]
async fn what_comes_before_the_first_answer_waits_for_it() {
    let bed = dev();
    let topic = bed.topic(1).await;
    bed.set_reachable(false).await;
    let producer = bed.producer(10);
    assert!(producer.is_starting() && !producer.is_available());
    let (told, mut delivery) = tokio::sync::mpsc::channel(10);
    for value in [b"0", b"1", b"2"] {
        let told = told.clone();
        let on_delivery = Box::new(move |result| told.try_send(result).unwrap());
        producer.produce(&plain(&topic, 0, value), on_delivery).unwrap();
    }
    bed.set_reachable(true).await;
    for offset in 0..3 {
        assert_eq!(delivery.recv().await, Some(Ok(Position { partition: 0, offset })));
    }
    assert!(producer.is_available() && !producer.is_starting());
}

#[tokio::test]
async fn a_broker_that_never_answers_is_not_waited_for_for_ever() {
    let bed = dev();
    let topic = bed.topic(1).await;
    bed.set_reachable(false).await;
    let producer = bed.producer(10);
    let told = Arc::new(Mutex::new(None));
    let tell = Arc::clone(&told);
    let on_delivery = Box::new(move |result| *tell.lock().unwrap() = Some(result));
    producer.produce(&plain(&topic, 0, b"x"), on_delivery).unwrap();
    eventually("it is given up", || told.lock().unwrap().is_some()).await;
    assert_eq!(told.lock().unwrap().take(), Some(Err(ProduceError::Unreachable)));
    assert!(!producer.is_starting() && !producer.is_available());
}

#[tokio::test]
async fn a_producer_that_failed_for_good_is_replaced() {
    let bed = dev();
    let topic = bed.topic(1).await;
    let cluster = mock_cluster(&bed.broker.owner).unwrap();
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &[refusal]);
    let producer = bed.producer(10);
    let told = Arc::new(Mutex::new(None));
    let tell = Arc::clone(&told);
    let on_delivery = Box::new(move |result| *tell.lock().unwrap() = Some(result));
    if producer.produce(&plain(&topic, 0, b"x"), on_delivery).is_ok() {
        eventually("it has failed", || told.lock().unwrap().is_some()).await;
        let told = told.lock().unwrap().take();
        // Where it was still kept back, its successor has written it.
        assert!(matches!(told, Some(Ok(_) | Err(ProduceError::Refused(_)))), "{told:?}");
    }
    eventually("it is back", || {
        producer.produce(&plain(&topic, 0, b"y"), Box::new(drop)).is_ok() && producer.is_available()
    })
    .await;
    producer.flush(Duration::from_secs(10)).await;
    write(&*producer, &plain(&topic, 0, b"z")).await;
}

#[tokio::test]
async fn partitions_change_hands_at_once() {
    let bed = dev();
    let topic = bed.topic(4).await;
    let join = || {
        let mut settings = bed.broker.settings();
        settings.properties.insert("group.protocol".to_owned(), "consumer".to_owned());
        Reader::new(Box::new(KafkaConsumer::start(&settings, "moving", &topic).unwrap()))
    };
    let mut first = join();
    first.read_until("all partitions", |reader| reader.assigned.len() == 4).await;
    // They move by heartbeats: what is read by nobody is so for one or two of them. So it is their pace that
    // counts, as the broker has been told it; how fast this machine keeps it is another matter.
    let mut heartbeats = Heartbeats::listen(&bed.broker);
    first.read_until("some heartbeats", |_| heartbeats.are_enough()).await;
    let pace = heartbeats.pace();
    assert!(pace < UNTOLD_HEARTBEAT / 2, "a heartbeat every {pace:?}");

    let mut second = join();
    while first.assigned.len() != 2 || second.assigned.len() != 2 {
        assert!(Instant::now() < second.deadline, "{:?}\n{:?}", first.seen, second.seen);
        let within = Duration::from_millis(50);
        tokio::join!(first.read(within), second.read(within));
    }
}

/// The mock cluster's own, unless it is told another one.
const UNTOLD_HEARTBEAT: Duration = Duration::from_secs(3);

/// When members of groups of the next generation have been heard.
struct Heartbeats<'a> {
    broker: &'a DevBroker,
    heard: RefCell<Vec<Duration>>,
}

#[expect(unsafe_code, reason = "rdkafka's safe interface does not have it")]
impl<'a> Heartbeats<'a> {
    /// The key of the request in Kafka's protocol.
    const KEY: i16 = 68;
    const ENOUGH: usize = 8;

    fn listen(broker: &'a DevBroker) -> Self {
        // SAFETY: the mock cluster is the broker's, which lives; the call takes the cluster's lock.
        unsafe { bindings::rd_kafka_mock_start_request_tracking(Self::cluster(broker)) };
        Self { broker, heard: RefCell::default() }
    }

    fn cluster(broker: &DevBroker) -> *mut bindings::rd_kafka_mock_cluster_t {
        // SAFETY: the owner is a live client.
        unsafe { bindings::rd_kafka_handle_mock_cluster(broker.owner.client().native_ptr()) }
    }

    fn are_enough(&self) -> bool {
        let (mut count, mut heard) = (0, Vec::new());
        // SAFETY: the array and its requests are ours until they are destroyed, after their last use.
        unsafe {
            let requests =
                bindings::rd_kafka_mock_get_requests(Self::cluster(self.broker), &raw mut count);
            for index in 0..count {
                let request = *requests.add(index);
                if bindings::rd_kafka_mock_request_api_key(request) == Self::KEY {
                    let micros = bindings::rd_kafka_mock_request_timestamp(request);
                    heard.push(Duration::from_micros(micros.cast_unsigned()));
                }
            }
            bindings::rd_kafka_mock_request_destroy_array(requests, count);
        }
        *self.heard.borrow_mut() = heard;
        self.heard.borrow().len() >= Self::ENOUGH
    }

    /// The median of what lies between two.
    fn pace(&mut self) -> Duration {
        let heard = self.heard.get_mut();
        let mut gaps: Vec<_> = heard.windows(2).map(|two| two[1].saturating_sub(two[0])).collect();
        gaps.sort_unstable();
        gaps[gaps.len() / 2]
    }
}
