//! Situation: two nodes, a service that replies into any partition.
//! Action: one node is killed; later another comes in its place.
//! Must hold: the partitions of the dead are read by the other, from where it stopped, so that every
//! request on a node that lives is answered; the newcomer gets its share.

use anyhow::{Result, ensure};
use tests::{SOON, cluster::Cluster, worker::Reply};

const REQUESTS: usize = 48;

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_nodes_partitions_are_taken_over() -> Result<()> {
    let mut cluster = Cluster::builder().nodes(2).service("echo").start().await?;
    let _echo = cluster.worker("echo").start(|seen| vec![Reply::echo(seen).anywhere()])?;
    cluster.balanced().await?;
    let mut ws = cluster.node(0).ws().await?;
    let mut orphan = cluster.node(1).ws().await?;
    ensure!(orphan.request("echo", "1").await?.status() == 200, "not well to begin with");

    cluster.node_mut(1).kill();
    // Half of the replies land where nobody reads for some seconds.
    for id in 0..REQUESTS {
        let wait = SOON.as_millis();
        let frame = format!(r#"{{"service":"echo","id":{id},"payload":{id},"timeout_ms":{wait}}}"#);
        ws.send(frame).await?;
    }
    let mut answered = [false; REQUESTS];
    for _ in 0..REQUESTS {
        let answer = ws.frame().await?;
        ensure!(answer.kind() == "response", "{}", answer.text);
        let id: usize = answer.need("id")?;
        ensure!(answer.payload() == id.to_string(), "another's answer: {}", answer.text);
        ensure!(!std::mem::replace(&mut answered[id], true), "twice: {}", answer.text);
    }
    ensure!(orphan.closed().await?.is_none(), "a dead node cannot say good-bye");
    cluster.balanced().await?;

    cluster.node_mut(1).restart().await?;
    cluster.balanced().await?;
    let answer = cluster.node(1).ws().await?.request("echo", "2").await?;
    ensure!(answer.payload() == "2", "{}", answer.text);
    cluster.finish().await
}
