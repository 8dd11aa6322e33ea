//! Situation: one node, services that answer with a body, a status, or nothing.
//! Action: REST calls of every method, with paths, queries and preferences.
//! Must hold: status, content type and bytes are the service's own; errors are problems.

use anyhow::{Result, ensure};
use http::Method;
use tests::{
    cluster::Cluster,
    terminal::Terminal,
    worker::{Reply, Seen},
};

fn describe(seen: &Seen) -> Vec<Reply> {
    let line = format!(
        "{} {} {}",
        seen.header("roundtrip-method"),
        seen.header("roundtrip-path"),
        seen.text()
    );
    vec![Reply::of(line).header("content-type", "text/plain").status(201)]
}

#[tokio::test]
async fn methods_paths_and_statuses_pass_through() -> Result<()> {
    let cluster = Cluster::builder().service("describe").start().await?;
    let _service = cluster.worker("describe").start(describe)?;
    let http = cluster.node(0).http();
    let mut produced = 0;

    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::GET] {
        let path = "/v1/services/describe/a%2Fb/c?d=%20e";
        let body = if method == Method::GET { "" } else { "body" };
        let answer = http.send(method.clone(), path, &[], body).await?;
        assert_eq!(answer.status, 201, "{method}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "text/plain");
        assert_eq!(answer.text(), format!("{method} /a%2Fb/c?d=%20e {body}"));
        ensure!(!answer.header("roundtrip-request-id").is_empty(), "no request id");
        assert_eq!(answer.header("roundtrip-node"), cluster.node(0).id());
        let timing = answer.header("server-timing");
        ensure!(timing.contains("service;dur="), "{timing:?}");
        produced += usize::from(timing.contains("produce;dur="));
    }
    // A reply may be faster than the acknowledgement of its request, but seldom is.
    ensure!(produced > 0, "nobody was told how long the broker took");
    cluster.finish().await
}

#[tokio::test]
async fn a_services_own_error_keeps_its_bytes() -> Result<()> {
    let cluster = Cluster::builder().service("fails").start().await?;
    let _service = cluster
        .worker("fails")
        .start(|_| vec![Reply::of("sold out").header("content-type", "text/plain").status(409)])?;

    let answer = cluster.node(0).http().post("/v1/services/fails", "{}").await?;

    assert_eq!(answer.status, 409);
    assert_eq!(answer.header("content-type"), "text/plain");
    assert_eq!(answer.text(), "sold out");
    cluster.finish().await
}

#[tokio::test]
async fn a_reply_without_a_type_is_json_or_octets() -> Result<()> {
    let cluster = Cluster::builder().service("echo").start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let http = cluster.node(0).http();

    for (body, expected) in [
        ("{\"a\": 1}", "application/json"),
        (" 1 ", "application/json"),
        ("01", "application/octet-stream"),
        ("", "application/octet-stream"),
    ] {
        let answer = http.post("/v1/services/echo", body).await?;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), expected, "{body:?}");
        assert_eq!(answer.text(), body);
    }
    let answer = http.send(Method::TRACE, "/v1/services/echo", &[], "").await?;
    assert_eq!(answer.status, 405);
    let answer = http.get("/nowhere").await?;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.header("roundtrip-node"), cluster.node(0).id());
    cluster.finish().await
}

#[tokio::test]
async fn a_body_in_chunks_is_the_same_body() -> Result<()> {
    let config = "[limits]\nmessage_bytes_max = \"10KiB\"";
    let cluster = Cluster::builder().service("echo").config(config).start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let url = format!("http://{}/v1/services/echo", cluster.node(0).public());
    let post = async |bytes: usize, headers: &str| {
        let body = format!("head -c {bytes} /dev/zero | tr '\\0' x");
        let curl = format!("curl -sS --max-time 30 {headers} -o - -w ' %{{http_code}}'");
        Terminal::run(&format!("{body} | {curl} --data-binary @- {url}"))?.ends().await
    };

    for headers in ["-H 'transfer-encoding: chunked'", "-H 'expect: 100-continue'", "-0"] {
        let shown = post(10_240, headers).await?;
        assert_eq!(shown, format!("{} 200\n", "x".repeat(10_240)), "{headers}");
        let shown = post(10_241, headers).await?;
        ensure!(shown.contains("too_large") && shown.ends_with(" 413\n"), "{headers}: {shown}");
    }
    cluster.finish().await
}
