//! The Kafka bus against a real broker, where one is given: `ROUNDTRIP_TEST_KAFKA=host:port`.

use std::{
    process,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;

use super::{
    KafkaSettings,
    admin::{TopicResult, TopicSpec, create_topics},
    consumer::KafkaConsumer,
    producer::KafkaProducer,
};
use crate::bus::{
    Consumer, Producer,
    conformance::{Bed, checks},
};

/// Tells this run's topics and groups from those of others.
static TOPICS: AtomicU32 = AtomicU32::new(0);

struct Live(KafkaSettings);

#[expect(clippy::disallowed_methods, reason = "a test of its own has no configuration to read")]
#[expect(clippy::print_stderr, reason = "whoever runs the tests is to know what was not tested")]
fn live() -> Option<Live> {
    let Ok(bootstrap_servers) = std::env::var("ROUNDTRIP_TEST_KAFKA") else {
        eprintln!("skipped: ROUNDTRIP_TEST_KAFKA is not set");
        return None;
    };
    Some(Live(KafkaSettings { bootstrap_servers, ..KafkaSettings::default() }))
}

fn name() -> String {
    format!("bus-test-{}-{}", process::id(), TOPICS.fetch_add(1, Ordering::Relaxed))
}

#[async_trait]
impl Bed for Live {
    fn producer(&self, _queue: usize) -> Arc<dyn Producer> {
        Arc::new(KafkaProducer::start(&self.0).unwrap())
    }

    fn consumer(&self, group: &str, topic: &str) -> Box<dyn Consumer> {
        Box::new(KafkaConsumer::start(&self.0, &format!("{topic}-{group}"), topic).unwrap())
    }

    async fn topic(&self, partitions: i32) -> String {
        let name = name();
        let partitions = Some(partitions);
        let spec = TopicSpec { name: name.clone(), partitions, ..TopicSpec::default() };
        let outcomes = create_topics(&self.0, &[spec], false).await.unwrap();
        assert_eq!(outcomes[0].result, TopicResult::Created);
        name
    }

    async fn set_reachable(&self, _: bool) -> bool {
        false
    }
}

checks!(live());

#[tokio::test]
async fn topics_are_created_once_and_then_compared() {
    let Some(Live(settings)) = live() else { return };
    let mut spec = TopicSpec { name: name(), partitions: Some(3), ..TopicSpec::default() };
    spec.config = vec![("cleanup.policy".to_owned(), "compact".to_owned())];
    let result = async |spec: &TopicSpec, dry_run| {
        let specs = std::slice::from_ref(spec);
        create_topics(&settings, specs, dry_run).await.unwrap().remove(0).result
    };
    assert_eq!(result(&spec, true).await, TopicResult::WouldCreate);
    assert_eq!(result(&spec, false).await, TopicResult::Created);
    assert_eq!(result(&spec, true).await, TopicResult::Exists { differences: vec![] });
    spec.partitions = Some(4);
    spec.config[0].1 = "delete".to_owned();
    let differences = vec![
        "number of partitions is 3, should be 4".to_owned(),
        "cleanup.policy is compact, should be delete".to_owned(),
    ];
    assert_eq!(result(&spec, false).await, TopicResult::Exists { differences });
    let bad = TopicSpec { name: "no/such/name".to_owned(), ..TopicSpec::default() };
    assert!(matches!(result(&bad, false).await, TopicResult::Failed(_)));
}

#[tokio::test]
async fn the_next_group_protocol_works_too() {
    let Some(Live(mut settings)) = live() else { return };
    settings.properties.insert("group.protocol".to_owned(), "consumer".to_owned());
    let bed = Live(settings);
    crate::bus::conformance::a_group_goes_on_where_it_stored(&bed).await;
    crate::bus::conformance::members_share_the_partitions_and_hand_them_over(&bed).await;
    crate::bus::conformance::a_paused_partition_waits_alone(&bed).await;
    crate::bus::conformance::a_member_that_gets_nothing_is_told_so(&bed).await;
}

#[tokio::test]
async fn an_unknown_topic_is_told() {
    let Some(Live(settings)) = live() else { return };
    let producer = KafkaProducer::start(&settings).unwrap();
    let topic = name();
    let (told, delivery) = tokio::sync::oneshot::channel();
    let on_delivery = Box::new(move |result| told.send(result).expect("waited for"));
    let record = crate::bus::conformance::plain(&topic, 0, b"x");
    producer.produce(&record, on_delivery).unwrap();
    assert_eq!(delivery.await.unwrap(), Err(crate::bus::ProduceError::UnknownTopic));
}
