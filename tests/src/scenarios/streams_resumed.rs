//! Situation: two nodes, a reliable client of the first in the middle of a streamed reply.
//! Action: it comes back to the second node, after its connection was lost, and after the first node
//! was killed; it acknowledges some parts, and others not.
//! Must hold: no part is missing, none that was acknowledged comes again, the end comes once.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::{
    client::WsClient,
    cluster::Cluster,
    ticket::Ticket,
    worker::{Reply, Worker},
};
use tokio::sync::watch;

const PARTS: usize = 60;

/// Sends the first parts at once, and the others when it is told to.
fn halves(cluster: &Cluster, anywhere: bool) -> Result<(Worker, watch::Sender<bool>)> {
    let (go, told) = watch::channel(false);
    let worker = cluster.worker("halves").start(move |_| {
        let part = |index: usize| match index {
            PARTS => Reply::of("\"end\"").header("roundtrip-end", PARTS.to_string()),
            index => Reply::of(index.to_string()).header("roundtrip-part", index.to_string()),
        };
        let reply = |index: usize| {
            let reply = if anywhere { part(index).anywhere() } else { part(index) };
            let mut told = told.clone();
            match index < PARTS / 2 {
                true => reply,
                false => reply.when(async move { drop(told.wait_for(|told| *told).await) }),
            }
        };
        (0..=PARTS).map(reply).collect()
    })?;
    Ok((worker, go))
}

/// Reads parts until there are so many; those from `acked` on may come again.
async fn read(ws: &mut WsClient, parts: &mut usize, acked: usize, until: usize) -> Result<u64> {
    let mut seq = 0;
    while *parts < until {
        let frame = ws.frame().await?;
        seq = frame.seq();
        ensure!(frame.kind() == "part", "{}", frame.text);
        let index: usize = frame.need("index")?;
        ensure!(index >= acked, "part {index} was acknowledged");
        ensure!(index <= *parts, "part {index} after {parts}");
        ensure!(frame.payload() == index.to_string(), "{}", frame.text);
        *parts = (*parts).max(index + 1);
    }
    Ok(seq)
}

async fn goes_on(kill: bool, anywhere: bool) -> Result<()> {
    let mut cluster = Cluster::builder().nodes(2).service("halves").start().await?;
    cluster.balanced().await?;
    let (_service, go) = halves(&cluster, anywhere)?;
    let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
    ws.send(r#"{"id":1,"service":"halves","timeout_ms":60000}"#).await?;
    let mut parts = 0;
    let acked = read(&mut ws, &mut parts, 0, PARTS / 4).await?;
    ws.send(format!(r#"{{"type":"ack","seq":{acked}}}"#)).await?;
    let last = read(&mut ws, &mut parts, 0, PARTS / 2).await?;
    ws.is_heard().await?;
    // Whatever a node writes behind its clients' backs is written by then.
    tokio::time::sleep(Duration::from_millis(200)).await;
    if kill {
        cluster.node_mut(0).kill();
    }
    drop(ws);
    let (mut ws, _) = ticket.resumes(cluster.node(1), last).await?;
    go.send(true)?;
    let last = read(&mut ws, &mut parts, PARTS / 4, PARTS).await?;
    let end = ws.frame().await?;
    ensure!(end.kind() == "response" && end.get("parts") == Some(PARTS), "{}", end.text);
    ensure!(end.payload() == "\"end\"" && end.seq() == last + 1, "{}", end.text);
    ws.send(format!(r#"{{"type":"ack","seq":{}}}"#, end.seq())).await?;
    ws.is_heard().await?;
    ws.close().await?;
    if kill {
        cluster.node_mut(0).start()?;
        cluster.node_mut(0).ready().await?;
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn on_another_node() -> Result<()> {
    goes_on(false, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn on_another_node_through_any_partition() -> Result<()> {
    goes_on(false, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill() -> Result<()> {
    goes_on(true, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_through_any_partition() -> Result<()> {
    goes_on(true, true).await
}
