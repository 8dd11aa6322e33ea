//! Nodes that stop: in order, in time, and whatever made them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::SinkExt;
use gateway::{
    app::{Adapters, App, Node, Stopped},
    bus::{Consumer, ConsumerControl, Outgoing, Producer, Sink, memory::MemoryBus},
    config::Config,
    descriptors::Budget,
};
use registry::{MemoryRegistry, NodeEntry, NodeId, NodeRef, NodeState, NodeTable, Versions};
use tokio::{net::TcpSocket, time::Instant};
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::harness::{Aim, Cluster, REPLY_PARTITIONS, config, config_with, consumers, eventually};

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
        consumers: consumers(&config, bus),
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

#[tokio::test]
async fn a_client_that_reads_nothing_holds_no_drain_up() {
    // More than the kernel keeps for it, and less than would close its connection.
    const ANSWERS: usize = 20;
    let config = |number| config_with(number, "session.outbox_bytes_max = \"64MiB\"");
    let bus = MemoryBus::new(&[("replies", REPLY_PARTITIONS), ("echo", 4)]);
    let mut cluster = Cluster::start_each(1, bus, MemoryBus::producer, config).await;
    cluster.serve(Aim::Affinity, Duration::ZERO);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(cluster.public[0]).await.unwrap();
    let url = format!("ws://{}/ws?reliable=1", cluster.public[0]);
    let (mut client, _) = client_async(url, stream).await.unwrap();
    let payload = "x".repeat(700 * 1024);
    for id in 0..ANSWERS {
        let request = format!(r#"{{"service":"echo","id":{id},"payload":"{payload}"}}"#);
        client.send(Message::text(request)).await.unwrap();
    }
    eventually(async || {
        let answered = cluster.metric("roundtrip_requests_total", &[r#"outcome="ok""#]).await;
        (answered >= ANSWERS as f64).then_some(())
    })
    .await;

    let started = Instant::now();
    cluster.finish().await;
    let took = started.elapsed();
    // Most of the grace of ten seconds is left.
    assert!(took < Duration::from_secs(6), "{took:?}");
}

/// A consumer that never finishes to close.
#[derive(Debug)]
struct NeverCloses(Box<dyn Consumer>);

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
        consumers: consumers(&config, &bus)
            .into_iter()
            .map(|(source, consumer)| (source, Box::new(NeverCloses(consumer)) as _))
            .collect(),
        registry: Arc::new(registry.clone()),
    };
    let node = App::build(config, adapters, Budget::of(65_536)).unwrap().start().unwrap();
    node.ready().await;
    assert_eq!(registry.nodes().await.unwrap().entries.len(), 1);
    // Nor is this one ever acknowledged.
    bus.set_available(false);
    let record = Outgoing {
        topic: "silent",
        partition: None,
        key: None,
        key_suffix_bytes: 0,
        value: None,
        headers: &[],
    };
    producer.produce(&record, Box::new(|_| {})).unwrap();

    let started = Instant::now();
    node.run(std::future::ready(()), |_| ()).await.unwrap();
    let took = started.elapsed();
    assert!(took < GRACE + Duration::from_secs(1), "{took:?}");
    assert_eq!(producer.outstanding(), 1);
    assert_eq!(registry.nodes().await.unwrap().entries.len(), 0, "it has not said that it leaves");
}
