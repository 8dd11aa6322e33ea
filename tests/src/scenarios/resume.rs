//! Situation: two nodes, a client with a few answers, some acknowledged, some on their way.
//! Action: its connection ends, and it resumes on the same node, on another one, or on another one
//! because its own drains.
//! Must hold: every frame after `last_seq` comes again, byte for byte and in order; then what was
//! answered meanwhile; then all goes on, with numbers that go up by one.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tests::{
    SOON,
    client::{Frame, WsClient},
    cluster::{Cluster, Node},
    eventually,
    ticket::Ticket,
    worker::Worker,
};
use tokio::sync::watch;

/// A service that answers when it is told to, and how it is told.
type Held = (Worker, watch::Sender<bool>);

async fn situation() -> Result<(Cluster, Worker, Held)> {
    let cluster = Cluster::builder().nodes(2).service("echo").service("held").start().await?;
    let (echo, held) = (cluster.worker("echo").echo()?, cluster.worker("held").held()?);
    cluster.balanced().await?;
    Ok((cluster, echo, held))
}

/// Five answers, of which the payloads need care.
async fn five(ws: &mut WsClient) -> Result<Vec<Frame>> {
    let mut frames = Vec::new();
    for (id, payload) in
        ["1", r#""ä\u0000\n""#, "1.0e2", r#"{"b": 1,"a": [ ]}"#, "null"].into_iter().enumerate()
    {
        let ask = format!(r#"{{"service":"echo","id":{id},"payload":{payload}}}"#);
        frames.push(ws.ask(&ask).await?);
    }
    let seqs: Vec<u64> = frames.iter().map(Frame::seq).collect();
    ensure!(seqs == [1, 2, 3, 4, 5], "{seqs:?}");
    Ok(frames)
}

async fn same(ws: &mut WsClient, frames: &[Frame]) -> Result<()> {
    for frame in frames {
        let again = ws.frame().await?;
        ensure!(again.text == frame.text, "{} instead of {}", again.text, frame.text);
    }
    Ok(())
}

async fn nobody_is_connected(node: &Node) -> Result<()> {
    eventually(SOON, "the node notices", async || {
        let connections = node.metrics().await?.sum("roundtrip_connections", &[]);
        ensure!(connections == 0.0, "{connections} connections");
        Ok(())
    })
    .await
}

async fn resumes_exactly(from: &Node, to: &Node, reliable: bool, (held, go): &Held) -> Result<()> {
    let (mut ws, ticket) = Ticket::new_session(from, reliable).await?;
    let frames = five(&mut ws).await?;
    if reliable {
        ws.send(r#"{"type":"ack","seq":2}"#).await?;
    }
    let before = held.seen().len();
    ws.send(r#"{"service":"held","id":"h","payload":"late","receipt":true}"#).await?;
    ensure!(ws.frame().await?.kind() == "receipt", "no receipt");
    held.has_seen(before + 1).await?;
    drop(ws);

    // What was not acknowledged comes again, the receipt among it.
    let (mut ws, ticket) = match reliable {
        true => {
            let (mut ws, ticket) = ticket.resumes(to, 2).await?;
            same(&mut ws, &frames[2..]).await?;
            ensure!(ws.frame().await?.kind() == "receipt", "the receipt does not come again");
            (ws, ticket)
        }
        false => ticket.resumes(to, 6).await?,
    };
    go.send_replace(true);
    let late = ws.frame().await?;
    ensure!((late.payload(), late.seq()) == (r#""late""#, 7), "{}", late.text);
    drop(ws);

    // What has arrived does not come again, acknowledged or not.
    let (mut ws, _) = ticket.resumes(from, 7).await?;
    let next = ws.ask(r#"{"service":"echo","id":"n","payload":8}"#).await?;
    ensure!((next.payload(), next.seq()) == ("8", 8), "{}", next.text);
    ensure!(held.seen().len() == before + 1, "produced again");
    ws.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_same_node() -> Result<()> {
    for reliable in [true, false] {
        let (cluster, _echo, held) = situation().await?;
        resumes_exactly(cluster.node(0), cluster.node(0), reliable, &held).await?;
        cluster.finish().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_another_node() -> Result<()> {
    for reliable in [true, false] {
        let (cluster, _echo, held) = situation().await?;
        resumes_exactly(cluster.node(0), cluster.node(1), reliable, &held).await?;
        cluster.finish().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_meanwhile_waits() -> Result<()> {
    const REQUESTS: u64 = 100;
    let (cluster, _echo, (held, go)) = situation().await?;
    for (reliable, node) in [(true, 0), (true, 1), (false, 0), (false, 1)] {
        go.send_replace(false);
        let before = held.seen().len();
        let (mut ws, ticket) = Ticket::new_session(cluster.node(0), reliable).await?;
        for id in 1..=REQUESTS {
            ws.send(format!(r#"{{"service":"held","id":{id},"payload":{id}}}"#)).await?;
        }
        held.has_seen(before + REQUESTS as usize).await?;
        drop(ws);
        if !reliable {
            // What is written to a socket counts as delivered, though nobody reads it any more.
            nobody_is_connected(cluster.node(0)).await?;
        }
        go.send_replace(true);
        // Some are parked by now, others still on their way: both must come.
        let (mut ws, _) = ticket.resumes(cluster.node(node), 0).await?;
        let mut answered = [false; REQUESTS as usize + 1];
        for seq in 1..=REQUESTS {
            let frame = ws.frame().await?;
            ensure!(frame.kind() == "response" && frame.seq() == seq, "{}", frame.text);
            let id: usize = frame.need("id")?;
            ensure!(frame.payload() == id.to_string(), "another's answer: {}", frame.text);
            ensure!(!std::mem::replace(&mut answered[id], true), "twice: {}", frame.text);
        }
        ws.close().await?;
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_acknowledged_comes_each_time() -> Result<()> {
    let (cluster, _echo, _held) = situation().await?;
    let (mut ws, mut ticket) = Ticket::new_session(cluster.node(0), true).await?;
    let frames = five(&mut ws).await?;
    for round in 1..=6 {
        drop(ws);
        (ws, ticket) = ticket.resumes(cluster.node(round % 2), 0).await?;
        same(&mut ws, &frames).await?;
    }
    // Acknowledged on a later connection than the one on which it came.
    ws.send(r#"{"type":"ack","seq":5}"#).await?;
    let answer = ws.request("echo", "6").await?;
    ensure!(answer.seq() == 6, "{}", answer.text);
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_node_drains() -> Result<()> {
    let (mut cluster, _echo, (held, go)) = situation().await?;
    for reliable in [true, false] {
        go.send_replace(false);
        let before = held.seen().len();
        let (mut ws, ticket) = Ticket::new_session(cluster.node(0), reliable).await?;
        let answered = ws.request("echo", "1").await?;
        ws.send(r#"{"service":"held","id":1,"payload":"late","timeout_ms":60000}"#).await?;
        held.has_seen(before + 1).await?;

        cluster.node_mut(0).process()?.signal(Signal::SIGTERM)?;
        ensure!(ws.closed().await? == Some(1012), "closed otherwise");
        let (mut ws, ticket) = ticket.resumes(cluster.node(1), u64::from(!reliable)).await?;
        if reliable {
            same(&mut ws, &[answered]).await?;
        }
        // The session leaves the node before the node ends.
        ensure!(cluster.node_mut(0).exit_code().await? == 0, "the node failed");
        go.send_replace(true);
        let late = ws.frame_of("response").await?;
        ensure!((late.payload(), late.seq()) == (r#""late""#, 2), "{}", late.text);
        drop(ws);

        cluster.node_mut(0).restart().await?;
        cluster.balanced().await?;
        let (mut ws, _) = ticket.resumes(cluster.node(0), 2).await?;
        let next = ws.request("echo", "3").await?;
        ensure!(next.seq() == 3, "{}", next.text);
        ws.close().await?;
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_come_back_does_not_hold_up_a_drain() -> Result<()> {
    let config = "[shutdown]\ngrace = \"20s\"";
    let builder = Cluster::builder().nodes(2).service("echo").service("held").config(config);
    let mut cluster = builder.start().await?;
    let (held, go) = cluster.worker("held").held()?;
    cluster.balanced().await?;
    let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
    ws.send(r#"{"service":"held","id":1,"payload":"late","timeout_ms":60000}"#).await?;
    held.has_seen(1).await?;
    drop(ws);

    let started = tokio::time::Instant::now();
    ensure!(cluster.node_mut(0).term().await? == 0, "the node failed");
    let took = started.elapsed();
    ensure!(took < Duration::from_secs(15), "it waited {took:?} for somebody who is not there");
    go.send_replace(true);
    let (mut ws, _) = ticket.resumes(cluster.node(1), 0).await?;
    let late = ws.frame().await?;
    ensure!((late.payload(), late.seq()) == (r#""late""#, 1), "{}", late.text);
    cluster.finish().await
}
