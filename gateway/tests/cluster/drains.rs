//! Nodes that stop: in order, in time, and whatever made them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use gateway::{
    app::{Adapters, App, Node, Stopped},
    bus::{
        Consumer, ConsumerControl, Outgoing, Producer, Sink,
        memory::{MemoryBus, MemoryConsumer},
    },
    config::Config,
    descriptors::Budget,
};
use registry::{MemoryRegistry, NodeEntry, NodeId, NodeRef, NodeState, NodeTable, Versions};
use tokio::time::Instant;

use crate::harness::{Aim, Cluster, REPLY_PARTITIONS, config, eventually};

#[tokio::test]
async fn a_drain_answers_who_waits() {
    let mut cluster = Cluster::start(2).await;
    cluster.serve(Aim::RoundRobin, Duration::from_millis(500));
    let drain = async {
        let waiting = ["echo"];
        eventually(async || {
            (cluster.metric("roundtrip_in_flight", &waiting).await >= 20.0).then_some(())
        })
        .await;
        cluster.stop.cancel();
    };
    tokio::join!(cluster.round_trips(10), drain);
    cluster.finish().await;
}

fn start(config: Config, bus: &MemoryBus, registry: &MemoryRegistry) -> Node {
    let adapters = Adapters {
        producer: Arc::new(bus.producer()),
        consumer: Box::new(bus.consumer("roundtrip", "replies")),
        registry: Arc::new(registry.clone()),
    };
    App::build(config, adapters, Budget::of(65_536)).unwrap().start().unwrap()
}

#[tokio::test]
async fn every_drain_is_told_when_it_begins() {
    let (bus, registry) = (MemoryBus::new(&[("replies", 1)]), MemoryRegistry::new());
    let told = Mutex::new(Vec::new());
    let begins = |grace: Duration| told.lock().unwrap().push(grace);
    let node = start(config(0), &bus, &registry);
    let grace = config(0).shutdown.grace;
    node.run(std::future::ready(()), begins).await.unwrap();
    assert_eq!(*told.lock().unwrap(), [grace]);

    // Nobody asks this one to stop: a later run has its name.
    let node = start(config(0), &bus, &registry);
    node.ready().await;
    let this = NodeRef { id: NodeId::parse("gw-0").unwrap(), incarnation: u64::MAX };
    let url = "http://127.0.0.1:1".to_owned();
    let later = NodeEntry { node: this, url, state: NodeState::Ready, speaks: Versions::FIRST };
    registry.announce(&later, Duration::from_secs(60)).await.unwrap();
    let stopped = node.run(std::future::pending(), begins).await;
    assert_eq!(stopped, Err(Stopped::Superseded));
    assert_eq!(*told.lock().unwrap(), [grace, grace]);
}

/// A consumer that never finishes to close.
#[derive(Debug)]
struct NeverCloses(MemoryConsumer);

#[async_trait]
impl Consumer for NeverCloses {
    async fn next(&mut self, max: usize, sink: &mut Sink<'_>) {
        self.0.next(max, sink).await;
    }

    fn control(&self) -> Arc<dyn ConsumerControl> {
        self.0.control()
    }

    async fn close(self: Box<Self>, _: Duration) {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_drain_step_that_hangs_takes_no_time_from_the_others() {
    const GRACE: Duration = Duration::from_secs(3);
    let bus = MemoryBus::new(&[("replies", REPLY_PARTITIONS), ("silent", 1)]);
    let registry = MemoryRegistry::new();
    let producer = Arc::new(bus.producer());
    let mut config = config(0);
    config.shutdown.grace = GRACE;
    let adapters = Adapters {
        producer: Arc::clone(&producer) as Arc<dyn Producer>,
        consumer: Box::new(NeverCloses(bus.consumer("roundtrip", "replies"))),
        registry: Arc::new(registry.clone()),
    };
    let node = App::build(config, adapters, Budget::of(65_536)).unwrap().start().unwrap();
    node.ready().await;
    assert_eq!(registry.nodes().await.unwrap().entries.len(), 1);
    // Nor is this one ever acknowledged.
    bus.set_available(false);
    let record =
        Outgoing { topic: "silent", partition: None, key: None, value: None, headers: &[] };
    producer.produce(&record, Box::new(|_| {})).unwrap();

    let started = Instant::now();
    node.run(std::future::ready(()), |_| ()).await.unwrap();
    let took = started.elapsed();
    assert!(took < GRACE + Duration::from_secs(1), "{took:?}");
    assert_eq!(producer.outstanding(), 1);
    assert_eq!(registry.nodes().await.unwrap().entries.len(), 0, "it has not said that it leaves");
}
