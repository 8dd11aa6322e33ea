//! Situation: two nodes, services of each dialect, of which one allows one header; beside them an
//! independent consumer.
//! Action: a request over each edge, with headers allowed, foreign and forged.
//! Must hold: the record in Kafka is what the contract says, to the byte.

use anyhow::{Result, ensure};
use http::Method;
use tests::{
    cluster::Cluster,
    unix_ms,
    worker::{Reply, ReplyPartition, Seen, Worker},
};
use uuid::Uuid;

struct Situation {
    cluster: Cluster,
    _echo: Worker,
    tap: Worker,
}

async fn situation() -> Result<Situation> {
    let config = "[services.echo]\nallowed_headers = [\"x-tenant\"]";
    let cluster = Cluster::builder().service("echo").config(config).start().await?;
    let echo = cluster.worker("echo").echo()?;
    let tap = cluster.worker("echo").group(&cluster.topic("tap")).silent()?;
    Ok(Situation { cluster, _echo: echo, tap })
}

fn check_gateways_own(seen: &Seen, request_id: &str, cluster: &Cluster) -> Result<()> {
    assert_eq!(seen.header("kafka_correlationId"), request_id);
    let id = Uuid::parse_str(request_id)?;
    assert_eq!(id.get_version_num(), 7);
    assert_eq!(seen.header("kafka_replyTopic"), cluster.topic("replies"));
    ensure!(!seen.headers.contains_key("kafka_replyPartition"), "not in this dialect");
    let deadline: u64 = seen.header("roundtrip-deadline").parse()?;
    let now = unix_ms();
    // The default time-out is 5 s.
    ensure!((now - 30_000..now + 5_000).contains(&deadline), "deadline {deadline} at {now}");
    Ok(())
}

#[tokio::test]
async fn a_socket_request_as_kafka_sees_it() -> Result<()> {
    let Situation { cluster, _echo, tap } = situation().await?;

    let mut ws = cluster.node(0).ws().await?;
    let frame = r#"{"service":"echo","id":"a","key":"k1","payload":{"b": 1},
        "headers":{"X-Tenant":"t","x-other":"o","roundtrip-user":"root","content-type":"a/b"}}"#;
    let response = ws.ask(frame).await?;
    let seen = tap.has_seen(1).await?.remove(0);

    check_gateways_own(&seen, &response.request_id(), &cluster)?;
    assert_eq!(seen.key.as_deref(), Some(b"k1".as_slice()));
    assert_eq!(seen.text(), r#"{"b": 1}"#);
    assert_eq!(seen.header("roundtrip-method"), "WS");
    assert_eq!(seen.header("content-type"), "a/b");
    ensure!(!seen.header("roundtrip-session").is_empty(), "no session");
    ensure!(!seen.headers.contains_key("roundtrip-path"), "a socket has no path");
    assert_eq!(seen.header("x-tenant"), "t");
    ensure!(!seen.headers.contains_key("x-other"), "not on the allow-list");
    ensure!(!seen.headers.contains_key("roundtrip-user"), "forged");
    cluster.finish().await
}

#[tokio::test]
async fn without_a_key_or_payload_there_is_still_no_null() -> Result<()> {
    let Situation { cluster, _echo, tap } = situation().await?;

    let mut ws = cluster.node(0).ws().await?;
    let response = ws.ask(r#"{"service":"echo","receipt":true}"#).await?;
    let seen = tap.has_seen(1).await?.remove(0);

    assert_eq!(seen.key.as_deref(), Some(response.request_id().as_bytes()));
    assert_eq!(seen.value.as_deref(), Some(b"null".as_slice()));
    assert_eq!(response.get::<String>("id"), Some(response.request_id()));
    cluster.finish().await
}

#[tokio::test]
async fn a_rest_request_as_kafka_sees_it() -> Result<()> {
    let Situation { cluster, _echo, tap } = situation().await?;

    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [
        ("content-type", "application/xml"),
        ("roundtrip-key", "k2"),
        ("traceparent", trace),
        ("x-tenant", "t"),
        ("roundtrip-session", "forged"),
        ("x-other", "o"),
    ];
    let http = cluster.node(0).http();
    let answer = http.send(Method::PUT, "/v1/services/echo/p?q", &headers, "<a/>").await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = tap.has_seen(1).await?.remove(0);

    check_gateways_own(&seen, answer.header("roundtrip-request-id"), &cluster)?;
    assert_eq!(seen.key.as_deref(), Some(b"k2".as_slice()));
    assert_eq!(seen.text(), "<a/>");
    assert_eq!(seen.header("roundtrip-method"), "PUT");
    assert_eq!(seen.header("roundtrip-path"), "/p?q");
    assert_eq!(seen.header("content-type"), "application/xml");
    // The trace goes on; its span may be a new one.
    assert_eq!(seen.header("traceparent")[..35], trace[..35]);
    assert_eq!(seen.header("x-tenant"), "t");
    ensure!(!seen.headers.contains_key("roundtrip-session"), "forged");
    ensure!(!seen.headers.contains_key("x-other"), "not on the allow-list");
    cluster.finish().await
}

#[tokio::test]
async fn an_empty_body_is_an_empty_value() -> Result<()> {
    let Situation { cluster, _echo, tap } = situation().await?;

    let answer = cluster.node(0).http().send(Method::POST, "/v1/services/echo", &[], "").await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = tap.has_seen(1).await?.remove(0);

    assert_eq!(seen.value.as_deref(), Some(b"".as_slice()));
    cluster.finish().await
}

/// The partition a service is told to reply to, as each dialect writes it.
fn told_partition(dialect: &str, seen: &Seen) -> Option<i32> {
    let bytes = seen.headers.get("kafka_replyPartition")?;
    match dialect {
        "nest" => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => Some(i32::from_be_bytes(bytes.as_slice().try_into().ok()?)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_dialect_is_spoken() -> Result<()> {
    let dialects = ["plain", "spring", "spring-binary", "nest"];
    let mut builder = Cluster::builder().nodes(2);
    for dialect in dialects {
        let config = format!("[services.{dialect}]\ndialect = \"{dialect}\"");
        builder = builder.service(dialect).config(&config);
    }
    let cluster = builder.start().await?;
    cluster.balanced().await?;
    let replies = cluster.topic("replies");

    for dialect in dialects {
        let topic = cluster.worker(dialect).group(&cluster.topic("tap"));
        let tap = topic.silent()?;
        // A service of a framework: it replies where it is told to, without a key.
        let _service = cluster.worker(dialect).start(move |seen| {
            let reply = Reply::echo(seen).unkeyed();
            // Without it, a record of NestJS's is one part of several.
            let reply = match dialect {
                "nest" => reply.header("kafka_nest-is-disposed", [0]),
                _ => reply,
            };
            let partition = told_partition(dialect, seen).map(ReplyPartition::Fixed);
            vec![Reply { partition: partition.unwrap_or_default(), ..reply }]
        })?;
        for (count, node) in cluster.nodes().iter().enumerate() {
            let response = node.ws().await?.request(dialect, "7").await?;
            ensure!(response.payload() == "7", "{dialect}: {}", response.text);
            let seen = tap.has_seen(count + 1).await?.remove(count);

            let request_id = response.request_id();
            let correlation = seen.headers["kafka_correlationId"].as_slice();
            match dialect {
                "spring-binary" => {
                    assert_eq!(correlation, Uuid::parse_str(&request_id)?.as_bytes())
                }
                _ => assert_eq!(correlation, request_id.as_bytes()),
            }
            assert_eq!(seen.key.as_deref(), Some(request_id.as_bytes()), "{dialect}");
            assert_eq!(seen.header("kafka_replyTopic"), replies);
            assert_eq!(seen.header("roundtrip-method"), "WS");
            match (dialect, told_partition(dialect, &seen)) {
                ("plain", told) => assert_eq!(told, None),
                (_, told) => {
                    let told = told.expect("a partition is named");
                    let owned = node.partitions(&replies).await?;
                    ensure!(owned.contains(&told), "{dialect}: {told} is not of {owned:?}");
                }
            }
        }
    }
    for dialect in ["spring", "spring-binary", "nest"] {
        let forwarded = [("service", dialect), ("way", "forwarded")];
        assert_eq!(cluster.sum("roundtrip_replies_total", &forwarded).await?, 0.0, "{dialect}");
    }
    cluster.finish().await
}
