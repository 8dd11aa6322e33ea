//! Nodes that do not get on: each says so, once, where its operator looks.

use std::{
    io::{self, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use gateway::{
    bus::{Outgoing, Producer, memory::MemoryBus},
    config::{Config, Secret},
    peer::{SPOKEN, format},
    relay::{cluster::NodeTag, dialects::CORRELATION_ID, requests::affinity::Affinity},
};
use http_body_util::Full;
use registry::{
    NodeEntry, NodeId, NodeRef, NodeState, NodeTable, RequestTable, Route, Versions, all,
};
use serde_json::Value;
use tracing::subscriber::DefaultGuard;

use crate::harness::{Aim, Cluster, PATIENCE, REPLY_PARTITIONS, config, eventually};

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

#[tokio::test]
async fn a_peer_of_other_versions_is_named_once_and_left_alone() {
    let log = Log::default();
    let _logged = log.listen();
    let cluster = Cluster::start(1).await;
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    peer.set_nonblocking(true).unwrap();
    let url = format!("http://{}", peer.local_addr().unwrap());
    let node = NodeRef { id: NodeId::parse("gw-9").unwrap(), incarnation: 1 };
    let (state, speaks) = (NodeState::Ready, Versions { lowest: 7, highest: 9 });
    let entry = NodeEntry { node: node.clone(), url: url.clone(), state, speaks };
    cluster.registry.announce(&entry, PATIENCE * 2).await.unwrap();

    // It is known before there is anything for it.
    let expected = format!(
        "peer {url}: speaks the versions 7-9 of what nodes say to each other, this node 1-1"
    );
    assert_eq!(degraded(&cluster, 0).await, serde_json::json!([expected]));

    let request = Affinity::new(NodeTag::of(&node)).choose(1, [7; 10]).request;
    let route =
        Route { node, session: None, client_id: None, deadline_ms: u64::MAX, may_be_part: false };
    all(cluster.registry.put_routes(&[(request, Arc::new(route))]).await).unwrap();
    let id = request.to_string();
    let record = Outgoing {
        topic: "replies",
        partition: Some(0),
        key: None,
        key_suffix_bytes: 0,
        value: Some(b"1"),
        headers: &[(CORRELATION_ID, id.as_bytes())],
    };
    cluster.bus.producer().produce(&record, Box::new(drop)).unwrap();
    let failed = [r#"peer="gw-9""#, r#"result="failed""#];
    let failed = async || cluster.metric("roundtrip_forwards_total", &failed).await;
    let before = failed().await;
    eventually(async || (failed().await > before).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    // Every two seconds with the reply, and some times more without.
    let attempts = failed().await;
    assert!((2.0..=8.0).contains(&attempts), "{attempts} attempts in five seconds");
    assert!(peer.accept().is_err(), "it is called in vain");
    let lines = log.lines(&["ERROR", &url, "ours=1-1", "theirs=7-9"]);
    assert_eq!(lines.len(), 1, "{lines:?}");

    // It is replaced by one that can be talked to.
    let entry = NodeEntry { speaks: SPOKEN, ..entry };
    cluster.registry.announce(&entry, PATIENCE * 2).await.unwrap();
    eventually(async || peer.accept().ok().map(drop)).await;
    assert_eq!(log.lines(&["ERROR"]).len(), 1);
    cluster.finish().await;
}

#[tokio::test]
async fn a_call_says_what_its_node_speaks() {
    let cluster = Cluster::start(1).await;
    let call = async |versions: Option<&str>, body: Bytes| {
        let url = format!("http://{}/internal/v1/deliveries", cluster.internal[0]);
        let mut request = http::Request::post(url)
            .header("authorization", "Bearer a-secret-of-the-tests")
            .body(Full::new(body))
            .unwrap();
        if let Some(versions) = versions {
            let versions = versions.parse().unwrap();
            request.headers_mut().insert("roundtrip-peer-versions", versions);
        }
        let answer = cluster.http.request(request).await.unwrap();
        let ours = answer.headers()["roundtrip-peer-versions"].to_str().unwrap();
        assert_eq!(Versions::read(ours), SPOKEN);
        answer.status().as_u16()
    };
    for understood in [None, Some("1-1"), Some("1-7"), Some("what")] {
        assert_eq!(call(understood, format::write_deliveries(&[])).await, 200, "{understood:?}");
    }
    assert_eq!(call(Some("2-7"), format::write_deliveries(&[])).await, 426);
    assert_eq!(call(None, Bytes::from_static(b"no call")).await, 400);
    cluster.finish().await;
}
