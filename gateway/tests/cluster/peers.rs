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

use crate::harness::{Aim, Cluster, REPLY_PARTITIONS, config, eventually};

/// What is logged on this thread, which is that of every task of the test.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
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

fn with_its_own_secret(number: usize) -> Config {
    let mut config = config(number);
    config.internal.secret = Secret::new(format!("the-secret-of-node-{number}"));
    config
}

#[tokio::test]
async fn nodes_with_different_secrets_say_so_once() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false);
    let subscriber = subscriber.with_writer({
        let log = log.clone();
        move || log.clone()
    });
    let _logged = tracing::subscriber::set_default(subscriber.finish());
    let bus = MemoryBus::new(&[("replies", REPLY_PARTITIONS), ("echo", 4), ("silent", 1)]);
    let mut cluster = Cluster::start_each(2, bus, MemoryBus::producer, with_its_own_secret).await;
    cluster.serve(Aim::RoundRobin, Duration::ZERO);
    // The replies that the other node reads do not come.
    let calls = (0..24).map(|number| cluster.post(number % 2, "echo", "1"));
    let calls = futures_util::future::join_all(calls);
    drop(tokio::time::timeout(Duration::from_secs(1), calls).await);

    for (node, peer) in [(0, 1), (1, 0)] {
        let url = format!("http://{}", cluster.internal[peer]);
        let probe = eventually(async || {
            let (status, body) = cluster.get(cluster.internal[node], "/readyz").await;
            assert_eq!(status, 200);
            let probe: Value = serde_json::from_slice(&body).unwrap();
            (probe["components"]["peers"] == "degraded").then_some(probe)
        })
        .await;
        let expected = format!("peer {url}: internal.secret differs");
        assert_eq!(probe["degraded"], serde_json::json!([expected]));
        let lines = log.lines(&["ERROR", "internal.secret differs", &url]);
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
    assert_eq!(log.lines(&["the-secret-of"]), [""; 0], "a secret is shown");
    cluster.finish().await;
}
