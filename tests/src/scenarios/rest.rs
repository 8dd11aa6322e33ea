//! Situation: one node, services that answer with a body, a status, or nothing.
//! Action: REST calls of every method, with paths, queries and preferences.
//! Must hold: status, content type and bytes are the service's own; errors are problems.

use std::time::Duration;

use anyhow::{Result, ensure};
use http::Method;
use tests::{
    SOON,
    cluster::Cluster,
    eventually,
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

    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::GET] {
        let path = "/v1/services/describe/a%2Fb/c?d=%20e";
        let body = if method == Method::GET { "" } else { "body" };
        let answer = http.send(method.clone(), path, &[], body).await?;
        assert_eq!(answer.status, 201, "{method}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "text/plain");
        assert_eq!(answer.text(), format!("{method} /a%2Fb/c?d=%20e {body}"));
        ensure!(!answer.header("roundtrip-request-id").is_empty(), "no request id");
        assert_eq!(answer.header("roundtrip-node"), cluster.node(0).id());
    }
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
async fn silence_is_a_problem_that_says_it_is_recorded() -> Result<()> {
    let cluster = Cluster::builder().service("silent").start().await?;
    let _service = cluster.worker("silent").silent()?;

    let prefer = [("prefer", "wait=1")];
    let http = cluster.node(0).http();
    let answer = http.send(Method::POST, "/v1/services/silent", &prefer, "{}").await?;

    assert_eq!(answer.status, 504);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let problem = answer.json()?;
    assert_eq!(problem["code"], "timeout");
    assert_eq!(problem["status"], 504);
    assert_eq!(problem["retryable"], true);
    assert_eq!(problem["recorded"], true);
    cluster.finish().await
}

#[tokio::test]
async fn an_asynchronous_request_is_fetched_on_any_node() -> Result<()> {
    let cluster = Cluster::builder().nodes(2).service("slow").start().await?;
    let _service = cluster
        .worker("slow")
        .start(|seen| vec![Reply::echo(seen).after(Duration::from_millis(500))])?;

    let prefer = [("prefer", "respond-async"), ("content-type", "application/json")];
    let http = cluster.node(0).http();
    let accepted = http.send(Method::POST, "/v1/services/slow", &prefer, r#"{"n":1}"#).await?;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let location = accepted.header("location").to_owned();
    assert!(location.starts_with("/v1/requests/"), "{location}");

    let other = cluster.node(1).http();
    let answer = eventually(SOON, "the response is stored", async || {
        let answer = other.get(&location).await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        Ok(answer)
    })
    .await?;
    assert_eq!(answer.text(), r#"{"n":1}"#);
    cluster.finish().await
}
