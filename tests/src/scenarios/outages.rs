//! Situation: two nodes under load, with a Kafka and a Redis of their own.
//! Action: Kafka, or Redis, is killed and comes back (Redis empty).
//! Must hold: every request ends exactly once, in an answer or an honest error; sessions stay; then
//! all is as before.

use anyhow::{Result, ensure};
use tests::{
    SOON,
    cluster::Cluster,
    eventually,
    traffic::{Tally, Traffic},
};

/// What a client may be told while Kafka or the registry is away.
const HONEST: [&str; 4] = ["ok", "timeout", "unavailable", "overloaded"];

fn check(tally: &Tally) -> Result<()> {
    assert_eq!(tally.ended(), tally.asked, "{tally:?}");
    assert_eq!((tally.repeated, tally.lost), (0, 0), "{tally:?}");
    let dishonest = tally.outcomes.keys().find(|outcome| !HONEST.contains(&outcome.as_str()));
    ensure!(dishonest.is_none(), "{dishonest:?} in {tally:?}");
    Ok(())
}

async fn still_answers(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let mut ws = node.ws().await?;
        eventually(SOON, "all is as before", async || {
            let answer = ws.request("echo", "1").await?;
            ensure!(answer.payload() == "1", "{}", answer.text);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_killed_and_restarted_under_load() -> Result<()> {
    let cluster = Cluster::builder().nodes(2).service("echo").own_kafka(&[]).start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.public()).collect();
    let mut traffic = Traffic::start(&nodes, "echo", 8, 4);
    traffic.goes_on(500).await?;

    cluster.kafka().kill()?;
    cluster.kafka().restart().await?;

    traffic.goes_on(500).await?;
    check(&traffic.finish().await?)?;
    still_answers(&cluster).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_killed_and_restarted_empty_under_load() -> Result<()> {
    let cluster = Cluster::builder().nodes(2).service("echo").own_redis().start().await?;
    // Replies land anywhere, so that the registry is needed.
    let _echo =
        cluster.worker("echo").start(|seen| vec![tests::worker::Reply::echo(seen).anywhere()])?;
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.public()).collect();
    let mut traffic = Traffic::start(&nodes, "echo", 8, 4);
    traffic.goes_on(500).await?;

    cluster.redis().kill()?;
    cluster.redis().restart().await?;

    traffic.goes_on(500).await?;
    let tally = traffic.finish().await?;
    check(&tally)?;
    assert_eq!(tally.resumed, 0, "no connection was to be closed");
    still_answers(&cluster).await?;
    cluster.finish().await
}
