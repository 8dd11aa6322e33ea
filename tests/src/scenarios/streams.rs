//! Situation: two nodes, and services that answer in parts: in order, out of order, on any partition,
//! with repeats, with gaps, without an end, as NestJS does.
//! Action: clients ask over WebSocket and HTTP; they cancel, hang up, or do not read.
//! Must hold: each part comes once and in order, then one end; a broken stream ends honestly; a stream
//! that nobody reads, or wants, holds up nobody else.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use http::Method;
use rand::{rng, seq::SliceRandom};
use serde_json::json;
use tests::{
    SOON,
    client::{Frame, WsClient},
    cluster::Cluster,
    eventually,
    raw::{RawFrame, RawWs, opcode},
    worker::{Reply, Seen},
};

fn part(index: usize) -> Reply {
    Reply::of(index.to_string()).header("roundtrip-part", index.to_string())
}

fn end(count: usize) -> Reply {
    Reply::default().header("roundtrip-end", count.to_string())
}

/// As many parts as the request says.
fn count(seen: &Seen) -> Vec<Reply> {
    let count = seen.text().parse().unwrap_or(3);
    (0..count).map(part).chain([end(count)]).collect()
}

async fn cluster(nodes: usize, config: &str) -> Result<Cluster> {
    let services = ["count", "shuffled", "broken", "idle", "nest", "echo"];
    let builder = Cluster::builder().nodes(nodes).config(config);
    let builder = services.iter().fold(builder, |builder, name| builder.service(name));
    let cluster = builder.start().await?;
    cluster.balanced().await?;
    Ok(cluster)
}

/// Reads one request's frames: the payloads of its parts, and its end.
async fn read(ws: &mut WsClient, id: &str) -> Result<(Vec<String>, Frame)> {
    let mut parts = Vec::new();
    loop {
        let frame = ws.frame().await?;
        if frame.raw("id") != Some(id) {
            continue;
        }
        if frame.kind() != "part" {
            return Ok((parts, frame));
        }
        let index: usize = frame.need("index")?;
        ensure!(index == parts.len(), "part {index} after {}: {}", parts.len(), frame.text);
        parts.push(frame.payload().to_owned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_come_once_and_in_order() -> Result<()> {
    let cluster = cluster(2, "").await?;
    let _count = cluster.worker("count").start(count)?;
    let _echo = cluster.worker("echo").echo()?;
    // On any partition, so through any node, each part twice and in any order.
    let _shuffled = cluster.worker("shuffled").start(|seen| {
        let mut replies = count(seen);
        replies.extend(count(seen));
        replies.shuffle(&mut rng());
        replies.into_iter().map(Reply::anywhere).collect()
    })?;
    for node in cluster.nodes() {
        let mut ws = node.ws().await?;
        for (id, service) in [("1", "count"), ("2", "shuffled")] {
            let frame =
                format!(r#"{{"id":{id},"service":"{service}","payload":200,"receipt":true}}"#);
            ws.send(frame).await?;
            let (parts, receipt) = read(&mut ws, id).await?;
            ensure!(parts.is_empty() && receipt.kind() == "receipt", "{}", receipt.text);
            ws.send(r#"{"id":"e","service":"echo","payload":7}"#).await?;
            let (parts, end) = read(&mut ws, id).await?;
            let expected: Vec<String> = (0..200).map(|number: usize| number.to_string()).collect();
            ensure!(parts == expected, "{service}: {parts:?}");
            ensure!(end.kind() == "response" && end.get("parts") == Some(200), "{}", end.text);
            ensure!((end.status(), end.payload()) == (200, "null"), "{}", end.text);
        }
        // No part at all is a plain answer.
        let answer = ws.request("count", "0").await?;
        ensure!(answer.kind() == "response" && answer.raw("parts").is_none(), "{}", answer.text);
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn http_callers_get_events_lines_or_an_array() -> Result<()> {
    let config = "[limits]\nstream_bytes_max = \"64KiB\"";
    let cluster = cluster(2, config).await?;
    let _count = cluster.worker("count").start(|seen| match seen.text().as_str() {
        "3" => count(seen).into_iter().map(Reply::anywhere).collect(),
        _ => count(seen),
    })?;
    let _broken = cluster
        .worker("broken")
        .start(|_| vec![part(0), Reply::of(r#"{"why":"tired"}"#).status(418)])?;
    let http = cluster.node(0).http();
    let post = async |service: &str, accept: &str, body: &str| {
        let headers = [("accept", accept)];
        let path = format!("/v1/services/{service}");
        http.send(Method::POST, &path, &headers, body.to_owned()).await
    };
    let answer = post("count", "text/event-stream", "3").await?;
    ensure!(answer.header("content-type") == "text/event-stream", "{:?}", answer.headers);
    ensure!(answer.header("roundtrip-request-id").len() == 36, "{:?}", answer.headers);
    let end = r#"{"parts":3,"status":200,"payload":null}"#;
    let expected = format!("data: 0\n\ndata: 1\n\ndata: 2\n\nevent: end\ndata: {end}\n\n");
    ensure!(answer.text() == expected, "{}", answer.text());

    let answer = post("count", "application/x-ndjson", "3").await?;
    ensure!(answer.header("content-type") == "application/x-ndjson", "{:?}", answer.headers);
    ensure!(answer.text() == "0\n1\n2\n", "{}", answer.text());

    let answer = post("count", "*/*", "3").await?;
    ensure!(answer.header("content-type") == "application/json", "{:?}", answer.headers);
    ensure!(answer.text() == "[0,1,2]", "{}", answer.text());
    let answer = post("count", "*/*", "100000").await?;
    ensure!(answer.json()?["code"] == json!("too_large"), "{}", answer.text());
    ensure!(answer.status == 413, "{}", answer.status);

    let answer = post("broken", "text/event-stream", "1").await?;
    let events = answer.text();
    let problem = events.strip_prefix("data: 0\n\nevent: error\ndata: ").context("an error")?;
    ensure!(problem.trim_end() == r#"{"why":"tired"}"#, "{problem}");
    ensure!(post("broken", "application/x-ndjson", "1").await.is_err(), "it looks complete");
    let answer = post("broken", "application/json", "1").await?;
    ensure!((answer.status.as_u16(), &*answer.text()) == (418, r#"{"why":"tired"}"#));
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_ends_honestly() -> Result<()> {
    let config =
        "[services.idle]\nstream_idle_timeout = \"300ms\"\n[services.nest]\ndialect = \"nest\"";
    let cluster = cluster(2, config).await?;
    let _broken = cluster.worker("broken").start(|seen| match seen.text().as_str() {
        "\"gap\"" => vec![part(0), part(2), end(3)],
        "\"few\"" => vec![part(0), part(1), end(1)],
        "\"word\"" => vec![part(0), Reply::of("1").header("roundtrip-part", "x")],
        "\"error\"" => vec![part(0), Reply::of("1").status(503)],
        _ => vec![part(0), part(1), Reply::of("\"end\"").header("roundtrip-end", "2").status(201)],
    })?;
    let _idle = cluster.worker("idle").start(|_| vec![part(0), part(1)])?;
    let disposed = |value: &str| Reply::of(value).header("kafka_nest-is-disposed", [0]);
    let _nest = cluster.worker("nest").start(move |seen| {
        let partition = seen.header("kafka_replyPartition").parse().unwrap_or(-1);
        let replies = match seen.text().as_str() {
            "1" => vec![disposed("\"whole\"")],
            "2" => vec![Reply::of("1"), Reply::of("2"), disposed("3")],
            _ => vec![
                Reply::of("1"),
                Reply::of("2"),
                Reply::default().header("kafka_nest-is-disposed", [0]),
            ],
        };
        let fixed = tests::worker::ReplyPartition::Fixed(partition);
        replies.into_iter().map(|reply| Reply { partition: fixed, ..reply.unkeyed() }).collect()
    })?;
    let mut ws = cluster.node(0).ws().await?;
    let mut ask = async |service: &str, payload: &str| {
        ws.send(format!(r#"{{"id":1,"service":"{service}","payload":{payload}}}"#)).await?;
        read(&mut ws, "1").await
    };
    for (what, told) in [("gap", "part 1 is missing"), ("few", "2 parts came of 1")] {
        let (parts, end) = ask("broken", &format!("\"{what}\"")).await?;
        ensure!(!parts.is_empty() && end.code() == "service_error", "{what}: {}", end.text);
        ensure!(end.text.contains(told) && end.get("recorded") == Some(true), "{}", end.text);
    }
    for (what, status) in [("word", 502), ("error", 503)] {
        let (parts, end) = ask("broken", &format!("\"{what}\"")).await?;
        ensure!(parts == ["0"] && end.code() == "service_error", "{what}: {}", end.text);
        ensure!(end.status() == status, "{}", end.text);
    }
    let (parts, end) = ask("broken", "null").await?;
    ensure!(parts == ["0", "1"] && end.status() == 201, "{}", end.text);
    ensure!((end.payload(), end.get("parts")) == ("\"end\"", Some(2)), "{}", end.text);
    let (parts, end) = ask("idle", "null").await?;
    ensure!(parts == ["0", "1"] && end.code() == "timeout", "{}", end.text);
    ensure!(end.get("recorded") == Some(true), "{}", end.text);

    let (parts, end) = ask("nest", "1").await?;
    ensure!(parts.is_empty() && end.payload() == "\"whole\"", "{}", end.text);
    let (parts, end) = ask("nest", "2").await?;
    ensure!(parts == ["1", "2", "3"] && end.get("parts") == Some(3), "{parts:?} {}", end.text);
    let (parts, end) = ask("nest", "3").await?;
    ensure!(parts == ["1", "2"] && end.get("parts") == Some(2), "{parts:?} {}", end.text);
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_wants_holds_up_nobody() -> Result<()> {
    // One partition, which all have to share.
    let config = "[limits]\nstream_bytes_max = \"256KiB\"\n[session]\npong_timeout = \"60s\"";
    let services = ["count", "echo"];
    let builder = Cluster::builder().reply_partitions(1).config(config);
    let builder = services.iter().fold(builder, |builder, name| builder.service(name));
    let cluster = builder.start().await?;
    let _count = cluster.worker("count").start(|seen| {
        let count: usize = seen.text().parse().unwrap_or(3);
        let part = |index: usize| Reply { value: Some(vec![b'7'; 3000]), ..part(index) };
        (0..count).map(part).chain([end(count)]).collect()
    })?;
    let _echo = cluster.worker("echo").echo()?;
    let node = cluster.node(0);
    let mut other = node.ws().await?;

    let mut ws = node.ws().await?;
    ws.send(r#"{"id":1,"service":"count","payload":10000,"timeout_ms":60000}"#).await?;
    let first = ws.frame().await?;
    ensure!(first.kind() == "part", "{}", first.text);
    ws.send(r#"{"type":"cancel","id":1}"#).await?;
    let end = loop {
        let frame = ws.frame().await?;
        if frame.kind() != "part" {
            break frame;
        }
    };
    ensure!(end.code() == "cancelled", "{}", end.text);
    let answer = other.request("echo", "1").await?;
    ensure!(answer.payload() == "1", "{}", answer.text);

    // Who does not read loses the stream, and nothing else.
    let mut sleeper = RawWs::connect(node.public()).await?;
    let frame = r#"{"id":1,"service":"count","payload":10000,"timeout_ms":60000}"#;
    sleeper.write(&RawFrame::new(opcode::TEXT, frame).bytes()).await?;
    eventually(SOON, "the limit is hit", async || {
        let started = Instant::now();
        let answer = other.request("echo", "2").await?;
        ensure!(answer.payload() == "2", "{} after {:?}", answer.text, started.elapsed());
        let limit = [("limit", "stream_bytes_max")];
        let hits = cluster.sum("roundtrip_limit_hits_total", &limit).await?;
        ensure!(hits >= 1.0, "no hit yet");
        Ok(())
    })
    .await?;
    let end = loop {
        let (kind, payload) = sleeper.next().await?.context("not closed")?;
        ensure!(kind != opcode::CLOSE, "closed: {payload:?}");
        let text = String::from_utf8_lossy(&payload).into_owned();
        if text.contains(r#""type":"error""#) {
            break text;
        }
    };
    ensure!(end.contains("overloaded") && end.contains("stream_bytes_max"), "{end}");

    // Who hangs up, too.
    let http = node.http();
    let call =
        http.send(Method::POST, "/v1/services/count", &[("accept", "text/event-stream")], "10000");
    if tokio::time::timeout(Duration::from_millis(50), call).await.is_ok() {
        bail!("10000 parts within 50 ms");
    }
    let answer = other.request("echo", "3").await?;
    ensure!(answer.payload() == "3", "{}", answer.text);
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_stream_comes_whole_in_bounded_memory() -> Result<()> {
    const PARTS: usize = 200_000;
    let cluster = Cluster::builder().service("count").start().await?;
    let _count = cluster.worker("count").start(count)?;
    let mut ws = cluster.node(0).ws().await?;
    let before = cluster.node(0).resident_bytes()?;
    let config = format!(r#"{{"id":1,"service":"count","payload":{PARTS},"timeout_ms":60000}}"#);
    ws.send(config).await?;
    let (parts, end) = read(&mut ws, "1").await?;
    ensure!(parts.len() == PARTS && end.kind() == "response", "{}: {}", parts.len(), end.text);
    let grown = cluster.node(0).resident_bytes()?.saturating_sub(before);
    ensure!(grown < 64 << 20, "{grown} bytes more");
    cluster.finish().await
}
