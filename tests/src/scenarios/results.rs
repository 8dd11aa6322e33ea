//! Situation: nodes, and services that answer when they are told to, anywhere in the reply topic.
//! Action: calls with `Prefer: respond-async`, whose node is killed, whose time passes, whose response
//! expires or is too large, and whose registry is away.
//! Must hold: 202 says that the request is recorded, once; its response can be fetched from any node,
//! with the service's own status, headers and bytes.

use anyhow::{Context, Result, ensure};
use http::Method;
use tests::{
    SOON,
    cluster::Cluster,
    eventually,
    http::{HttpClient, Response},
    worker::{Reply, Worker},
};
use tokio::sync::watch;

const ASYNC: (&str, &str) = ("prefer", "respond-async");

/// A service that echoes once it is told to.
fn held(cluster: &Cluster) -> Result<(Worker, watch::Sender<bool>)> {
    let (let_go, told) = watch::channel(false);
    let worker = cluster.worker("held").start(move |seen| {
        let mut told = told.clone();
        let until = async move { drop(told.wait_for(|told| *told).await) };
        let reply = Reply::echo(seen).status(201).header("x-shown", "yes").header("x-hidden", "no");
        vec![reply.header("content-type", "text/plain").anywhere().when(until)]
    })?;
    Ok((worker, let_go))
}

/// Makes a call; where its response can be fetched.
async fn call(http: &HttpClient, service: &str, body: &str, prefer: &str) -> Result<String> {
    let path = format!("/v1/services/{service}");
    let headers = [("prefer", prefer)];
    let answer = http.send(Method::POST, &path, &headers, body.to_owned()).await?;
    ensure!(answer.status == 202, "{}: {}", answer.status, answer.text());
    assert_eq!(answer.header("preference-applied"), "respond-async");
    let id = answer.header("roundtrip-request-id");
    assert_eq!(answer.header("location"), format!("/v1/requests/{id}"));
    assert_eq!(answer.json()?["request_id"], *id);
    Ok(answer.header("location").to_owned())
}

async fn fetched(http: &HttpClient, location: &str) -> Result<Response> {
    eventually(SOON, "the response is there", async || {
        let answer = http.get(location).await?;
        ensure!(answer.status != 202, "it waits");
        Ok(answer)
    })
    .await
}

fn is_problem(answer: &Response, status: u16, code: &str, recorded: bool) -> Result<()> {
    ensure!(answer.status == status, "{} is not {status}: {}", answer.status, answer.text());
    let problem = answer.json()?;
    ensure!(problem["code"] == code && problem["recorded"] == recorded, "{problem}");
    Ok(())
}

fn is_whole(answer: &Response, body: &str) -> Result<()> {
    ensure!(answer.status == 201 && answer.text() == body, "{answer:?}");
    assert_eq!(answer.header("content-type"), "text/plain");
    assert_eq!((answer.header("x-shown"), answer.header("x-hidden")), ("yes", ""));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_is_fetched_from_any_node() -> Result<()> {
    let config = "[services.held]\nallowed_headers = [\"x-shown\"]";
    let cluster = Cluster::builder().nodes(2).service("held").config(config).start().await?;
    let (worker, let_go) = held(&cluster)?;
    cluster.balanced().await?;
    let [first, second] = [0, 1].map(|node| cluster.node(node).http());

    let mut locations = Vec::new();
    for number in 0..24 {
        // What a caller is told of, the service gets.
        locations.push(call(&first, "held", &number.to_string(), "respond-async").await?);
    }
    ensure!(worker.has_seen(24).await?.len() == 24, "each is produced once");
    for location in &locations {
        let answer = second.get(location).await?;
        ensure!(answer.status == 202 && !answer.header("retry-after").is_empty(), "{answer:?}");
    }
    let_go.send_replace(true);
    for (number, location) in locations.iter().enumerate() {
        for http in [&second, &first] {
            let answer = fetched(http, location).await?;
            is_whole(&answer, &number.to_string())?;
            assert_eq!(
                format!("/v1/requests/{}", answer.header("roundtrip-request-id")),
                *location
            );
        }
    }
    let head = second.send(Method::HEAD, &locations[0], &[], "").await?;
    ensure!(head.status == 201 && head.body.is_empty(), "{head:?}");
    let post = second.post(&locations[0], "").await?;
    assert_eq!((post.status.as_u16(), post.header("allow")), (405, "GET, HEAD, OPTIONS"));
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_outlives_the_node_that_took_the_call() -> Result<()> {
    const CALLS: usize = 60;
    let config = "[services.held]\nallowed_headers = [\"x-shown\"]\ntimeout = \"60s\"";
    let mut cluster = Cluster::builder().nodes(3).service("held").config(config).start().await?;
    let (worker, let_go) = held(&cluster)?;
    cluster.balanced().await?;
    let first = cluster.node(0).http();
    let mut locations = Vec::new();
    for number in 0..CALLS {
        locations.push(call(&first, "held", &number.to_string(), "respond-async").await?);
    }

    cluster.node_mut(0).kill();
    let_go.send_replace(true);

    // Its partitions get another reader once Kafka has missed it.
    for (number, location) in locations.iter().enumerate() {
        let answer = fetched(&cluster.node(1 + number % 2).http(), location).await?;
        is_whole(&answer, &number.to_string())?;
    }
    ensure!(worker.seen().len() == CALLS, "each is produced once: {}", worker.seen().len());
    let stored = cluster.sum("roundtrip_replies_total", &[("way", "stored")]).await?;
    ensure!(stored > 0.0, "{stored} of {CALLS} were stored by other nodes");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_may_be_late_too_large_or_gone() -> Result<()> {
    let config = "[rest]\nresponse_retention = \"8s\"\nresponse_bytes_max = \"1KiB\"";
    let builder = Cluster::builder().service("held").service("large").service("fails");
    let cluster = builder.config(config).start().await?;
    let (_held, let_go) = held(&cluster)?;
    let _large = cluster.worker("large").start(|_| vec![Reply::of(vec![b'x'; 1_025])])?;
    let _fails = cluster.worker("fails").start(|_| vec![Reply::of("").status(409)])?;
    let http = cluster.node(0).http();

    let late = call(&http, "held", "1", "respond-async, wait=1").await?;
    let large = call(&http, "large", "1", "wait=1;x=y, Respond-Async").await?;
    let fails = call(&http, "fails", "1", "respond-async").await?;
    is_problem(&fetched(&http, &large).await?, 413, "too_large", true)?;
    let hits = [("limit", "response_bytes_max")];
    assert_eq!(cluster.sum("roundtrip_limit_hits_total", &hits).await? as u64, 1);
    is_problem(&fetched(&http, &fails).await?, 409, "service_error", true)?;
    is_problem(&fetched(&http, &late).await?, 504, "timeout", true)?;
    let_go.send_replace(true);
    let answer = eventually(SOON, "the late reply is there", async || {
        let answer = http.get(&late).await?;
        ensure!(answer.status != 504, "it is still overdue");
        Ok(answer)
    });
    let answer = answer.await?;
    ensure!(answer.text() == "1", "a late reply becomes the response: {answer:?}");
    let mut seen = Vec::new();
    eventually(SOON, "it is gone, then forgotten", async || {
        let status = http.get(&late).await?.status.as_u16();
        if seen.last() != Some(&status) {
            seen.push(status);
        }
        ensure!(status == 404, "{seen:?}");
        Ok(())
    })
    .await?;
    assert_eq!(seen, [201, 410, 404]);
    let unknown = http.get("/v1/requests/01a21ade-b982-7135-90af-3503dff3d7e4").await?;
    is_problem(&unknown, 404, "not_found", false)?;
    is_problem(&http.get("/v1/requests/what").await?, 404, "not_found", false)?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_nothing_is_accepted_that_could_not_be_fetched() -> Result<()> {
    let cluster = Cluster::builder().service("held").own_redis().start().await?;
    let (worker, let_go) = held(&cluster)?;
    let http = cluster.node(0).http();
    let location = call(&http, "held", "1", "respond-async").await?;
    worker.has_seen(1).await?;

    cluster.redis().kill()?;
    let answer = http.send(Method::POST, "/v1/services/held", &[ASYNC], "2").await?;
    is_problem(&answer, 503, "unavailable", false)?;
    is_problem(&http.get(&location).await?, 503, "unavailable", false)?;
    // Its reply comes while nobody can keep it.
    let_go.send_replace(true);
    cluster.redis().restart().await?;

    let answer = eventually(SOON, "the response is stored when that is possible", async || {
        let answer = http.get(&location).await?;
        ensure!(answer.status == 201, "{}", answer.status);
        Ok(answer)
    });
    assert_eq!(answer.await.context("kept meanwhile")?.text(), "1");
    ensure!(worker.seen().len() == 1, "what was refused was produced");
    cluster.finish().await
}
