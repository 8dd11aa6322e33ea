//! Who is let in, and when.

use gateway::{bus::memory::MemoryBus, descriptors::Budget};
use serde_json::Value;

use crate::{
    harness::{Cluster, REPLY_PARTITIONS, Setup, config, config_with, eventually},
    raw::{Answer, Raw},
};

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: gw\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const CALL: &str = "GET /v1/services/silent HTTP/1.1\r\nHost: gw\r\nPrefer: wait=1\r\n\r\n";

fn bus() -> MemoryBus {
    MemoryBus::new(&[("replies", REPLY_PARTITIONS), ("echo", 4), ("silent", 1)])
}

async fn ask(cluster: &Cluster, text: &str) -> Answer {
    let mut raw = Raw::send(cluster.public[0], text).await;
    let answer = raw.head().await;
    if answer.status == 101 {
        answer
    } else {
        Raw::send(cluster.public[0], text).await.answer().await
    }
}

#[tokio::test]
async fn nobody_is_let_in_before_the_node_can_serve_them() {
    let setup = Setup { registry_away: true, ..Setup::default() };
    let cluster = Cluster::begin(1, bus(), MemoryBus::producer, config, setup).await;
    let is_ready = async || cluster.get(cluster.internal[0], "/readyz").await.0 == 200;
    for text in [HANDSHAKE, CALL, "GET /v1/services HTTP/1.1\r\nHost: gw\r\n\r\n"] {
        let answer = ask(&cluster, text).await;
        answer.is_problem(503, "unavailable");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert!(!is_ready().await);
    assert_eq!(cluster.get(cluster.internal[0], "/livez").await.0, 200);

    cluster.registry.set_away(false);
    eventually(async || is_ready().await.then_some(())).await;
    assert_eq!(ask(&cluster, HANDSHAKE).await.status, 101);
    // From now on it tells its clients what is wrong; it does not turn them away.
    cluster.bus.set_available(false);
    cluster.registry.set_away(true);
    eventually(async || (!is_ready().await).then_some(())).await;
    assert_eq!(ask(&cluster, HANDSHAKE).await.status, 101);
    let answer = ask(&cluster, CALL).await;
    answer.is_problem(503, "unavailable");
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_ne!(problem["detail"], "this node is not ready yet");
    cluster.finish().await;
}

#[tokio::test]
async fn a_limit_says_what_it_is_and_what_came() {
    let more = "limits = { connections_max = 2, requests_per_second_max = 1 }";
    let config = |number| config_with(number, more);
    let cluster = Cluster::start_each(1, bus(), MemoryBus::producer, config).await;
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let mut socket = Raw::send(cluster.public[0], HANDSHAKE).await;
        assert_eq!(socket.head().await.status, 101);
        sockets.push(socket);
    }
    let answer = ask(&cluster, HANDSHAKE).await;
    answer.is_problem(503, "overloaded");
    let detail = "limits.connections_max is 2; 2 connections are open";
    assert!(answer.text().contains(detail), "{}", answer.text());

    let mut raw = Raw::connect(cluster.public[0]).await;
    let refused = loop {
        raw.write("GET /v1/services/none HTTP/1.1\r\nHost: gw\r\n\r\n").await;
        let answer = raw.answer().await;
        if answer.status != 404 {
            break answer;
        }
    };
    refused.is_problem(429, "rate_limited");
    let detail = "limits.requests_per_second_max is 1; the next one may come in ";
    assert!(refused.text().contains(detail), "{}", refused.text());
    cluster.finish().await;
}

#[tokio::test]
async fn who_sends_no_head_makes_room() {
    let budget = Budget { clients: 8, refusals: 2, internal: 8 };
    let setup = Setup { budget, ..Setup::default() };
    let cluster = Cluster::begin(1, bus(), MemoryBus::producer, config, setup).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(Raw::connect(cluster.public[0]).await);
        silent.push(Raw::connect(cluster.internal[0]).await);
    }
    eventually(async || (cluster.get(cluster.internal[0], "/readyz").await.0 == 200).then_some(()))
        .await;
    assert_eq!(ask(&cluster, HANDSHAKE).await.status, 101);
    assert_eq!(cluster.get(cluster.public[0], "/v1/services").await.0, 200);
    assert_eq!(cluster.get(cluster.internal[0], "/livez").await.0, 200);
    cluster.finish().await;
}

#[tokio::test]
async fn clients_beyond_the_descriptors_are_told_so() {
    let budget = Budget { clients: 4, refusals: 2, internal: 8 };
    let setup = Setup { budget, ..Setup::default() };
    let cluster = Cluster::begin(1, bus(), MemoryBus::producer, config, setup).await;
    eventually(async || (cluster.get(cluster.internal[0], "/readyz").await.0 == 200).then_some(()))
        .await;
    let mut sockets = Vec::new();
    for _ in 0..4 {
        let mut socket = Raw::send(cluster.public[0], HANDSHAKE).await;
        assert_eq!(socket.head().await.status, 101);
        sockets.push(socket);
    }
    for text in [HANDSHAKE, CALL] {
        let answer = ask(&cluster, text).await;
        answer.is_problem(503, "overloaded");
        assert_eq!(
            (answer.header("retry-after"), answer.header("connection")),
            (Some("1"), Some("close"))
        );
        let problem: Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(problem["detail"].as_str().unwrap().contains("descriptors"), "{problem}");
    }
    let page = CALL.replace("\r\n\r\n", "\r\nOrigin: http://gw\r\n\r\n");
    let answer = ask(&cluster, &page).await;
    answer.is_problem(503, "overloaded");
    assert_eq!(answer.header("access-control-allow-origin"), Some("http://gw"));
    // Those that say nothing hold none of the places for refusals for long.
    let silent: Vec<Raw> =
        futures_util::future::join_all((0..6).map(|_| Raw::connect(cluster.public[0]))).await;
    ask(&cluster, CALL).await.is_problem(503, "overloaded");
    drop(silent);
    let hits = cluster.metric("roundtrip_limit_hits_total", &[r#"limit="descriptors""#]).await;
    assert!(hits >= 6.0, "{hits}");
    for path in ["/livez", "/readyz"] {
        assert_eq!(cluster.get(cluster.internal[0], path).await.0, 200, "{path}");
    }

    drop(sockets.pop());
    eventually(async || (ask(&cluster, CALL).await.status == 504).then_some(())).await;
    assert_eq!(cluster.metric("roundtrip_connections", &[]).await, 3.0, "who was in stays in");
    cluster.finish().await;
}
