//! A whole cluster in one process: real listeners and peers' HTTP, the bus and the registry in
//! memory, so that both can be made to fail.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use gateway::{bus::memory::MemoryBus, peer::format::write_deliveries, relay::cluster::NodeTag};
use http_body_util::Full;
use registry::{NodeEntry, NodeId, NodeRef, NodeTable};
use serde_json::Value;

use crate::harness::{Aim, Cluster, PATIENCE, REPLY_PARTITIONS, eventually};

mod deletes;
mod door;
mod drains;
mod harness;
mod metrics;
mod origins;
mod peers;
mod raw;
mod rules;
mod rules_handshake;
mod rules_refused;
mod views;

#[tokio::test]
async fn replies_by_affinity_need_no_other_node() {
    let mut cluster = Cluster::start(3).await;
    cluster.serve(Aim::Affinity, Duration::ZERO);
    cluster.round_trips(100).await;
    assert_eq!(cluster.metric("roundtrip_replies_total", &["affinity"]).await, 300.0);
    assert_eq!(cluster.metric("roundtrip_forwards_total", &["delivered"]).await, 0.0);
    cluster.finish().await;
}

#[tokio::test]
async fn replies_on_any_partition_come_home() {
    let mut cluster = Cluster::start(3).await;
    cluster.serve(Aim::RoundRobin, Duration::ZERO);
    cluster.round_trips(200).await;
    let forwarded = cluster.metric("roundtrip_replies_total", &["forwarded"]).await;
    assert!(forwarded > 100.0, "{forwarded} of 600 came from another node");
    let delivered = cluster.metric("roundtrip_forwards_total", &["delivered"]).await;
    assert_eq!(delivered, forwarded, "senders and receivers count the same");
    cluster.finish().await;
}

#[tokio::test]
async fn replies_on_any_partition_need_no_look_up() {
    let mut cluster = Cluster::start(3).await;
    cluster.serve(Aim::RoundRobin, Duration::ZERO);
    cluster.hear_of_all().await;
    cluster.round_trips(200).await;
    let forwarded = cluster.metric("roundtrip_replies_total", &["forwarded"]).await;
    assert!(forwarded > 100.0, "{forwarded} of 600 came from another node");
    assert_eq!(cluster.lookups().await, 0.0);
    assert_eq!(cluster.metric("roundtrip_replies_total", &["unrouted"]).await, 0.0);
    cluster.finish().await;
}

#[tokio::test]
async fn replies_on_any_partition_come_home_while_the_registry_is_away() {
    let mut cluster = Cluster::start(3).await;
    cluster.serve(Aim::RoundRobin, Duration::ZERO);
    cluster.hear_of_all().await;
    cluster.registry.set_away(true);
    cluster.round_trips(200).await;
    let forwarded = cluster.metric("roundtrip_replies_total", &["forwarded"]).await;
    assert!(forwarded > 100.0, "{forwarded} of 600 came from another node");
    cluster.registry.set_away(false);
    cluster.finish().await;
}

#[tokio::test]
async fn replies_come_home_to_a_node_that_is_not_alone_with_its_tag() {
    let mut cluster = Cluster::start(3).await;
    cluster.serve(Aim::RoundRobin, Duration::ZERO);
    let nodes = cluster.registry.nodes().await.unwrap().entries;
    for (number, entry) in nodes.iter().enumerate() {
        let id = NodeId::parse(&format!("twin-{number}")).unwrap();
        let tag = NodeTag::of(&entry.node);
        let runs = (1..).map(|incarnation| NodeRef { id: id.clone(), incarnation });
        let node = { runs }.find(|run| NodeTag::of(run) == tag).unwrap();
        let entry = NodeEntry { node, ..entry.clone() };
        cluster.registry.announce(&entry, PATIENCE).await.unwrap();
    }
    cluster.hear_of_all().await;
    cluster.round_trips(200).await;
    assert!(cluster.lookups().await > 0.0, "no tag names one node alone");
    let forwarded = cluster.metric("roundtrip_replies_total", &["forwarded"]).await;
    assert!(forwarded > 100.0, "{forwarded} of 600 came from another node");
    cluster.finish().await;
}

#[tokio::test]
async fn a_second_reply_is_counted_and_not_delivered() {
    let mut cluster = Cluster::start(2).await;
    cluster.serve(Aim::Twice, Duration::ZERO);
    cluster.round_trips(50).await;
    let unrouted = ["unrouted"];
    eventually(async || {
        let count = cluster.metric("roundtrip_replies_total", &unrouted).await;
        (count >= 100.0).then_some(())
    })
    .await;
    let ok = cluster.metric("roundtrip_requests_total", &[r#"outcome="ok""#]).await;
    assert_eq!(ok, 100.0);
    cluster.finish().await;
}

#[tokio::test]
async fn a_wiped_registry_is_written_again() {
    let mut cluster = Cluster::start(3).await;
    // Slow enough that the registry is wiped while all requests wait.
    cluster.serve(Aim::RoundRobin, Duration::from_secs(1));
    let wipe = async {
        let waiting = ["echo"];
        eventually(async || {
            (cluster.metric("roundtrip_in_flight", &waiting).await >= 60.0).then_some(())
        })
        .await;
        cluster.registry.memory.wipe();
    };
    tokio::join!(cluster.round_trips(20), wipe);
    cluster.finish().await;
}

#[tokio::test]
async fn an_unavailable_bus_is_told_at_once() {
    let cluster = Cluster::start(1).await;
    cluster.bus.set_available(false);
    let (status, body) = eventually(async || {
        let answer = cluster.post(0, "echo", "1").await;
        (answer.0 == 503).then_some(answer)
    })
    .await;
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &problem["code"]), (503, &Value::from("unavailable")));
    assert_eq!(problem["recorded"], false);
    let probe = eventually(async || {
        let (status, body) = cluster.get(cluster.internal[0], "/readyz").await;
        (status == 503).then_some(body)
    })
    .await;
    let probe: Value = serde_json::from_slice(&probe).unwrap();
    assert_eq!(probe["ready"], false);
    assert_eq!(probe["reasons"], serde_json::json!(["kafka cannot be reached"]));
    assert_eq!(probe["components"]["kafka"], "unready");
    cluster.bus.set_available(true);
    eventually(async || (cluster.get(cluster.internal[0], "/readyz").await.0 == 200).then_some(()))
        .await;
    cluster.finish().await;
}

#[tokio::test]
async fn a_registry_that_is_away_leaves_the_node_ready_and_degraded() {
    let cluster = Cluster::start(1).await;
    let degraded = async || {
        let (status, body) = cluster.get(cluster.internal[0], "/readyz").await;
        let probe: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, &probe["ready"]), (200, &Value::from(true)), "{probe}");
        probe
    };
    assert_eq!(degraded().await["degraded"], serde_json::json!([]));
    cluster.registry.set_away(true);
    let probe = eventually(async || {
        let probe = degraded().await;
        (probe["components"]["registry"] == "degraded").then_some(probe)
    })
    .await;
    assert_eq!(probe["degraded"], serde_json::json!(["registry unreachable: away"]));
    cluster.registry.set_away(false);
    eventually(async || (degraded().await["components"]["registry"] == "ok").then_some(())).await;
    cluster.finish().await;
}

#[tokio::test]
async fn a_full_producer_queue_sheds() {
    let bus = MemoryBus::new(&[("replies", REPLY_PARTITIONS), ("echo", 4), ("silent", 1)]);
    let cluster = Cluster::start_with(1, bus, |bus| bus.producer_with_queue(0)).await;
    let (status, body) = cluster.post(0, "silent", "1").await;
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &problem["code"]), (503, &Value::from("overloaded")));
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("queue.buffering.max.messages"), "{detail}");
    assert!(detail.ends_with("; 0 records wait"), "{detail}");
    assert_eq!(problem["recorded"], false);
    assert_eq!(cluster.metric("roundtrip_in_flight", &["silent"]).await, 0.0);
    assert_eq!(cluster.metric("roundtrip_limit_hits_total", &["producer_queue"]).await, 1.0);
    cluster.finish().await;
}

#[tokio::test]
async fn a_record_that_is_too_large_is_told_its_size_and_its_limit() {
    let bus = MemoryBus::new(&[("replies", REPLY_PARTITIONS), ("echo", 4), ("silent", 1)]);
    let more = "limits = { message_bytes_max = \"2MiB\", frame_bytes_max = \"4MiB\" }";
    let config = |number| harness::config_with(number, more);
    let cluster = Cluster::start_each(1, bus, MemoryBus::producer, config).await;
    let (status, body) = cluster.post(0, "silent", &"x".repeat(1_500_000)).await;
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &problem["code"]), (413, &Value::from("too_large")));
    // With the key, which is the request id.
    let detail = "kafka: message.max.bytes is 1000000; the record has 1500036 bytes beside its \
                  headers";
    assert_eq!(problem["detail"], detail);
    cluster.finish().await;
}

#[tokio::test]
async fn only_who_shows_the_secret_may_deliver() {
    let cluster = Cluster::start(1).await;
    let post = async |path: &str, secret: &str| {
        let request = http::Request::post(format!("http://{}{path}", cluster.internal[0]))
            .header("authorization", format!("Bearer {secret}"))
            .body(Full::new(write_deliveries(&[])))
            .unwrap();
        let answer = cluster.http.request(request).await.unwrap();
        // RFC 9110, section 11.6.1: a 401 says how to show who one is.
        let asks = answer.headers().get("www-authenticate").is_some_and(|asks| asks == "Bearer");
        assert_eq!(asks, answer.status() == 401);
        answer.status().as_u16()
    };
    let path = "/internal/v1/deliveries";
    assert_eq!(post(path, "a-secret-of-the-tests").await, 200);
    for wrong in ["", "a-secret-of-the-test", "a-secret-of-the-tests2"] {
        assert_eq!(post(path, wrong).await, 401);
        assert_eq!(post("/internal/v1/nothing", wrong).await, 401, "no hint what there is");
    }
    assert_eq!(cluster.get(cluster.public[0], "/metrics").await.0, 404);
    cluster.finish().await;
}

#[tokio::test]
async fn request_ids_are_never_used_twice() {
    let mut cluster = Cluster::start(2).await;
    cluster.serve(Aim::Affinity, Duration::ZERO);
    let mut seen = HashSet::new();
    for number in 0..200 {
        let request =
            http::Request::post(format!("http://{}/v1/services/echo", cluster.public[number % 2]))
                .body(Full::new(Bytes::from_static(b"1")))
                .unwrap();
        let answer = cluster.http.request(request).await.unwrap();
        assert!(seen.insert(answer.headers()["roundtrip-request-id"].clone()));
    }
    cluster.finish().await;
}
