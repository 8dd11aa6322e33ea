//! The producer against several brokers in process, which a partition's leader is only one of.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rdkafka::mocking::MockCluster;
use tokio::time::sleep;

use super::*;
use crate::bus::conformance::{eventually, plain, write};

/// The first leads nothing, and is always there. Each of the others leads one partition.
const BROKERS: i32 = 8;
/// More than librdkafka sends without an acknowledgement, so that the partition is paused.
const RECORDS: usize = 20;
/// How long the leaders stay away.
const AWAY: Duration = Duration::from_secs(1);

/// Longer than a check waits: no record ends meanwhile.
fn patient(bootstrap_servers: String) -> KafkaSettings {
    let properties = [("message.timeout.ms".to_owned(), "120000".to_owned())].into();
    KafkaSettings { bootstrap_servers, properties, ..KafkaSettings::default() }
}

#[tokio::test]
async fn what_waits_for_a_leader_goes_when_it_is_back() {
    let cluster = MockCluster::new(BROKERS).unwrap();
    cluster.create_topic("t", BROKERS - 1, 1).unwrap();
    let leaders = 2..=BROKERS;
    for leader in leaders.clone() {
        cluster.partition_leader("t", leader - 2, Some(leader)).unwrap();
    }
    let producer = KafkaProducer::start(&patient(cluster.bootstrap_servers())).unwrap();
    for partition in 0..BROKERS - 1 {
        write(&producer, &plain("t", partition, b"first")).await;
    }
    leaders.clone().for_each(|leader| cluster.broker_down(leader).unwrap());
    let written = Arc::new(AtomicUsize::new(0));
    for partition in 0..BROKERS - 1 {
        for _ in 0..RECORDS {
            let written = Arc::clone(&written);
            let on_delivery = Box::new(move |outcome: Result<_, _>| {
                written.fetch_add(usize::from(outcome.is_ok()), Ordering::Relaxed);
            });
            producer.produce(&plain("t", partition, b"more"), on_delivery).unwrap();
        }
    }
    sleep(AWAY).await;
    leaders.for_each(|leader| cluster.broker_up(leader).unwrap());
    let all = RECORDS * usize::try_from(BROKERS - 1).unwrap();
    eventually("all are written", || written.load(Ordering::Relaxed) == all).await;
}
