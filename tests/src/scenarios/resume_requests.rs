//! Situation: two nodes, a reliable client whose connection ends while requests are in flight.
//! Action: it resumes, and sends them again, or lets their time pass.
//! Must hold: a request that is sent again joins the one in flight until its last frame is
//! acknowledged; one that has ended is not done again; a deadline that passes meanwhile is a
//! `timeout` like another.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::{
    client::WsClient,
    cluster::Cluster,
    ticket::Ticket,
    worker::{Reply, Worker},
};
use tokio::time::sleep;

const SLOW: Duration = Duration::from_millis(700);

async fn situation() -> Result<(Cluster, Worker)> {
    let builder = Cluster::builder().nodes(2).service("slow").service("silent");
    let cluster = builder.start().await?;
    let slow =
        cluster.worker("slow").start(|seen| vec![Reply::echo(seen).anywhere().after(SLOW)])?;
    cluster.balanced().await?;
    Ok((cluster, slow))
}

const ASK: &str = r#"{"service":"slow","id":"a","payload":"a","key":"k"}"#;

async fn duplicate(ws: &mut WsClient) -> Result<()> {
    ws.send(r#"{"service":"slow","id":"a","payload":"b","key":"k"}"#).await?;
    let frame = ws.frame().await?;
    ensure!(frame.code() == "duplicate", "{}", frame.text);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_joins() -> Result<()> {
    let (cluster, slow) = situation().await?;
    for (round, node) in cluster.nodes().iter().enumerate() {
        let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
        ws.send(ASK).await?;
        slow.has_seen(round + 1).await?;
        drop(ws);

        let (mut ws, ticket) = ticket.resumes(node, 0).await?;
        ws.send(ASK).await?;
        duplicate(&mut ws).await?;
        let answer = ws.frame().await?;
        ensure!((answer.payload(), answer.seq()) == (r#""a""#, 2), "{}", answer.text);
        // Still in flight, as its last frame is not acknowledged: nothing new is done.
        ws.send(ASK).await?;
        drop(ws);
        let (mut ws, _) = ticket.resumes(cluster.node(0), 1).await?;
        ws.send(ASK).await?;
        let again = ws.frame().await?;
        ensure!(again.text == answer.text, "{} was {}", again.text, answer.text);
        ensure!(slow.seen().len() == round + 1, "produced again");
        ws.close().await?;
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_is_free() -> Result<()> {
    let (cluster, slow) = situation().await?;
    let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
    let first = ws.ask(ASK).await?;
    ws.send(r#"{"type":"ack","seq":1}"#).await?;
    let second = ws.ask(ASK).await?;
    ensure!(second.request_id() != first.request_id(), "the same request: {}", second.text);
    drop(ws);

    let (mut ws, _) = ticket.resumes(cluster.node(1), 2).await?;
    ws.send(r#"{"type":"ack","seq":2}"#).await?;
    let third = ws.ask(ASK).await?;
    ensure!(third.seq() == 3 && third.request_id() != second.request_id(), "{}", third.text);
    ensure!(slow.seen().len() == 3, "{} records", slow.seen().len());
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn time_passes_while_nobody_listens() -> Result<()> {
    let (cluster, _slow) = situation().await?;
    let silent = cluster.worker("silent").silent()?;
    for (round, node) in cluster.nodes().iter().enumerate() {
        let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
        ws.send(r#"{"service":"silent","id":1,"timeout_ms":500}"#).await?;
        ws.send(r#"{"service":"silent","id":2,"timeout_ms":4000}"#).await?;
        silent.has_seen(2 * (round + 1)).await?;
        drop(ws);
        // The first deadline itself.
        sleep(Duration::from_secs(1)).await;

        let (mut ws, _) = ticket.resumes(node, 0).await?;
        for id in [1, 2] {
            let end = ws.frame().await?;
            ensure!(end.code() == "timeout" && end.need::<u64>("id")? == id, "{}", end.text);
            ensure!(end.raw("recorded") == Some("true") && end.seq() == id, "{}", end.text);
        }
        ws.close().await?;
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_can_still_be_cancelled() -> Result<()> {
    let (cluster, _slow) = situation().await?;
    let silent = cluster.worker("silent").silent()?;
    let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
    ws.send(r#"{"service":"silent","id":1,"timeout_ms":60000}"#).await?;
    silent.has_seen(1).await?;
    drop(ws);

    let (mut ws, _) = ticket.resumes(cluster.node(1), 0).await?;
    let end = ws.ask(r#"{"type":"cancel","id":1}"#).await?;
    ensure!(end.code() == "cancelled" && end.seq() == 1, "{}", end.text);
    cluster.finish().await
}
