//! Situation: the gateway's Kafka bus, alone, on a broker.
//! Action: whatever may be asked of a bus, and what Kafka alone has: topics that are created, a newer
//! protocol of groups, topics that are not there, a broker that is killed.
//! Must hold: the promises of the bus, as in memory and on the broker of `dev`.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use gateway::bus::{
    Consumer, ProduceError, Producer,
    conformance::{self, Bed, Mutable, checks},
    kafka::{
        KafkaSettings,
        admin::{TopicResult, TopicSpec, create_topics},
        consumer::KafkaConsumer,
        producer::KafkaProducer,
    },
};
use tests::{infra::kafka::Kafka, process::run_dir};
use tokio::sync::oneshot;

/// Longer than a broker takes to come back: what was taken meanwhile is not to end before.
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker, and how it is reached.
struct Live {
    kafka: Arc<Kafka>,
    settings: KafkaSettings,
}

impl Live {
    fn on(kafka: Arc<Kafka>) -> Self {
        let bootstrap_servers = kafka.bootstrap().to_owned();
        Self { kafka, settings: KafkaSettings { bootstrap_servers, ..KafkaSettings::default() } }
    }

    async fn create(&self, spec: &TopicSpec, dry_run: bool) -> TopicResult {
        let specs = std::slice::from_ref(spec);
        create_topics(&self.settings, specs, dry_run).await.unwrap().remove(0).result
    }
}

async fn shared() -> Live {
    Live::on(Kafka::shared().await.unwrap())
}

async fn own() -> Live {
    Live::on(Kafka::start(&run_dir().join("kafka-of-a-bus"), &[]).await.unwrap())
}

/// A topic that nobody else has, on a broker that may be older than this run.
fn name() -> String {
    static NAMES: AtomicU32 = AtomicU32::new(0);
    format!("bus-{}-{}", std::process::id(), NAMES.fetch_add(1, Ordering::Relaxed))
}

#[async_trait(?Send)]
impl Bed for Live {
    fn producer(&self, queue: usize) -> Arc<dyn Producer> {
        let mut settings = self.settings.clone();
        settings.properties.extend([
            ("queue.buffering.max.messages".to_owned(), queue.to_string()),
            ("message.timeout.ms".to_owned(), PATIENCE.as_millis().to_string()),
        ]);
        Arc::new(KafkaProducer::start(&settings).unwrap())
    }

    fn consumer(&self, group: &str, topic: &str) -> Box<dyn Consumer> {
        // Groups are the broker's, and some checks share their names.
        let group = format!("{topic}-{group}");
        Box::new(KafkaConsumer::start(&self.settings, &group, topic).unwrap())
    }

    async fn topic(&self, partitions: i32) -> String {
        let spec = TopicSpec { name: name(), partitions: Some(partitions), ..TopicSpec::default() };
        assert_eq!(self.create(&spec, false).await, TopicResult::Created);
        spec.name
    }

    async fn set_reachable(&self, reachable: bool) {
        if reachable {
            self.kafka.restart().await.unwrap();
        } else {
            self.kafka.kill().unwrap();
        }
    }
}

#[async_trait(?Send)]
impl Mutable for Live {
    async fn make_anew(&self, topic: &str, partitions: i32) {
        self.kafka.make_anew(topic, partitions).await.unwrap();
    }
}

checks!(bed: shared().await, doomed: own().await);
checks!(shared().await; a_topic_made_anew_is_read_from_its_beginning);

/// As left by a node that committed what it had handled of the former topic, and died.
#[tokio::test]
async fn an_offset_of_a_former_topic_is_not_gone_on_from() {
    let bed = shared().await;
    let topic = bed.topic(1).await;
    let producer = bed.producer(100);
    for value in [b"0", b"1", b"2"] {
        conformance::write(&*producer, &conformance::plain(&topic, 0, value)).await;
    }
    let group = format!("{topic}-g");
    bed.kafka.commit(&group, &topic, 0, 2, "topic-id=AAAAAAAAAAAAAAAAAAAAAQ").unwrap();
    conformance::records_come_from(&bed, "g", &topic, 0).await;
    bed.kafka.commit(&group, &topic, 0, 2, "somebody's own").unwrap();
    conformance::records_come_from(&bed, "g", &topic, 2).await;
}

#[tokio::test]
async fn topics_are_created_once_and_then_compared() {
    let bed = shared().await;
    let mut spec = TopicSpec { name: name(), partitions: Some(3), ..TopicSpec::default() };
    spec.config = vec![("cleanup.policy".to_owned(), "compact".to_owned())];
    assert_eq!(bed.create(&spec, true).await, TopicResult::WouldCreate);
    assert_eq!(bed.create(&spec, false).await, TopicResult::Created);
    assert_eq!(bed.create(&spec, true).await, TopicResult::Exists { differences: vec![] });
    spec.partitions = Some(4);
    spec.config[0].1 = "delete".to_owned();
    let differences = vec![
        "number of partitions is 3, should be 4".to_owned(),
        "cleanup.policy is compact, should be delete".to_owned(),
    ];
    assert_eq!(bed.create(&spec, false).await, TopicResult::Exists { differences });
    let bad = TopicSpec { name: "no/such/name".to_owned(), ..TopicSpec::default() };
    assert!(matches!(bed.create(&bad, false).await, TopicResult::Failed(_)));
}

#[tokio::test]
async fn the_next_group_protocol_works_too() {
    let mut bed = shared().await;
    bed.settings.properties.insert("group.protocol".to_owned(), "consumer".to_owned());
    conformance::a_group_goes_on_where_it_stored(&bed).await;
    conformance::members_share_the_partitions_and_hand_them_over(&bed).await;
    conformance::a_paused_partition_waits_alone(&bed).await;
    conformance::a_partition_is_read_again_from_its_beginning(&bed).await;
    conformance::a_member_that_gets_nothing_is_told_so(&bed).await;
}

#[tokio::test]
async fn an_unknown_topic_is_told() {
    let (topic, producer) = (name(), shared().await.producer(10));
    let (told, delivery) = oneshot::channel();
    let on_delivery = Box::new(move |result| told.send(result).expect("waited for"));
    producer.produce(&conformance::plain(&topic, 0, b"x"), on_delivery).unwrap();
    assert_eq!(delivery.await.unwrap(), Err(ProduceError::UnknownTopic));
}
