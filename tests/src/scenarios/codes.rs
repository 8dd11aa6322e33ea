//! Situation: one node, with small limits and a token issuer where the code needs them.
//! Action: each mistake or misfortune, on a socket and over HTTP.
//! Must hold: each has its code, its HTTP status, and says whether to try again.
//!
//! `internal` is not among them: nobody knows how to make it happen.

use anyhow::{Result, ensure};
use http::Method;
use nix::sys::signal::Signal;
use tests::{
    SOON,
    client::{Frame, WsClient},
    cluster::Cluster,
    eventually,
    http::{HttpClient, Response},
    process::run_dir,
    tokens::Issuer,
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
        r#"{"type":"no-such-type"}"#,
        r#"{"service":7}"#,
        r#"{"service":"echo","id":1.5}"#,
        r#"{"service":"echo","timeout_ms":0}"#,
        r#"{"service":"echo","headers":{"a":1}}"#,
        r#"{"type":"auth","token":"without [auth]"}"#,
        &long_id,
    ];
    for frame in bad {
        ws.send(frame).await?;
        check_frame(&ws.frame().await?, "bad_request", false, false)?;
    }
    let refused = cluster.node(0).connect().query("resume=x&last_seq=y").handshake().await?;
    ensure!(format!("{refused:?}").contains("400"), "a bad last_seq: {refused:?}");

    check_frame(&ws.request("nobody", "1").await?, "unknown_service", false, false)?;
    check_problem(&post(&http, "nobody").await?, 404, "unknown_service")?;

    ws.send(r#"{"type":"cancel","id":"nothing"}"#).await?;
    check_frame(&ws.frame().await?, "not_found", false, false)?;
    let unknown = "/v1/requests/01980000-0000-7000-8000-000000000000";
    check_problem(&http.get(unknown).await?, 404, "not_found")?;

    let large = format!("\"{}\"", "x".repeat(2_000));
    check_frame(&ws.request("echo", &large).await?, "too_large", false, false)?;
    check_problem(&http.post("/v1/services/echo", &large).await?, 413, "too_large")?;
    // The connection stays.
    assert_eq!(ws.request("echo", "1").await?.status(), 200);
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

    let frame = ws.request("fails", "1").await?;
    check_frame(&frame, "service_error", false, true)?;
    assert_eq!(frame.status(), 409);
    assert_eq!(frame.payload(), r#"{"why":"sold out"}"#);

    ws.send(r#"{"service":"silent","id":"a","payload":1}"#).await?;
    silent.has_seen(1).await?;
    ws.send(r#"{"service":"silent","id":"a","payload":2}"#).await?;
    let duplicate = ws.frame().await?;
    check_frame(&duplicate, "duplicate", false, false)?;
    assert!(!duplicate.is_terminal());
    let over = ws.ask(r#"{"service":"silent","id":"b"}"#).await?;
    check_frame(&over, "overloaded", true, false)?;
    ensure!(over.text.contains("in_flight_per_connection_max"), "unnamed limit: {}", over.text);
    let cancelled = ws.ask(r#"{"type":"cancel","id":"a"}"#).await?;
    check_frame(&cancelled, "cancelled", false, true)?;

    let late = ws.ask(r#"{"service":"silent","id":"c","timeout_ms":300}"#).await?;
    check_frame(&late, "timeout", true, true)?;
    cluster.finish().await
}

#[tokio::test]
async fn a_stored_response_expires() -> Result<()> {
    let config = "[rest]\nresponse_retention = \"2s\"";
    let cluster = Cluster::builder().service("echo").config(config).start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let http = cluster.node(0).http();

    let prefer = [("prefer", "respond-async")];
    let accepted = http.send(POST, "/v1/services/echo", &prefer, "1").await?;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let location = accepted.header("location").to_owned();
    for (status, code) in [(410, "gone"), (404, "not_found")] {
        eventually(SOON, code, async || check_problem(&http.get(&location).await?, status, code))
            .await?;
    }
    cluster.finish().await
}

#[tokio::test]
async fn who_may_not() -> Result<()> {
    let issuer = Issuer::new()?;
    let keys = run_dir().join("codes.jwks.json");
    issuer.write_jwks(&keys)?;
    let config = format!(
        "[auth]\nanonymous = true\njwt = {{ keys = \"{}\" }}\n\
         [services.echo]\nallow = [\"role:asker\"]",
        keys.display()
    );
    let cluster = Cluster::builder().service("echo").config(&config).start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let node = cluster.node(0);
    let as_user = async |roles: &[&str]| -> Result<(WsClient, String)> {
        let bearer = format!("Bearer {}", issuer.token("alice", roles)?);
        Ok((node.connect().header("authorization", &bearer).welcome().await?.0, bearer))
    };

    let anonymous = node.ws().await?.request("echo", "1").await?;
    check_frame(&anonymous, "unauthorized", false, false)?;
    check_problem(&post(&node.http(), "echo").await?, 401, "unauthorized")?;

    let (mut ws, bearer) = as_user(&[]).await?;
    check_frame(&ws.request("echo", "1").await?, "forbidden", false, false)?;
    let headers = [("authorization", bearer.as_str())];
    let answer = node.http().send(POST, "/v1/services/echo", &headers, "1").await?;
    check_problem(&answer, 403, "forbidden")?;

    let (mut ws, _) = as_user(&["asker"]).await?;
    assert_eq!(ws.request("echo", "1").await?.status(), 200);
    let bad = node.connect().header("authorization", "Bearer no.such.token").handshake().await?;
    ensure!(format!("{bad:?}").contains("401"), "a bad token: {bad:?}");
    cluster.finish().await
}

#[tokio::test]
async fn too_many_requests() -> Result<()> {
    let config = "[limits]\nrequests_per_second_max = 1";
    let cluster = Cluster::builder().service("echo").config(config).start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let mut ws = cluster.node(0).ws().await?;

    // A burst of twice as many is let through.
    let mut limited = None;
    for _ in 0..10 {
        let frame = ws.request("echo", "1").await?;
        if frame.kind() == "error" {
            limited = Some(frame);
            break;
        }
    }
    let limited = limited.expect("ten requests take less than nine seconds");
    check_frame(&limited, "rate_limited", true, false)?;
    let wait: u64 = limited.need("retry_after_ms")?;
    assert!((1..=2_000).contains(&wait), "{wait}");
    cluster.finish().await
}

#[tokio::test]
async fn kafka_is_away() -> Result<()> {
    let cluster = Cluster::builder().service("echo").own_kafka(&[]).start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let node = cluster.node(0);
    assert_eq!(node.ws().await?.request("echo", "1").await?.status(), 200);

    cluster.kafka().signal(Signal::SIGTERM)?;
    let http = node.http();
    eventually(SOON, "the node notices", async || {
        // Until then the truth is an answer, or that nobody answered.
        let prefer = [("prefer", "wait=1")];
        let answer = http.send(POST, "/v1/services/echo", &prefer, "1").await?;
        check_problem(&answer, 503, "unavailable")
    })
    .await?;
    let frame = node.ws().await?.request("echo", "1").await?;
    check_frame(&frame, "unavailable", true, false)?;

    cluster.kafka().restart().await?;
    let mut ws = node.ws().await?;
    eventually(SOON, "answers again", async || {
        let frame = ws.request("echo", "1").await?;
        ensure!(frame.status() == 200, "{}", frame.text);
        Ok(())
    })
    .await?;
    cluster.finish().await
}
