//! Situation: three nodes, and services that key their replies well, otherwise, or not at all.
//! Action: requests on every node.
//! Must hold: each is answered once, wherever its reply lands, and the metrics tell by which way.

use anyhow::{Result, ensure};
use tests::{
    SOON,
    cluster::Cluster,
    eventually,
    traffic::{Tally, Traffic},
    worker::{Partitioner, Reply, WorkerBuilder},
};

const REQUESTS: u64 = 1_000;

struct Outcome {
    tally: Tally,
    affinity: f64,
    forwarded: f64,
    all: f64,
}

async fn ask(
    service: impl FnOnce(WorkerBuilder) -> Result<tests::worker::Worker>,
) -> Result<Outcome> {
    let cluster = Cluster::builder().nodes(3).service("echo").start().await?;
    let _service = service(cluster.worker("echo"))?;
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.public()).collect();

    cluster.balanced().await?;
    let mut traffic = Traffic::start(&nodes, "echo", 9, 8);
    traffic.goes_on(REQUESTS).await?;
    let tally = traffic.finish().await?;

    // A metric may be counted a moment after the frame is written.
    let all = eventually(SOON, "every reply is counted", async || {
        let all = cluster.sum("roundtrip_replies_total", &[("service", "echo")]).await?;
        ensure!(all >= tally.ended() as f64, "{all} of {}", tally.ended());
        Ok(all)
    })
    .await?;
    let way = async |way| cluster.sum("roundtrip_replies_total", &[("way", way)]).await;
    let (affinity, forwarded) = (way("affinity").await?, way("forwarded").await?);
    let results = cluster.sum("roundtrip_forwards_total", &[("result", "delivered")]).await?;
    ensure!(results >= forwarded, "{forwarded} forwarded replies, {results} deliveries");
    cluster.finish().await?;
    Ok(Outcome { tally, affinity, forwarded, all })
}

fn check_each_once(tally: &Tally) {
    assert!(tally.asked >= REQUESTS);
    assert_eq!(tally.of("ok"), tally.asked, "{tally:?}");
    assert_eq!((tally.repeated, tally.lost), (0, 0), "{tally:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_keyed_as_java_does_need_no_forwarding() -> Result<()> {
    let outcome = ask(WorkerBuilder::echo).await?;
    check_each_once(&outcome.tally);
    assert_eq!(outcome.forwarded, 0.0);
    assert_eq!(outcome.affinity, outcome.all);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_into_random_partitions_are_forwarded() -> Result<()> {
    let outcome = ask(|worker| worker.start(|seen| vec![Reply::echo(seen).anywhere()])).await?;
    check_each_once(&outcome.tally);
    // Two thirds land elsewhere.
    let share = outcome.forwarded / outcome.all;
    assert!((0.5..0.8).contains(&share), "{share} forwarded");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_keyed_with_crc32_are_forwarded() -> Result<()> {
    let outcome = ask(|worker| worker.partitioner(Partitioner::Crc32).echo()).await?;
    check_each_once(&outcome.tally);
    assert!(outcome.forwarded > 0.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_without_a_key_find_their_way() -> Result<()> {
    let outcome = ask(|worker| worker.start(|seen| vec![Reply::echo(seen).unkeyed()])).await?;
    check_each_once(&outcome.tally);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_reply_is_not_a_second_answer() -> Result<()> {
    let twice = |worker: WorkerBuilder| {
        worker.start(|seen| vec![Reply::echo(seen).anywhere(), Reply::echo(seen).anywhere()])
    };
    let outcome = ask(twice).await?;
    check_each_once(&outcome.tally);
    Ok(())
}
