//! A broker that stands still, and what it takes until all is well again.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tokio::time::sleep;

use crate::{cluster::Cluster, meter::Meter, say};

const PAUSE: Duration = Duration::from_secs(10);
/// How much of a core a node may use while Kafka stands still.
const IDLE_SHARE_MAX: f64 = 0.2;

/// While nothing is acknowledged, a node has nothing to do but to keep its clients waiting, and to
/// refuse them.
pub(super) async fn pause(cluster: &Cluster) -> Result<()> {
    let mut meter = Meter::default();
    for node in cluster.nodes() {
        meter.add(node.id(), node.pid()?);
    }
    cluster.kafka().signal(Signal::SIGSTOP)?;
    let before = meter.read()?;
    sleep(PAUSE).await;
    let used = before.until(&meter.read()?);
    cluster.kafka().signal(Signal::SIGCONT)?;
    cluster.kafka().answers().await?;
    all_well(cluster).await?;
    for node in used.cpu_micros.keys() {
        let share = used.share(node);
        let story =
            format!("while Kafka stood still, {node} used {:.1} % of a core", 100.0 * share);
        say(&story);
        ensure!(share <= IDLE_SHARE_MAX, story);
    }
    Ok(())
}

/// Each node takes requests, and all partitions are read: a group may form long after its broker answers.
pub(super) async fn all_well(cluster: &Cluster) -> Result<()> {
    cluster.ready().await?;
    cluster.balanced().await
}
