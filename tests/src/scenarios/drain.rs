//! Situation: three nodes under load; or one with HTTP calls that wait.
//! Action: SIGTERM.
//! Must hold: exit code 0; sockets are closed with 1012, and no answer is lost: what the service has
//! seen was answered before; waiting HTTP calls are answered; nothing new is taken from those who have had
//! their turn.

use std::time::Duration;

use anyhow::{Result, ensure};
use http::Method;
use nix::sys::signal::Signal;
use tests::{SOON, client::Event, cluster::Cluster, eventually, traffic::Traffic, worker::Reply};
use tokio::{task::JoinSet, time::Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_drained_under_load_loses_no_answer() -> Result<()> {
    let mut cluster = Cluster::builder().nodes(3).service("echo").start().await?;
    let echo = cluster
        .worker("echo")
        .start(|seen| vec![Reply::echo(seen).anywhere().after(Duration::from_millis(20))])?;
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.public()).collect();
    let traffic = Traffic::start(&nodes, "echo", 12, 4);
    traffic.goes_on(300).await?;

    for index in [0, 1] {
        ensure!(cluster.node_mut(index).term().await? == 0, "node {index} failed");
        traffic.goes_on(300).await?;
    }

    let tally = traffic.finish().await?;
    tally.check_each_once()?;
    tally.check_unseen(&echo.seen())?;
    // Besides answers there are only refusals by a node that drains.
    ensure!(tally.of("ok") + tally.unrecorded.len() as u64 == tally.ended(), "{tally:?}");
    ensure!(tally.ended() == tally.of("ok") + tally.of("unavailable"), "{tally:?}");
    // A third of the clients moved at the first, at least as many at the second.
    ensure!(tally.reconnected >= 8, "{tally:?}");
    cluster.balanced().await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_is_answered_before_the_end() -> Result<()> {
    const CALLS: usize = 20;
    let mut cluster = Cluster::builder().service("slow").start().await?;
    let _slow = cluster
        .worker("slow")
        .start(|seen| vec![Reply::echo(seen).after(Duration::from_secs(2))])?;
    let node = cluster.node_mut(0);
    let mut idle = node.ws().await?;
    let mut waiting = node.ws().await?;
    waiting.send(r#"{"service":"slow","id":7,"payload":"ws"}"#).await?;
    let mut parked = JoinSet::new();
    for number in 0..CALLS {
        let http = node.http();
        parked.spawn(async move {
            let answer = http.post("/v1/services/slow", &number.to_string()).await?;
            ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
            ensure!(answer.text() == number.to_string(), "another's answer: {}", answer.text());
            Ok(())
        });
    }
    eventually(SOON, "all of them wait", async || {
        let waiting = node.metrics().await?.sum("roundtrip_in_flight", &[("service", "slow")]);
        ensure!(waiting == CALLS as f64 + 1.0, "{waiting}");
        Ok(())
    })
    .await?;

    node.process()?.signal(Signal::SIGTERM)?;
    // The client that is owed nothing is closed at once, the other one after its answer.
    let Event::Closed(code) = idle.next(SOON).await? else { panic!("a frame while draining") };
    ensure!(code == Some(1012), "{code:?}");
    ensure!(node.internal("/readyz").await?.status == 503, "ready while it drains");
    let refused = waiting.ask(r#"{"service":"slow","id":8}"#).await?;
    ensure!(refused.code() == "unavailable", "{}", refused.text);
    ensure!(refused.raw("recorded") == Some("false"), "{}", refused.text);
    let answer = waiting.frame().await?;
    ensure!(answer.payload() == r#""ws""#, "{}", answer.text);
    ensure!(waiting.closed().await? == Some(1012), "closed otherwise");
    while let Some(answer) = parked.join_next().await {
        answer??;
    }
    ensure!(node.exit_code().await? == 0, "the node failed");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_are_served_until_it_is_their_turn() -> Result<()> {
    let config = "[shutdown]\ncloses_per_second = 1";
    let mut cluster = Cluster::builder().service("echo").config(config).start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let node = cluster.node_mut(0);
    let mut sockets = Vec::new();
    for _ in 0..5 {
        sockets.push(node.ws().await?);
    }
    node.process()?.signal(Signal::SIGTERM)?;
    eventually(SOON, "the node drains", async || {
        ensure!(node.internal("/readyz").await?.status == 503, "it is ready");
        Ok(())
    })
    .await?;
    // One has had its turn, and perhaps one or two more by now; the last has seconds left.
    let mut answered = 0;
    for socket in &mut sockets {
        if let Ok(answer) = socket.ask(r#"{"service":"echo","id":1}"#).await {
            answered += usize::from(answer.kind() == "response");
        }
    }
    ensure!(answered > 0, "nobody was served any more");
    ensure!(node.exit_code().await? == 0, "the node failed");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_answered_within_the_grace_is_told() -> Result<()> {
    let config = "[shutdown]\ngrace = \"4s\"";
    let mut cluster = Cluster::builder().service("silent").config(config).start().await?;
    let silent = cluster.worker("silent").silent()?;
    let node = cluster.node_mut(0);
    let mut ws = node.ws().await?;
    ws.send(r#"{"service":"silent","id":1,"timeout_ms":60000}"#).await?;
    let http = node.http();
    let call = tokio::spawn(async move {
        let prefer = [("prefer", "wait=60")];
        http.send(Method::POST, "/v1/services/silent", &prefer, "1").await
    });
    silent.has_seen(2).await?;

    ensure!(node.term().await? == 0, "the node failed");
    // Its session goes on elsewhere, with the request in flight.
    ensure!(ws.closed().await? == Some(1012), "closed otherwise");
    let answer = call.await??;
    ensure!(answer.status == 503, "{}", answer.text());
    ensure!(answer.json()?["recorded"] == true, "{}", answer.text());
    cluster.finish().await
}

#[tokio::test]
async fn a_second_signal_ends_at_once() -> Result<()> {
    let mut cluster = Cluster::builder().service("silent").start().await?;
    let silent = cluster.worker("silent").silent()?;
    let node = cluster.node_mut(0);
    let mut ws = node.ws().await?;
    let mut idle = node.ws().await?;
    ws.send(r#"{"service":"silent","timeout_ms":60000}"#).await?;
    silent.has_seen(1).await?;

    node.process()?.signal(Signal::SIGTERM)?;
    ensure!(idle.closed().await? == Some(1012), "it does not drain");
    let started = Instant::now();
    ensure!(node.term().await? == 1, "not the exit code of a failure");
    let took = started.elapsed();
    ensure!(took < Duration::from_secs(10), "ended after {took:?}");
    cluster.finish().await
}
