//! Nodes that are killed, stand still, leave and join.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use crate::{
    SOON,
    cluster::Cluster,
    eventually,
    reliable::directory::{Directory, Trouble},
};

const PAUSE: Duration = Duration::from_secs(10);

/// Kills a node, and starts it again after a while; `listed`: clients learn where it is then.
///
/// # Errors
/// When it does not come back, or the cluster does not recover.
pub async fn kill(
    cluster: &mut Cluster,
    directory: &Directory,
    index: usize,
    away: Duration,
    listed: bool,
) -> Result<()> {
    directory.trouble(cluster.node(index).id(), Trouble::Lost);
    cluster.node_mut(index).kill();
    sleep(away).await;
    let node = cluster.node_mut(index);
    node.restart().await?;
    if listed {
        directory.list(node);
    }
    directory.well(node.id());
    cluster.balanced().await
}

pub(super) async fn pause(
    cluster: &mut Cluster,
    directory: &Directory,
    index: usize,
) -> Result<()> {
    let node = cluster.node_mut(index);
    directory.trouble(node.id(), Trouble::Lost);
    node.stop()?;
    sleep(PAUSE).await;
    node.cont()?;
    eventually(SOON, "the node is ready again", async || node.is_ready().await).await?;
    directory.well(node.id());
    cluster.balanced().await
}

/// Drains a node, and starts it again; it may play another version then.
///
/// # Errors
/// When it does not end well or does not come back, or the cluster does not recover.
pub async fn replace(
    cluster: &mut Cluster,
    directory: &Directory,
    index: usize,
    later: Option<&'static str>,
) -> Result<()> {
    drain(cluster, directory, index).await?;
    let node = cluster.node_mut(index);
    node.play(later);
    node.restart().await?;
    directory.list(node);
    directory.well(node.id());
    cluster.balanced().await
}

async fn drain(cluster: &mut Cluster, directory: &Directory, index: usize) -> Result<()> {
    let node = cluster.node_mut(index);
    directory.trouble(node.id(), Trouble::Drained);
    let code = node.term().await?;
    ensure!(code == 0, "{} drained with exit code {code}", node.id());
    Ok(())
}

pub(super) async fn join(
    cluster: &mut Cluster,
    directory: &Directory,
    stays: Duration,
) -> Result<()> {
    let away = cluster.nodes().iter().position(|node| !node.is_started());
    let index = match away {
        Some(index) => {
            cluster.node_mut(index).restart().await?;
            index
        }
        None => cluster.add_node().await?,
    };
    directory.well(cluster.node(index).id());
    directory.list(cluster.node(index));
    cluster.balanced().await?;
    sleep(stays).await;
    // A load balancer learns first that a node is to go.
    directory.delist(cluster.node(index).id());
    drain(cluster, directory, index).await?;
    cluster.balanced().await
}
