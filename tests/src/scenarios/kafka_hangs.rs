//! Situation: two nodes under load, whose sessions in their group outlast what is done to the broker.
//! Action: the broker stands still for longer than a connection is waited for, and goes on.
//! Must hold: no partition moves; every request ends exactly once, in an answer or an honest error; then
//! all is as before, by itself.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tests::{cluster::Cluster, traffic::Traffic};
use tokio::time::sleep;

/// Longer than `socket.timeout.ms`, after which connections are given up and made anew.
const STILL: Duration = Duration::from_secs(12);

/// What is said of partitions, on all nodes.
fn rebalances(cluster: &Cluster) -> Result<usize> {
    let mut lines = 0;
    for node in cluster.nodes() {
        let log = fs::read_to_string(node.log())?;
        lines += log.lines().filter(|line| line.contains("reply partitions")).count();
    }
    Ok(lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stands_still_costs_a_patient_group_nothing() -> Result<()> {
    let config = "[kafka.properties]\n\"session.timeout.ms\" = 45000";
    let builder = Cluster::builder().nodes(2).service("echo").config(config);
    let cluster = builder.own_kafka(&[]).start().await?;
    let echo = cluster.worker("echo").echo()?;
    cluster.balanced().await?;
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.public()).collect();
    let traffic = Traffic::start(&nodes, "echo", 8, 4);
    traffic.goes_on(300).await?;

    let before = rebalances(&cluster)?;
    cluster.kafka().signal(Signal::SIGSTOP)?;
    sleep(STILL).await;
    cluster.kafka().signal(Signal::SIGCONT)?;
    cluster.ready().await?;

    traffic.goes_on(300).await?;
    ensure!(rebalances(&cluster)? == before, "partitions have moved");
    let tally = traffic.finish().await?;
    tally.check_each_once()?;
    tally.check_unseen(&echo.seen())?;
    ensure!(tally.reconnected == 0, "a connection was closed: {tally:?}");
    let is_honest =
        |outcome: &str| ["ok", "timeout", "unavailable", "overloaded"].contains(&outcome);
    let mut outcomes = tally.outcomes.keys();
    ensure!(outcomes.all(|outcome| is_honest(outcome)), "{:?}", tally.outcomes);
    cluster.finish().await
}
