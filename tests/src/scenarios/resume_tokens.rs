//! Situation: two nodes, a session and its token.
//! Action: it is resumed with a bad number, a token that is wrong, used or old, or twice at a time.
//! Must hold: a token is good for its own session alone, until the client has shown that it got the
//! next one; of two connections one stays; nothing of it is in any log.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use http::StatusCode;
use tests::{
    SOON,
    client::{Event, Handshake},
    cluster::Cluster,
    ticket::Ticket,
    worker::Worker,
};

async fn situation(config: &str) -> Result<(Cluster, Worker)> {
    situation_with(config, "debug").await
}

async fn situation_with(config: &str, log_filter: &str) -> Result<(Cluster, Worker)> {
    let builder = Cluster::builder().nodes(2).service("echo").config(config);
    let cluster = builder.log_filter(log_filter).start().await?;
    let echo = cluster.worker("echo").echo()?;
    Ok((cluster, echo))
}

#[tokio::test]
async fn a_bad_number_is_refused_and_uses_nothing_up() -> Result<()> {
    let (cluster, _echo) = situation("").await?;
    let node = cluster.node(0);
    let (ws, ticket) = Ticket::new_session(node, true).await?;
    drop(ws);

    for bad in ["", "-1", "x", "1.5", "%31x", "18446744073709551616", "1&last_seq=2"] {
        let handshake = ticket.connect(node, bad).handshake().await?;
        let Handshake::Refused { status, .. } = handshake else { panic!("accepted: {bad}") };
        ensure!(status == StatusCode::BAD_REQUEST, "{status} for {bad}");
    }
    for bad in ["reliable", "reliable=", "reliable=yes"] {
        let Handshake::Refused { status, .. } = node.connect().query(bad).handshake().await? else {
            panic!("accepted: {bad}")
        };
        ensure!(status == StatusCode::BAD_REQUEST, "{status} for {bad}");
    }
    let without = node.connect().query(&format!("reliable=1&resume={}", ticket.token));
    let Handshake::Refused { status, .. } = without.handshake().await? else {
        panic!("accepted without a number")
    };
    ensure!(status == StatusCode::BAD_REQUEST, "{status} without a number");
    let (ws, _) = ticket.resumes(node, 0).await?;
    ws.close().await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_number_that_was_never_sent_ends_the_session() -> Result<()> {
    for node in [0, 1] {
        let (cluster, _echo) = situation("").await?;
        let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
        ws.request("echo", "1").await?;
        drop(ws);

        ticket.is_over(cluster.node(node), 2).await?;
        ticket.is_over(cluster.node(0), 1).await?;
        ticket.is_over(cluster.node(1), 1).await?;
        cluster.finish().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_token_is_worth_nothing() -> Result<()> {
    let (cluster, _echo) = situation("").await?;
    let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
    ws.request("echo", "1").await?;

    let mut flipped = ticket.token.clone().into_bytes();
    flipped[0] = if flipped[0] == b'A' { b'B' } else { b'A' };
    let wrong = [String::from_utf8(flipped)?, ticket.session.clone(), "x".to_owned()];
    for token in wrong {
        let wrong = Ticket { token, ..ticket.clone() };
        wrong.is_over(cluster.node(0), 1).await?;
        wrong.is_over(cluster.node(1), 1).await?;
    }
    // Neither its connection nor the right token has suffered.
    ws.request("echo", "2").await?;
    drop(ws);
    ticket.resumes(cluster.node(1), 2).await?;
    cluster.finish().await
}

#[tokio::test]
async fn the_last_token_but_one_dies_when_the_next_has_arrived() -> Result<()> {
    let config = "[session]\nping_interval = \"500ms\"";
    let (cluster, _echo) = situation(config).await?;
    let (ws, first) = Ticket::new_session(cluster.node(0), true).await?;
    drop(ws);
    let (mut ws, second) = first.resumes(cluster.node(1), 0).await?;
    ws.pinged().await?;
    // Sent behind the pong, so answered after that was read.
    ws.is_heard().await?;

    for node in cluster.nodes() {
        first.is_over(node, 0).await?;
    }
    let (ws, _) = second.resumes(cluster.node(0), 0).await?;
    ws.close().await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_welcome_that_never_arrived_costs_nothing() -> Result<()> {
    let (cluster, _echo) = situation("").await?;
    let (ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
    drop(ws);
    // The handshake succeeds, but the client is gone before it has read the next token.
    for node in [0, 1, 1, 0] {
        drop(ticket.connect(cluster.node(node), "0").open().await?);
    }
    let (mut ws, _) = ticket.resumes(cluster.node(1), 0).await?;
    ensure!(ws.request("echo", "1").await?.seq() == 1, "not the first");
    cluster.finish().await
}

#[tokio::test]
async fn the_later_connection_stays() -> Result<()> {
    let (cluster, _echo) = situation("").await?;
    for node in [0, 1] {
        let (mut old, ticket) = Ticket::new_session(cluster.node(0), true).await?;
        ensure!(old.request("echo", "1").await?.seq() == 1, "not the first");

        let (mut new, _) = ticket.resumes(cluster.node(node), 1).await?;
        ensure!(old.closed().await? == Some(4002), "the old one was closed otherwise");
        ensure!(new.request("echo", "2").await?.seq() == 2, "not the second");
        new.close().await?;
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_at_a_time_one_stays() -> Result<()> {
    let (cluster, _echo) = situation("").await?;
    for round in 0..20 {
        let (ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
        drop(ws);
        let (one, other) = (cluster.node(round % 2), cluster.node(1));
        let (one, other) = tokio::join!(ticket.resume(one, 0), ticket.resume(other, 0));
        let ((mut one, first), (mut other, second)) = (one?, other?);
        ensure!(first.resumed && second.resumed, "both come with a good token");
        ensure!(first.session == second.session, "one session became two");
        let (closed, mut stays) = tokio::select! {
            event = one.next(SOON) => (event?, other),
            event = other.next(SOON) => (event?, one),
        };
        ensure!(matches!(closed, Event::Closed(Some(4002))), "{closed:?}");
        let answer = stays.request("echo", "1").await?;
        ensure!(answer.seq() == 1 && answer.payload() == "1", "{}", answer.text);
        stays.close().await?;
    }
    cluster.finish().await
}

#[tokio::test]
async fn no_token_is_in_a_log() -> Result<()> {
    let config = "[session]\nresume_window = \"1s\"";
    let (mut cluster, _echo) = situation_with(config, "trace,tungstenite::protocol=trace").await?;
    let (ws, first) = Ticket::new_session(cluster.node(0), true).await?;
    drop(ws);
    let (ws, second) = first.resumes(cluster.node(1), 0).await?;
    drop(ws);
    cluster.node_mut(1).kill();
    let (mut ws, third) = second.resumes(cluster.node(0), 0).await?;
    ws.send(r#"{"type":"ack","seq":7}"#).await?;
    ensure!(ws.closed().await? == Some(4500), "closed otherwise");
    let wrong = Ticket { token: "0123456789abcdefghijkl".to_owned(), ..third.clone() };
    wrong.is_over(cluster.node(0), 0).await?;
    let (ws, fourth) = Ticket::new_session(cluster.node(0), false).await?;
    drop(ws);
    // The window itself.
    tokio::time::sleep(Duration::from_secs(2)).await;
    fourth.is_over(cluster.node(0), 0).await?;
    ensure!(cluster.node_mut(0).term().await? == 0, "the node failed");

    for node in cluster.nodes() {
        let log = fs::read_to_string(node.log())?;
        ensure!(log.contains("TRACE"), "the log says too little to tell");
        for ticket in [&first, &second, &third, &fourth, &wrong] {
            ensure!(!log.contains(&ticket.token), "{} has a token in its log", node.id());
        }
    }
    cluster.finish().await
}
