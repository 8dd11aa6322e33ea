//! Situation: one node, with small limits where the code needs them.
//! Action: each mistake or misfortune, on a socket and over HTTP.
//! Must hold: each has its code, its HTTP status, and says whether to try again, whether the request
//! may be recorded, and which limit was hit.
//!
//! `unavailable` is with the outages, `gone` with the results. `internal` is not among them: nobody knows how to make it
//! happen.

use std::time::Duration;

use anyhow::{Result, ensure};
use http::Method;
use nix::sys::signal::Signal;
use rdkafka::admin::{NewTopic, TopicReplication};
use tests::{
    SOON,
    client::{Connect, Frame, Handshake},
    cluster::Cluster,
    eventually,
    http::{HttpClient, Response},
    worker::Reply,
};

const POST: Method = Method::POST;

/// An error frame's code, whether to try again, and whether it may be recorded.
fn check_frame(frame: &Frame, code: &str, retryable: bool, recorded: bool) -> Result<()> {
    ensure!(frame.kind() == "error" && frame.code() == code, "not {code}: {}", frame.text);
    ensure!(frame.need::<bool>("retryable")? == retryable, "retryable: {}", frame.text);
    ensure!(frame.need::<bool>("recorded")? == recorded, "recorded: {}", frame.text);
    ensure!(!frame.need::<String>("message")?.is_empty(), "no message: {}", frame.text);
    Ok(())
}

fn check_problem(answer: &Response, status: u16, code: &str) -> Result<()> {
    ensure!(answer.status == status, "{} is not {status}: {}", answer.status, answer.text());
    ensure!(answer.header("content-type") == "application/problem+json", "not a problem");
    let problem = answer.json()?;
    ensure!(problem["code"] == code, "not {code}: {problem}");
    ensure!(problem["status"] == status, "no status: {problem}");
    let retryable = matches!(code, "rate_limited" | "overloaded" | "unavailable" | "timeout");
    ensure!(problem["retryable"] == retryable, "retryable: {problem}");
    let retry_after = !answer.header("retry-after").is_empty();
    ensure!(retry_after == matches!(status, 429 | 503), "Retry-After: {answer:?}");
    Ok(())
}

fn check_names_limit(frame: &Frame, limit: &str) -> Result<()> {
    ensure!(frame.text.contains(limit), "the limit {limit} is not named: {}", frame.text);
    Ok(())
}

async fn post(http: &HttpClient, service: &str) -> Result<Response> {
    http.post(&format!("/v1/services/{service}"), "1").await
}

#[tokio::test]
async fn what_the_client_got_wrong() -> Result<()> {
    let config = "[limits]\nmessage_bytes_max = \"1KiB\"";
    let cluster = Cluster::builder().service("echo").config(config).start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let mut ws = cluster.node(0).ws().await?;
    let http = cluster.node(0).http();

    let long_id = format!(r#"{{"service":"echo","id":"{}"}}"#, "i".repeat(129));
    let bad = [
        "no JSON",
        "[]",
        "{}",
        r#"{"service":"echo"} {}"#,
        r#"{"type":"no-such-type"}"#,
        r#"{"service":7}"#,
        r#"{"type":"request"}"#,
        r#"{"service":"echo","id":1.5}"#,
        r#"{"service":"echo","id":true}"#,
        r#"{"service":"echo","key":1}"#,
        r#"{"service":"echo","timeout_ms":0}"#,
        r#"{"service":"echo","timeout_ms":-1}"#,
        r#"{"service":"echo","timeout_ms":"1"}"#,
        r#"{"service":"echo","headers":{"a":1}}"#,
        r#"{"service":"echo","receipt":1}"#,
        r#"{"type":"cancel"}"#,
        r#"{"type":"ack"}"#,
        &long_id,
    ];
    for frame in bad {
        ws.send(frame).await?;
        check_frame(&ws.frame().await?, "bad_request", false, false)?;
    }
    // The error has the request's id, if that can be read.
    let frame = ws.ask(r#"{"service":7,"id":"mine"}"#).await?;
    ensure!(frame.get::<String>("id").as_deref() == Some("mine"), "{}", frame.text);
    check_problem(&post(&http, "%ff").await?, 400, "bad_request")?;
    let refused = cluster.node(0).connect().query("resume=x&last_seq=y").handshake().await?;
    let Handshake::Refused { status, .. } = refused else { panic!("a bad last_seq is let in") };
    ensure!(status == 400, "{status}");

    check_frame(&ws.request("nobody", "1").await?, "unknown_service", false, false)?;
    check_problem(&post(&http, "nobody").await?, 404, "unknown_service")?;

    ws.send(r#"{"type":"cancel","id":"nothing"}"#).await?;
    check_frame(&ws.frame().await?, "not_found", false, false)?;
    check_problem(&http.get("/v1/nothing").await?, 404, "not_found")?;

    let large = format!("\"{}\"", "x".repeat(2_000));
    let frame = ws.request("echo", &large).await?;
    check_frame(&frame, "too_large", false, false)?;
    check_names_limit(&frame, "message_bytes_max is 1024; the payload has 2002 bytes")?;
    let answer = http.post("/v1/services/echo", &large).await?;
    check_problem(&answer, 413, "too_large")?;
    let sizes = "message_bytes_max is 1024; the body has 2002 bytes";
    ensure!(answer.text().contains(sizes), "unnamed limit: {}", answer.text());
    // Neither connection nor node has suffered.
    assert_eq!(ws.request("echo", "1").await?.status(), 200);
    assert_eq!(post(&http, "echo").await?.status, 200);
    cluster.finish().await
}

#[tokio::test]
async fn a_broker_that_refuses_the_size_is_too_large_as_well() -> Result<()> {
    let cluster = Cluster::builder()
        .config("[services.small]\nrequest_topic = \"{tag}.small\"")
        .start()
        .await?;
    let topic = cluster.topic("small");
    let small = NewTopic::new(&topic, 1, TopicReplication::Fixed(1));
    cluster.kafka().create(vec![small.set("max.message.bytes", "2000")]).await?;

    let large = format!("\"{}\"", "x".repeat(3_000));
    // With the key, which is the request id.
    let sizes = "max.message.bytes is lower; the record has 3038 bytes beside its headers";
    let frame = cluster.node(0).ws().await?.request("small", &large).await?;
    check_frame(&frame, "too_large", false, false)?;
    check_names_limit(&frame, sizes)?;
    let answer = cluster.node(0).http().post("/v1/services/small", &large).await?;
    check_problem(&answer, 413, "too_large")?;
    ensure!(answer.text().contains(sizes), "{}", answer.text());
    cluster.finish().await
}

#[tokio::test]
async fn what_happens_to_a_request_in_flight() -> Result<()> {
    let config = "[limits]\nin_flight_per_connection_max = 1";
    let cluster =
        Cluster::builder().service("silent").service("fails").config(config).start().await?;
    let silent = cluster.worker("silent").silent()?;
    let _fails =
        cluster.worker("fails").start(|_| vec![Reply::of(r#"{"why":"sold out"}"#).status(409)])?;
    let mut ws = cluster.node(0).ws().await?;
    let http = cluster.node(0).http();

    let frame = ws.request("fails", "1").await?;
    check_frame(&frame, "service_error", false, true)?;
    assert_eq!(frame.status(), 409);
    assert_eq!(frame.payload(), r#"{"why":"sold out"}"#);
    // Over HTTP the service's own bytes.
    let answer = post(&http, "fails").await?;
    assert_eq!(answer.status, 409);
    assert_eq!(answer.text(), r#"{"why":"sold out"}"#);

    ws.send(r#"{"service":"silent","id":"a","payload":1}"#).await?;
    silent.has_seen(1).await?;
    ws.send(r#"{"service":"silent","id":"a","payload":2}"#).await?;
    let duplicate = ws.frame().await?;
    check_frame(&duplicate, "duplicate", false, false)?;
    assert!(!duplicate.is_terminal());
    let over = ws.ask(r#"{"service":"silent","id":"b"}"#).await?;
    check_frame(&over, "overloaded", true, false)?;
    check_names_limit(&over, "in_flight_per_connection_max is 1; 1 in flight")?;
    let cancelled = ws.ask(r#"{"type":"cancel","id":"a"}"#).await?;
    check_frame(&cancelled, "cancelled", false, true)?;
    assert_eq!(cancelled.get::<String>("id").as_deref(), Some("a"));

    let late = ws.ask(r#"{"service":"silent","id":"c","timeout_ms":300}"#).await?;
    check_frame(&late, "timeout", true, true)?;
    ensure!(late.text.contains("within 300 ms"), "{}", late.text);
    let prefer = [("prefer", "wait=1")];
    let answer = http.send(POST, "/v1/services/silent", &prefer, "1").await?;
    check_problem(&answer, 504, "timeout")?;
    ensure!(answer.json()?["recorded"] == true, "recorded: {}", answer.text());
    cluster.finish().await
}

/// A reliable session's request is produced once the registry has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_says_whether_kafka_may_have_the_request() -> Result<()> {
    let cluster = Cluster::builder().service("silent").own_redis().start().await?;
    let silent = cluster.worker("silent").silent()?;
    let (mut ws, _) = Connect::to(cluster.node(0).public()).query("reliable=1").welcome().await?;

    cluster.redis().signal(Signal::SIGSTOP)?;
    let early = ws.ask(r#"{"service":"silent","id":"a","timeout_ms":300}"#).await?;
    check_frame(&early, "timeout", true, false)?;
    cluster.redis().signal(Signal::SIGCONT)?;
    let late = ws.ask(r#"{"service":"silent","id":"b","payload":2,"timeout_ms":5000}"#).await?;
    check_frame(&late, "timeout", true, true)?;
    let seen: Vec<String> = silent.seen().iter().map(|seen| seen.text()).collect();
    ensure!(seen == ["2"], "what was never recorded is not there: {seen:?}");
    cluster.finish().await
}

#[tokio::test]
async fn a_service_error_without_words_is_a_problem() -> Result<()> {
    let cluster = Cluster::builder().service("fails").start().await?;
    let _fails = cluster.worker("fails").start(|seen| match seen.text().as_str() {
        "1" => vec![Reply::default().status(422)],
        _ => vec![Reply::default().header("roundtrip-status", "what?")],
    })?;
    let (mut ws, http) = (cluster.node(0).ws().await?, cluster.node(0).http());

    for (payload, status) in [("1", 422), ("2", 502)] {
        let frame = ws.request("fails", payload).await?;
        check_frame(&frame, "service_error", false, true)?;
        assert_eq!(frame.status(), status);
        let answer = http.post("/v1/services/fails", payload).await?;
        check_problem(&answer, status, "service_error")?;
        ensure!(answer.json()?["recorded"] == true, "recorded: {}", answer.text());
    }
    cluster.finish().await
}

#[tokio::test]
async fn too_many_requests() -> Result<()> {
    let config = "[limits]\nrequests_per_second_max = 1";
    let cluster = Cluster::builder().service("echo").config(config).start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let mut ws = cluster.node(0).ws().await?;

    // A burst of twice as many is let through.
    for _ in 0..8 {
        ws.send(r#"{"service":"echo"}"#).await?;
    }
    let (mut ok, mut limited) = (0, Vec::new());
    while ok + limited.len() < 8 {
        let frame = ws.frame().await?;
        if frame.kind() == "response" { ok += 1 } else { limited.push(frame) }
    }
    ensure!(ok >= 2 && !limited.is_empty(), "{ok} passed");
    check_frame(&limited[0], "rate_limited", true, false)?;
    check_names_limit(&limited[0], "requests_per_second_max")?;
    let wait: u64 = limited[0].need("retry_after_ms")?;
    ensure!((1..=1_000).contains(&wait), "{wait}");

    let http = cluster.node(0).http();
    let answer = eventually(SOON, "one call too many", async || {
        let answer = post(&http, "echo").await?;
        ensure!(answer.status != 200, "let through");
        Ok(answer)
    })
    .await?;
    check_problem(&answer, 429, "rate_limited")?;
    // Another connection has an allowance of its own.
    assert_eq!(cluster.node(0).ws().await?.request("echo", "1").await?.status(), 200);
    cluster.finish().await
}

#[tokio::test]
async fn a_full_node() -> Result<()> {
    let config = "[limits]\nin_flight_max = 1\nconnections_max = 1";
    let cluster = Cluster::builder().service("silent").config(config).start().await?;
    let silent = cluster.worker("silent").silent()?;
    let node = cluster.node(0);
    let mut ws = node.ws().await?;

    ws.send(r#"{"service":"silent","id":1,"timeout_ms":60000}"#).await?;
    silent.has_seen(1).await?;
    let over = ws.ask(r#"{"service":"silent","id":2}"#).await?;
    check_frame(&over, "overloaded", true, false)?;
    check_names_limit(&over, "in_flight_max")?;
    check_problem(&post(&node.http(), "silent").await?, 503, "overloaded")?;

    let Handshake::Refused { status, headers } = node.connect().handshake().await? else {
        panic!("one connection too many is let in");
    };
    ensure!(status == 503 && headers.contains_key("retry-after"), "{status} {headers:?}");
    ws.close().await?;
    eventually(SOON, "its place is free", async || node.ws().await).await?;
    for limit in ["in_flight_max", "connections_max"] {
        let hits = cluster.sum("roundtrip_limit_hits_total", &[("limit", limit)]).await?;
        ensure!(hits >= 1.0, "{limit} is not counted");
    }
    cluster.finish().await
}

#[tokio::test]
async fn a_foreign_origin() -> Result<()> {
    let config = "[public]\nallowed_origins = [\"https://shop.example\"]";
    let cluster = Cluster::builder().service("echo").config(config).start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let node = cluster.node(0);

    let own = format!("http://{}", node.public());
    for origin in ["https://shop.example", &own] {
        node.connect().origin(origin).welcome().await?;
        let headers = [("origin", origin)];
        let answer = node.http().send(POST, "/v1/services/echo", &headers, "1").await?;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("access-control-allow-origin"), origin);
    }
    for origin in ["https://evil.example", "https://shop.example.evil", "null"] {
        let Handshake::Refused { status, .. } = node.connect().origin(origin).handshake().await?
        else {
            panic!("{origin} is let in");
        };
        ensure!(status == 403, "{origin}: {status}");
        let headers = [("origin", origin)];
        let answer = node.http().send(POST, "/v1/services/echo", &headers, "1").await?;
        check_problem(&answer, 403, "forbidden")?;
        ensure!(answer.header("access-control-allow-origin").is_empty(), "{answer:?}");
    }
    cluster.finish().await
}

#[tokio::test]
async fn who_hangs_up_frees_the_slot() -> Result<()> {
    let cluster = Cluster::builder().service("silent").start().await?;
    let silent = cluster.worker("silent").silent()?;
    let node = cluster.node(0);
    let in_flight = async |expected: f64| {
        eventually(SOON, "the metric follows", async || {
            let now = node.metrics().await?.sum("roundtrip_in_flight", &[("service", "silent")]);
            ensure!(now == expected, "{now} in flight");
            Ok(())
        })
        .await
    };

    let http = node.http();
    let prefer = [("prefer", "wait=60")];
    let call = async { http.send(POST, "/v1/services/silent", &prefer, "1").await };
    let seen = async {
        silent.has_seen(1).await?;
        in_flight(1.0).await
    };
    tokio::select! {
        answer = call => panic!("nobody answers, and yet: {answer:?}"),
        seen = seen => seen?,
    }
    // The call is dropped here, and its connection with it.
    in_flight(0.0).await?;

    let mut ws = node.ws().await?;
    ws.send(r#"{"service":"silent","timeout_ms":60000}"#).await?;
    silent.has_seen(2).await?;
    in_flight(1.0).await?;
    // Only who says good-bye gives up what waits; another one might come back for it.
    ws.close().await?;
    in_flight(0.0).await?;
    let cancelled = [("service", "silent"), ("outcome", "cancelled")];
    assert_eq!(cluster.sum("roundtrip_requests_total", &cancelled).await?, 2.0);
    cluster.finish().await
}

#[tokio::test]
async fn a_time_out_over_the_maximum_is_cut() -> Result<()> {
    let config = "[services.silent]\ntimeout = \"200ms\"\ntimeout_max = \"1s\"";
    let cluster = Cluster::builder().service("silent").config(config).start().await?;
    let _silent = cluster.worker("silent").silent()?;
    let mut ws = cluster.node(0).ws().await?;

    let started = tokio::time::Instant::now();
    let frame = ws.ask(r#"{"service":"silent"}"#).await?;
    check_frame(&frame, "timeout", true, true)?;
    ensure!(started.elapsed() >= Duration::from_millis(200), "too early");
    for wanted in ["3600000", "99999999999999999999999"] {
        let frame = ws.ask(&format!(r#"{{"service":"silent","timeout_ms":{wanted}}}"#)).await?;
        check_frame(&frame, "timeout", true, true)?;
    }
    ensure!(started.elapsed() >= Duration::from_millis(2_200), "too early");
    cluster.finish().await
}
