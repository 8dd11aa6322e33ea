//! Situation: two nodes under load, with a Kafka and a Redis of their own.
//! Action: Kafka, or Redis, is killed and comes back (Redis empty).
//! Must hold: every request ends exactly once, in an answer or an honest error; no connection is
//! closed; readiness says when Kafka is away; then all is as before, by itself.

use anyhow::{Result, ensure};
use http::Method;
use tests::{
    SOON,
    cluster::Cluster,
    eventually,
    traffic::{Tally, Traffic},
    worker::{Reply, Worker},
};

/// What a client may be told while Kafka or the registry is away.
const HONEST: [&str; 4] = ["ok", "timeout", "unavailable", "overloaded"];

fn check(tally: &Tally, service: &Worker) -> Result<()> {
    tally.check_each_once()?;
    tally.check_unseen(&service.seen())?;
    ensure!(tally.reconnected == 0, "a connection was closed: {tally:?}");
    let dishonest = tally.outcomes.keys().find(|outcome| !HONEST.contains(&outcome.as_str()));
    ensure!(dishonest.is_none(), "{dishonest:?} in {:?}", tally.outcomes);
    Ok(())
}

async fn still_answers(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let answer = node.ws().await?.request("echo", "1").await?;
        ensure!(answer.payload() == "1", "{}", answer.text);
    }
    Ok(())
}

/// What a client is told when the node knows that Kafka is away.
async fn refuses(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(0);
    let frame = node.ws().await?.request("echo", "1").await?;
    ensure!(frame.code() == "unavailable", "{}", frame.text);
    ensure!(frame.raw("retryable") == Some("true"), "{}", frame.text);
    ensure!(frame.raw("recorded") == Some("false"), "{}", frame.text);
    let answer = node.http().send(Method::POST, "/v1/services/echo", &[], "1").await?;
    ensure!(answer.status == 503, "{}", answer.text());
    ensure!(answer.json()?["code"] == "unavailable", "{}", answer.text());
    ensure!(!answer.header("retry-after").is_empty(), "{answer:?}");
    // Alive all the same: a restart would not help.
    let alive = node.internal("/livez").await?;
    ensure!(alive.status == 200, "{}", alive.text());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_killed_and_restarted_under_load() -> Result<()> {
    let cluster = Cluster::builder().nodes(2).service("echo").own_kafka(&[]).start().await?;
    let echo = cluster.worker("echo").echo()?;
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.public()).collect();
    let traffic = Traffic::start(&nodes, "echo", 8, 4);
    traffic.goes_on(300).await?;

    cluster.kafka().kill()?;
    for node in cluster.nodes() {
        eventually(SOON, "the node is not ready", async || {
            let answer = node.internal("/readyz").await?;
            ensure!(answer.status == 503 && answer.text().contains("kafka"), "{}", answer.text());
            Ok(())
        })
        .await?;
    }
    refuses(&cluster).await?;
    cluster.kafka().restart().await?;
    for node in cluster.nodes() {
        eventually(SOON, "the node is ready again", async || node.is_ready().await).await?;
    }

    traffic.goes_on(300).await?;
    let tally = traffic.finish().await?;
    check(&tally, &echo)?;
    ensure!(tally.of("unavailable") > 0, "nobody was told: {:?}", tally.outcomes);
    still_answers(&cluster).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_killed_and_restarted_empty_under_load() -> Result<()> {
    let cluster = Cluster::builder().nodes(2).service("echo").own_redis().start().await?;
    // Replies land anywhere, so that the registry is needed.
    let echo = cluster.worker("echo").start(|seen| vec![Reply::echo(seen).anywhere()])?;
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.public()).collect();
    let traffic = Traffic::start(&nodes, "echo", 8, 4);
    traffic.goes_on(300).await?;

    cluster.redis().kill()?;
    cluster.redis().restart().await?;

    traffic.goes_on(300).await?;
    check(&traffic.finish().await?, &echo)?;
    still_answers(&cluster).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_what_comes_home_by_itself_goes_on() -> Result<()> {
    let cluster = Cluster::builder().nodes(2).service("echo").own_redis().start().await?;
    let _echo = cluster.worker("echo").echo()?;
    cluster.balanced().await?;

    cluster.redis().kill()?;
    for node in cluster.nodes() {
        let mut ws = node.ws().await?;
        for _ in 0..50 {
            let answer = ws.request("echo", "1").await?;
            ensure!(answer.payload() == "1", "{}", answer.text);
        }
    }
    cluster.redis().restart().await?;
    cluster.finish().await
}
