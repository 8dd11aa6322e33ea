//! Messages that can be deleted one by one: what is written, what their writers are told, and who gets
//! which call.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use gateway::{
    bus::{BusEvent, Consumer, memory::MemoryBus, partitioner::partition_for},
    config::Config,
    deletable::split,
};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::harness::{Aim, Cluster, config, config_with};

const PARTITIONS: i32 = 4;

fn deletable(number: usize) -> Config {
    let mut config = config(number);
    config.services.get_mut("echo").unwrap().deletable = true;
    config
}

async fn cluster() -> Cluster {
    let bus = MemoryBus::new(&[("replies", 12), ("echo", PARTITIONS), ("silent", 1)]);
    let mut cluster = Cluster::start_each(1, bus, MemoryBus::producer, deletable).await;
    cluster.serve(Aim::Affinity, Duration::ZERO);
    cluster
}

async fn call(cluster: &Cluster, method: Method, path: &str, key: &str) -> Response<Bytes> {
    call_with(cluster, method, path, key, "1").await
}

async fn call_with(
    cluster: &Cluster,
    method: Method,
    path: &str,
    key: &str,
    body: &'static str,
) -> Response<Bytes> {
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{}/v1/services/{path}", cluster.public[0]))
        .header("roundtrip-key", key)
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap();
    let (head, body) = cluster.http.request(request).await.unwrap().into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

fn json_of(answer: &Response<Bytes>) -> Value {
    serde_json::from_slice(answer.body()).unwrap()
}

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    partition: i32,
    offset: i64,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

/// The first records of the topic but for those that keep its segments rolling.
async fn records(cluster: &Cluster, group: &str, count: usize) -> Vec<Seen> {
    let (mut consumer, mut seen) = (cluster.bus.consumer(group, "echo"), Vec::new());
    while seen.len() < count {
        let mut sink = |event: BusEvent<'_>| {
            let BusEvent::Record(record) = event else { return };
            let key = record.key.unwrap().to_vec();
            if !split(&key).unwrap().0.is_empty() {
                let (partition, offset) = (record.partition, record.offset);
                seen.push(Seen { partition, offset, key, value: record.value.map(<[u8]>::to_vec) });
            }
        };
        consumer.next(100, &mut sink).await;
    }
    seen
}

#[tokio::test]
async fn a_message_is_written_under_a_key_of_its_own_and_deleted_by_it() {
    let cluster = cluster().await;
    let key = "a/b#c é".as_bytes();
    let partition = partition_for(key, PARTITIONS);

    let answer = call(&cluster, Method::POST, "echo", "a/b#c é").await;
    assert_eq!(answer.status(), 200);
    let guid = answer.headers()["roundtrip-guid"].to_str().unwrap().to_owned();
    assert_eq!(answer.headers()["roundtrip-request-id"], guid);
    let wire = [key, b"#", guid.as_bytes()].concat();

    let path = format!("echo/messages/a%2Fb%23c%20%C3%A9/{guid}");
    let deleted = call(&cluster, Method::DELETE, &path, "").await;
    assert_eq!(deleted.status(), 202, "{deleted:?}");
    assert_eq!(deleted.headers()["content-type"], "application/json");
    let at = json_of(&deleted);
    assert_eq!((&at["topic"], &at["partition"]), (&json!("echo"), &json!(partition)));

    let seen = records(&cluster, "all", 2).await;
    assert_eq!(seen[0].value, Some(b"1".to_vec()));
    assert_eq!(seen[1].value, None);
    assert_eq!(json!(seen[1].offset), at["offset"]);
    for record in &seen {
        assert_eq!((record.partition, &record.key), (partition, &wire));
    }
    let counted = cluster.metric("roundtrip_requests_total", &["echo", "rest", "ok"]).await;
    assert_eq!(counted, 2.0);

    // One that was written before the topic got more partitions.
    let path = format!("{path}?partition={}", (partition + 1) % PARTITIONS);
    let elsewhere = call(&cluster, Method::DELETE, &path, "").await;
    assert_eq!(json_of(&elsewhere)["partition"], (partition + 1) % PARTITIONS);
    let nowhere = path.replace("?partition=", "?partition=1");
    let nowhere = call(&cluster, Method::DELETE, &nowhere, "").await;
    assert_eq!(nowhere.status(), 404, "{nowhere:?}");
    cluster.finish().await;
}

#[tokio::test]
async fn a_receipt_has_the_guid() {
    let cluster = cluster().await;
    let socket = TcpStream::connect(cluster.public[0]).await.unwrap();
    let url = format!("ws://{}/ws", cluster.public[0]);
    let (mut socket, _) = client_async(url, socket).await.unwrap();
    for (service, has_guid) in [("echo", true), ("silent", false)] {
        let frame = json!({ "service": service, "id": service, "receipt": true });
        socket.send(Message::text(frame.to_string())).await.unwrap();
        let receipt = loop {
            let text = socket.next().await.unwrap().unwrap().into_text().unwrap();
            let frame: Value = serde_json::from_str(&text).unwrap();
            if frame["type"] == "receipt" && frame["id"] == service {
                break frame;
            }
        };
        assert_eq!(receipt.get("guid"), has_guid.then_some(&receipt["request_id"]), "{receipt}");
    }
    let seen = records(&cluster, "all", 1).await.remove(0);
    let (key, guid) = split(&seen.key).unwrap();
    assert_eq!(key, guid.as_bytes(), "without a key of its own it has its id for one");
    cluster.finish().await;
}

#[tokio::test]
async fn only_paths_of_messages_are_not_the_services() {
    const GUID: &str = "01a21ade-b982-7135-90af-3503dff3d7e4";
    let cluster = cluster().await;
    let whole = format!("echo/messages/k/{GUID}");
    for (method, path, status) in [
        (Method::DELETE, "echo/messages/k", 400),
        (Method::DELETE, "echo/messages/k/guid", 400),
        (Method::DELETE, &*format!("{whole}?other=1"), 400),
        (Method::GET, &*whole, 405),
        (Method::POST, &*whole, 405),
        (Method::OPTIONS, &*whole, 204),
        // What the service has itself.
        (Method::GET, "echo/messages/k", 200),
        (Method::DELETE, "echo/message/k", 200),
        (Method::DELETE, "echo", 200),
    ] {
        let answer = call(&cluster, method.clone(), path, "k").await;
        assert_eq!(answer.status(), status, "{method} {path}: {answer:?}");
        if status == 400 || status == 405 {
            assert_eq!(json_of(&answer)["code"], "bad_request");
        }
        if status == 204 || status == 405 {
            assert_eq!(answer.headers()["allow"], "DELETE, OPTIONS");
        }
    }
    cluster.bus.set_available(false);
    let away = call(&cluster, Method::DELETE, &whole, "").await;
    assert_eq!(away.status(), 503);
    let problem = json_of(&away);
    assert_eq!((&problem["code"], &problem["recorded"]), (&json!("unavailable"), &json!(false)));
    cluster.bus.set_available(true);
    cluster.finish().await;
}

#[tokio::test]
async fn of_other_services_the_path_is_the_services_own() {
    let mut cluster = Cluster::start(1).await;
    cluster.serve(Aim::Affinity, Duration::ZERO);
    let path = "echo/messages/k/01a21ade-b982-7135-90af-3503dff3d7e4";
    let answer = call(&cluster, Method::DELETE, path, "k").await;
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &b"1"[..]));
    assert!(!answer.headers().contains_key("roundtrip-guid"));
    cluster.finish().await;
}

#[tokio::test]
async fn deletions_count_against_the_rate() {
    let config = |number| {
        let more = "limits.requests_per_second_max = 1";
        let mut config = config_with(number, more);
        config.services.get_mut("echo").unwrap().deletable = true;
        config
    };
    let bus = MemoryBus::new(&[("replies", 12), ("echo", PARTITIONS), ("silent", 1)]);
    let cluster = Cluster::start_each(1, bus, MemoryBus::producer, config).await;
    let path = "echo/messages/k/01a21ade-b982-7135-90af-3503dff3d7e4";
    let mut statuses = Vec::new();
    while statuses.last() != Some(&429) && statuses.len() < 100 {
        // With a body that nobody reads each call would have a connection of its own.
        let answer = call_with(&cluster, Method::DELETE, path, "", "").await;
        statuses.push(answer.status().as_u16());
    }
    assert!(statuses.iter().rev().skip(1).all(|status| *status == 202), "{statuses:?}");
    assert_eq!(statuses.last(), Some(&429), "{statuses:?}");
    cluster.finish().await;
}
