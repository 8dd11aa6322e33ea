//! Nodes that do not get on: each says so, once, where its operator looks.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use gateway::{
    bus::memory::MemoryBus,
    config::{Config, Secret},
};
use serde_json::Value;
use tracing::subscriber::DefaultGuard;

use crate::harness::{Aim, Cluster, REPLY_PARTITIONS, config, eventually};

/// What is logged on this thread, which is that of every task of the test.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Takes down what is logged from now on.
    fn listen(&self) -> DefaultGuard {
        let (log, subscriber) = (self.clone(), tracing_subscriber::fmt().with_ansi(false));
        let subscriber = subscriber.with_writer(move || log.clone());
        tracing::subscriber::set_default(subscriber.finish())
    }

    fn lines(&self, of: &[&str]) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let is_meant = |line: &&str| of.iter().all(|part| line.contains(part));
        text.lines().filter(is_meant).map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn bus() -> MemoryBus {
    MemoryBus::new(&[("replies", REPLY_PARTITIONS), ("echo", 4), ("silent", 1)])
}

fn with_its_own_secret(number: usize) -> Config {
    let mut config = config(number);
    config.internal.secret = Secret::new(format!("the-secret-of-node-{number}"));
    config
}

/// What a node says of its peers, once anything is the matter with them.
async fn degraded(cluster: &Cluster, node: usize) -> Value {
    let mut probe = eventually(async || {
        let (status, body) = cluster.get(cluster.internal[node], "/readyz").await;
        assert_eq!(status, 200);
        let probe: Value = serde_json::from_slice(&body).unwrap();
        (probe["components"]["peers"] == "degraded").then_some(probe)
    })
    .await;
    probe["degraded"].take()
}

/// Each of two nodes with different secrets has said so once.
async fn both_say_so(cluster: &Cluster, log: &Log) {
    for (node, peer) in [(0, 1), (1, 0)] {
        let url = format!("http://{}", cluster.internal[peer]);
        let expected = format!("peer {url}: internal.secret differs");
        assert_eq!(degraded(cluster, node).await, serde_json::json!([expected]));
        let lines = log.lines(&["ERROR", "internal.secret differs", &url]);
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
    assert_eq!(log.lines(&["the-secret-of"]), [""; 0], "a secret is shown");
}

#[tokio::test]
async fn nodes_with_different_secrets_say_so_once() {
    let log = Log::default();
    let _logged = log.listen();
    let mut cluster = Cluster::start_each(2, bus(), MemoryBus::producer, with_its_own_secret).await;
    cluster.serve(Aim::RoundRobin, Duration::ZERO);
    // The replies that the other node reads do not come.
    let calls = (0..24).map(|number| cluster.post(number % 2, "echo", "1"));
    let calls = futures_util::future::join_all(calls);
    drop(tokio::time::timeout(Duration::from_secs(1), calls).await);
    both_say_so(&cluster, &log).await;
    cluster.finish().await;
}

#[tokio::test]
async fn nodes_with_different_secrets_say_so_before_anything_is_owed() {
    let log = Log::default();
    let _logged = log.listen();
    let cluster = Cluster::start_each(2, bus(), MemoryBus::producer, with_its_own_secret).await;
    both_say_so(&cluster, &log).await;
    cluster.finish().await;
}

/// One node that says of itself that it is where nobody is.
fn with_a_wrong_address(number: usize) -> Config {
    let mut config = config(number);
    if number == 1 {
        config.internal.advertise = Some("http://127.0.0.1:1".to_owned());
    }
    config
}

#[tokio::test]
async fn a_peer_that_cannot_be_reached_is_told_of_before_anything_is_owed() {
    let log = Log::default();
    let _logged = log.listen();
    let cluster = Cluster::start_each(2, bus(), MemoryBus::producer, with_a_wrong_address).await;
    let said = degraded(&cluster, 0).await;
    let said = said[0].as_str().unwrap();
    assert!(said.starts_with("peer http://127.0.0.1:1: cannot be reached"), "{said}");
    let lines = log.lines(&["WARN", "cannot be called", "http://127.0.0.1:1", "refused"]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let failed = cluster.metric("roundtrip_forwards_total", &["gw-1", "failed"]).await;
    assert!(failed >= 1.0, "{failed}");
    cluster.finish().await;
}
