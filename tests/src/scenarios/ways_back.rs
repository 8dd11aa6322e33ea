//! Situation: three nodes, and services that key their replies well, otherwise, or not at all.
//! Action: a thousand requests over all nodes for each.
//! Must hold: each is answered exactly once, wherever its reply lands, and the metrics tell by which
//! way.

use anyhow::{Result, ensure};
use tests::{
    SOON,
    cluster::Cluster,
    eventually,
    traffic::Traffic,
    worker::{Partitioner, Reply, Worker},
};

const REQUESTS: u64 = 1_000;
const CLIENTS: usize = 9;
const DEPTH: usize = 8;

/// By which way the replies of a service came.
struct Ways {
    all: f64,
    affinity: f64,
    forwarded: f64,
}

/// Asks a service on every node until a thousand answers are there. `answers` is how many replies
/// it gives to each request.
async fn ask(cluster: &Cluster, service: &str) -> Result<Ways> {
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.public()).collect();
    let traffic = Traffic::start(&nodes, service, CLIENTS, DEPTH);
    traffic.goes_on(REQUESTS).await?;
    let tally = traffic.finish().await?;
    tally.check_each_once()?;
    ensure!(tally.asked >= REQUESTS && tally.of("ok") == tally.asked, "{service}: {tally:?}");
    ensure!(tally.reconnected == 0, "{service}: {tally:?}");

    let way = async |way| {
        cluster.sum("roundtrip_replies_total", &[("service", service), ("way", way)]).await
    };
    let requests = [("service", service), ("edge", "ws"), ("outcome", "ok")];
    let counted = cluster.sum("roundtrip_requests_total", &requests).await?;
    ensure!(counted == tally.asked as f64, "{counted} requests counted: {tally:?}");
    for node in cluster.nodes() {
        let here = node.metrics().await?.sum("roundtrip_requests_total", &requests);
        ensure!(here >= 100.0, "{} has taken {here} of {counted}", node.id());
    }
    let (affinity, local, forwarded) =
        (way("affinity").await?, way("local").await?, way("forwarded").await?);
    let all = affinity + local + forwarded;
    ensure!(all == tally.asked as f64, "{all} replies delivered: {tally:?}");
    Ok(Ways { all, affinity, forwarded })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reply_finds_its_way() -> Result<()> {
    let services = ["keyed", "random", "crc32", "unkeyed", "twice"];
    let builder = Cluster::builder().nodes(3);
    let cluster = services.iter().fold(builder, |cluster, name| cluster.service(name));
    let cluster = cluster.start().await?;
    let worker = |service: &str| cluster.worker(service);
    let anywhere = |seen: &_| vec![Reply::echo(seen).anywhere()];
    let twice = |seen: &_| vec![Reply::echo(seen).anywhere(), Reply::echo(seen).anywhere()];
    let _services: [Worker; 5] = [
        worker("keyed").echo()?,
        worker("random").start(anywhere)?,
        worker("crc32").partitioner(Partitioner::Crc32).echo()?,
        worker("unkeyed").start(|seen| vec![Reply::echo(seen).unkeyed()])?,
        worker("twice").start(twice)?,
    ];
    cluster.balanced().await?;

    let keyed = ask(&cluster, "keyed").await?;
    ensure!(keyed.affinity == keyed.all, "{} of {} by affinity", keyed.affinity, keyed.all);

    let forwards =
        async || cluster.sum("roundtrip_forwards_total", &[("result", "delivered")]).await;
    ensure!(forwards().await? == 0.0, "forwarded without need");
    let random = ask(&cluster, "random").await?;
    // Two thirds land on another node than the one that waits.
    let share = random.forwarded / random.all;
    ensure!((0.55..0.78).contains(&share), "{share} forwarded");
    let forwarded = forwards().await?;
    ensure!(forwarded == random.forwarded, "{forwarded} forwards for {}", random.forwarded);

    for service in ["crc32", "unkeyed"] {
        let ways = ask(&cluster, service).await?;
        let share = ways.forwarded / ways.all;
        ensure!((0.4..0.9).contains(&share), "{service}: {share} forwarded");
    }
    twice_is_once(&cluster).await?;
    cluster.finish().await
}

/// A second reply is not a second answer: it is counted, and skipped.
async fn twice_is_once(cluster: &Cluster) -> Result<()> {
    let unrouted = async || cluster.sum("roundtrip_replies_total", &[("way", "unrouted")]).await;
    let before = unrouted().await?;
    let ways = ask(cluster, "twice").await?;
    eventually(SOON, "every second reply is counted", async || {
        let unrouted = unrouted().await? - before;
        ensure!(unrouted == ways.all, "{unrouted} of {}", ways.all);
        Ok(())
    })
    .await
}
