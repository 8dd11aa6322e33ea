//! Situation: two nodes, a session with requests in flight.
//! Action: its client says good-bye, stays away too long, lets too much wait, or breaks the contract.
//! Must hold: the session is over, and says so to whoever tries to resume it; any other end of a
//! connection leaves it alive.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::{
    SOON,
    cluster::Cluster,
    eventually,
    ticket::Ticket,
    worker::{Reply, Worker},
};
use tokio::time::sleep;

async fn situation(config: &str) -> Result<(Cluster, Worker)> {
    let cluster = Cluster::builder().nodes(2).service("echo").config(config).start().await?;
    let echo = cluster.worker("echo").echo()?;
    Ok((cluster, echo))
}

/// Waits until the nodes have dealt with every reply that there is.
async fn all_handled(cluster: &Cluster) -> Result<()> {
    let replies = cluster.topic("replies");
    eventually(SOON, "all replies are handled", async || {
        let lag = cluster.kafka().lag(cluster.tag(), &replies, 12)?;
        ensure!(lag == 0, "{lag} are not");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn good_bye_ends_it_at_once() -> Result<()> {
    let (cluster, _echo) = situation("").await?;
    for reliable in [true, false] {
        let (mut ws, ticket) = Ticket::new_session(cluster.node(0), reliable).await?;
        ws.request("echo", "1").await?;
        ws.close_with(1000).await?;
        ensure!(ws.closed().await? == Some(1000), "the good-bye is not returned");
        for node in cluster.nodes() {
            ticket.is_over(node, 1).await?;
        }
    }
    cluster.finish().await
}

#[tokio::test]
async fn any_other_end_does_not() -> Result<()> {
    let (cluster, _echo) = situation("").await?;
    for code in [1001, 1011, 3000, 4999] {
        let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
        let first = ws.request("echo", "1").await?;
        ws.close_with(code).await?;
        drop(ws.closed().await);
        let (mut ws, _) = ticket.resumes(cluster.node(1), 0).await?;
        let again = ws.frame().await?;
        ensure!(again.text == first.text, "after {code}: {}", again.text);
        ws.close().await?;
    }
    cluster.finish().await
}

#[tokio::test]
async fn who_stays_away_too_long_starts_anew() -> Result<()> {
    let (cluster, _echo) = situation("[session]\nresume_window = \"1s\"").await?;
    let (ws, welcome) = cluster.node(0).connect().welcome().await?;
    ensure!(welcome.need::<u64>("resume_window_ms")? == 1000, "{}", welcome.text);
    drop(ws);
    for node in cluster.nodes() {
        let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
        ws.request("echo", "1").await?;
        drop(ws);
        // The window itself, and what the registry needs to notice.
        sleep(Duration::from_secs(3)).await;
        ticket.is_over(node, 0).await?;
    }
    cluster.finish().await
}

#[tokio::test]
async fn who_stays_connected_may_do_so_beyond_the_window() -> Result<()> {
    let (cluster, _echo) = situation("[session]\nresume_window = \"1s\"").await?;
    let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
    sleep(Duration::from_secs(3)).await;
    ws.request("echo", "1").await?;
    drop(ws);
    let (mut ws, _) = ticket.resumes(cluster.node(1), 1).await?;
    ensure!(ws.request("echo", "2").await?.seq() == 2, "not the second");
    cluster.finish().await
}

#[tokio::test]
async fn a_mailbox_that_overflows_breaks_no_promise() -> Result<()> {
    const FRAMES: u64 = 10;
    for limit in ["mailbox_frames_max = 5", "mailbox_bytes_max = \"2KiB\""] {
        let config = format!("[session]\n{limit}");
        let builder = Cluster::builder().nodes(2).service("held").config(&config);
        let cluster = builder.start().await?;
        let answer = format!(r#""{}""#, "x".repeat(500));
        let held = cluster.worker("held").start_held(move |_| Reply::of(&*answer));
        let (held, go) = held?;
        // One round within the limits, and two beyond them.
        let mut ended = 0.0;
        for (frames, node) in [(2, 1), (FRAMES, 0), (FRAMES, 1)] {
            go.send_replace(false);
            let before = held.seen().len();
            let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
            for id in 1..=frames {
                ws.send(format!(r#"{{"service":"held","id":{id}}}"#)).await?;
            }
            held.has_seen(before + frames as usize).await?;
            drop(ws);
            // What is answered while there is a connection waits in the outbox.
            eventually(SOON, "the node has noticed", async || {
                let open = cluster.node(0).metrics().await?.sum("roundtrip_connections", &[]);
                ensure!(open == 0.0, "{open} connections");
                Ok(())
            })
            .await?;
            go.send_replace(true);
            ended += frames as f64;
            eventually(SOON, "every request has ended", async || {
                let mut sum = 0.0;
                for node in cluster.nodes() {
                    let metrics = node.metrics().await?;
                    sum += metrics.sum("roundtrip_requests_total", &[("service", "held")]);
                }
                ensure!(sum >= ended, "{sum} of {ended}");
                Ok(())
            })
            .await?;
            all_handled(&cluster).await?;
            match frames {
                FRAMES => ticket.is_over(cluster.node(node), 0).await?,
                _ => {
                    let (mut ws, _) = ticket.resumes(cluster.node(node), 0).await?;
                    for seq in 1..=frames {
                        ensure!(ws.frame().await?.seq() == seq, "not number {seq}");
                    }
                    ws.close().await?;
                }
            }
        }
        cluster.finish().await?;
    }
    Ok(())
}

#[tokio::test]
async fn acknowledging_the_future_ends_it() -> Result<()> {
    let (cluster, _echo) = situation("").await?;
    let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
    ws.request("echo", "1").await?;
    drop(ws);
    // Numbers go on over all connections of a session.
    let (mut ws, ticket) = ticket.resumes(cluster.node(1), 1).await?;
    ws.send(r#"{"type":"ack","seq":1}"#).await?;
    ensure!(ws.request("echo", "2").await?.seq() == 2, "not the second");
    ws.send(r#"{"type":"ack","seq":2}"#).await?;
    ws.send(r#"{"type":"ack","seq":2}"#).await?;
    ws.send(r#"{"type":"ack","seq":1}"#).await?;
    ensure!(ws.request("echo", "3").await?.seq() == 3, "not the third");
    ws.send(r#"{"type":"ack","seq":4}"#).await?;
    ensure!(ws.closed().await? == Some(4500), "closed otherwise");
    drop(ticket);
    cluster.finish().await
}
