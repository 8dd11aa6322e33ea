//! Views: events of a topic, what answers requests, and what waits for a state.

use std::{sync::Arc, time::Duration};

use gateway::{
    bus::{
        BusEvent, Consumer, Outgoing, Producer,
        memory::{MemoryBus, MemoryProducer},
    },
    config::Config,
};
use tokio::{task::JoinSet, time::sleep};

use crate::harness::{Cluster, REPLY_PARTITIONS, config_with, eventually};

const VIEWS: &str = r#"
[views.orders]
topic = "orders"
[services.orders]
request_topic = "order.requests"
timeout = "20s"
respond_on = { view = "orders", key = "/id", until = ["DONE", "FAILED"] }
"#;
const EVENT_PARTITIONS: i32 = 6;

fn bus() -> MemoryBus {
    MemoryBus::new(&[
        ("replies", REPLY_PARTITIONS),
        ("echo", 4),
        ("orders", EVENT_PARTITIONS),
        ("order.requests", 4),
    ])
}

fn with_views(number: usize) -> Config {
    config_with(number, VIEWS)
}

async fn cluster(nodes: usize) -> Cluster {
    Cluster::start_each(nodes, bus(), MemoryBus::producer, with_views).await
}

fn put(producer: &MemoryProducer, key: &str, value: Option<&str>) {
    let (key, value) = (Some(key.as_bytes()), value.map(str::as_bytes));
    let (topic, partition, headers) = ("orders", None, &[] as &[_]);
    let record = Outgoing { topic, partition, key, key_suffix_bytes: 0, value, headers };
    producer.produce(&record, Box::new(|_| {})).unwrap();
}

/// A service that writes two events for each request: the second after a moment, or none.
async fn validate(bus: MemoryBus) {
    let mut consumer: Box<dyn Consumer> = Box::new(bus.consumer("validator", "order.requests"));
    let producer = Arc::new(bus.producer());
    let mut later = JoinSet::new();
    loop {
        let mut sink = |event: BusEvent<'_>| {
            let BusEvent::Record(record) = event else { return };
            assert!(
                !record.headers.iter().any(|(name, _)| *name == "kafka_replyTopic"),
                "nobody is to reply"
            );
            let value: serde_json::Value =
                serde_json::from_slice(record.value.unwrap_or_default()).unwrap();
            let (id, ms) = (value["id"].to_string(), value["ms"].as_u64().unwrap_or_default());
            let id = id.trim_matches('"').to_owned();
            put(&producer, &id, Some(r#"{"state":"NEW"}"#));
            let state = value["then"].as_str().unwrap_or("DONE").to_owned();
            let producer = Arc::clone(&producer);
            later.spawn(async move {
                sleep(Duration::from_millis(ms)).await;
                let event = format!(r#"{{"state":"{state}","at":{ms}}}"#);
                put(&producer, &id, Some(&event));
            });
        };
        consumer.next(100, &mut sink).await;
    }
}

#[tokio::test]
async fn a_request_is_answered_by_the_event_that_it_brings_about() {
    let mut cluster = cluster(3).await;
    cluster.services.spawn(validate(cluster.bus.clone()));
    for round in 0..12 {
        let body = format!(r#"{{"id":"o-{round}","ms":{}}}"#, round % 3 * 10);
        let (status, body) = cluster.post(round % 3, "orders", &body).await;
        assert_eq!((status, &body[..16]), (200, br#"{"state":"DONE","#.as_slice()), "{body:?}");
    }
    // The state that is there already is not the one that it asks for.
    let body = r#"{"id":"o-0","then":"FAILED","ms":50}"#;
    let (status, body) = cluster.post(1, "orders", body).await;
    assert_eq!((status, &body[..18]), (200, br#"{"state":"FAILED","#.as_slice()), "{body:?}");

    let (status, body) = cluster.post(0, "orders", r#"{"no":"key"}"#).await;
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &problem["code"]), (400, &"bad_request".into()), "{problem}");
    // The waits are forgotten when all is told.
    eventually(async || {
        let counted = cluster.metric("roundtrip_oldest_unhandled_seconds", &["orders"]).await;
        (counted == 0.0).then_some(())
    })
    .await;
    cluster.finish().await;
}

#[tokio::test]
async fn a_view_has_the_latest_event_of_each_key() {
    let cluster = cluster(2).await;
    let producer = cluster.bus.producer();
    let get = async |node: usize, path: &str| {
        let path = format!("/v1/views/{path}");
        let (status, body) = cluster.get(cluster.public[node], &path).await;
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    assert_eq!(get(0, "orders/1").await.0, 404);
    assert!(get(0, "others/1").await.1.contains("unknown_service"));
    for (key, value) in [("1", "a"), ("2", "b"), ("1", "c"), ("a b/c", "d")] {
        put(&producer, key, Some(&format!(r#"{{"state":"{value}"}}"#)));
    }
    for (key, value) in [("1", "c"), ("2", "b"), ("a%20b/c", "d"), ("a%20b%2Fc", "d")] {
        let path = format!("orders/{key}?until={value}");
        assert_eq!(get(1, &path).await, (200, format!(r#"{{"state":"{value}"}}"#)), "{key}");
        assert_eq!(get(0, &format!("orders/{key}")).await.0, 200);
    }
    let (status, body) = get(0, "orders/1?until=x,y&timeout_ms=50").await;
    assert!(status == 504 && body.contains(r#""recorded":false"#), "{body}");
    let waits = async {
        assert_eq!(get(0, "orders/1?until=x,y").await, (200, r#"{"state":"y"}"#.to_owned()));
    };
    let comes = async {
        sleep(Duration::from_millis(50)).await;
        put(&producer, "1", Some(r#"{"state":"w"}"#));
        put(&producer, "1", Some(r#"{"state":"y"}"#));
        put(&producer, "1", Some(r#"{"state":"z"}"#));
    };
    tokio::join!(waits, comes);
    assert_eq!(get(0, "orders/1?until=z").await.0, 200);
    put(&producer, "1", None);
    eventually(async || (get(1, "orders/1").await.0 == 404).then_some(())).await;
    cluster.finish().await;
}

#[tokio::test]
async fn a_view_that_the_registry_has_lost_is_built_again() {
    let cluster = cluster(2).await;
    let producer = cluster.bus.producer();
    for key in 0..100 {
        put(&producer, &key.to_string(), Some(r#"{"state":"old"}"#));
        put(&producer, &key.to_string(), Some(r#"{"state":"new"}"#));
    }
    let has_all = async || {
        for key in 0..100 {
            let path = format!("/v1/views/orders/{key}");
            let (status, body) = cluster.get(cluster.public[key % 2], &path).await;
            if (status, &body[..]) != (200, br#"{"state":"new"}"#) {
                return None;
            }
        }
        Some(())
    };
    eventually(has_all).await;
    cluster.registry.memory.wipe();
    eventually(has_all).await;
    for (&public, &internal) in cluster.public.iter().zip(&cluster.internal) {
        eventually(async || {
            let (_, ready) = cluster.get(internal, "/readyz").await;
            String::from_utf8(ready.to_vec()).unwrap().contains(r#""views":"ok""#).then_some(())
        })
        .await;
        assert_eq!(cluster.get(public, "/v1/views/orders/7").await.0, 200);
    }
    cluster.finish().await;
}

#[tokio::test]
async fn a_wait_that_the_registry_has_lost_begins_again() {
    let mut cluster = cluster(2).await;
    cluster.services.spawn(validate(cluster.bus.clone()));
    // The event of the first comes before its node has noticed, that of the second long after.
    let calls = [(0, "early", 700), (1, "late", 5_000)].map(async |(node, id, ms)| {
        let body = format!(r#"{{"id":"{id}","ms":{ms}}}"#);
        let (status, body) = cluster.post(node, "orders", &body).await;
        assert_eq!(status, 200, "{id}: {body:?}");
        assert!(body.starts_with(br#"{"state":"DONE","#), "{id}: {body:?}");
    });
    let lose = async {
        sleep(Duration::from_millis(400)).await;
        cluster.registry.memory.wipe();
    };
    tokio::join!(futures_util::future::join_all(calls), lose);
    cluster.finish().await;
}

#[tokio::test]
async fn while_the_registry_is_away_nothing_is_produced() {
    let mut cluster = cluster(2).await;
    cluster.services.spawn(validate(cluster.bus.clone()));
    assert_eq!(cluster.post(0, "orders", r#"{"id":"1"}"#).await.0, 200);
    cluster.registry.set_away(true);
    let (status, body) = cluster.post(0, "orders", r#"{"id":"2"}"#).await;
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &problem["code"]), (503, &"unavailable".into()), "{problem}");
    assert_eq!(problem["recorded"], false, "{problem}");
    // Events wait for it.
    put(&cluster.bus.producer(), "3", Some(r#"{"state":"DONE"}"#));
    sleep(Duration::from_millis(300)).await;
    cluster.registry.set_away(false);
    eventually(async || {
        let (status, _) = cluster.get(cluster.public[1], "/v1/views/orders/3").await;
        (status == 200).then_some(())
    })
    .await;
    eventually(async || (cluster.post(0, "orders", r#"{"id":"4"}"#).await.0 == 200).then_some(()))
        .await;
    cluster.finish().await;
}
