//! Situation: two nodes, a client of the first with requests in flight, answers not acknowledged, and
//! answers acknowledged.
//! Action: the first node is killed; the client resumes on the second.
//! Must hold: a reliable session goes on: what was not acknowledged comes again with the same request
//! id and content, what was does not; numbers go on at `last_seq` + 1; what is in flight is answered,
//! or ends at its deadline. A session that was connected without acknowledging is honestly over, and so
//! is one of which Redis has dropped a part to make room.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use redis::AsyncCommands;
use tests::{
    client::{Frame, WsClient},
    cluster::Cluster,
    ticket::Ticket,
    worker::Reply,
};
use tokio::time::sleep;

async fn cluster() -> Result<Cluster> {
    let services = ["echo", "held", "silent"];
    let builder = Cluster::builder().nodes(2);
    let cluster = services.iter().fold(builder, |builder, name| builder.service(name));
    let cluster = cluster.start().await?;
    cluster.balanced().await?;
    Ok(cluster)
}

/// Reads frames numbered from `seq` on until each of these ids has ended; of those that had ended
/// before, only the same again is allowed.
async fn end_each(
    ws: &mut WsClient,
    mut seq: u64,
    mut waiting: Vec<u64>,
    before: &BTreeMap<u64, Frame>,
) -> Result<Vec<Frame>> {
    let mut ends = Vec::new();
    while !waiting.is_empty() {
        let frame = ws.frame().await?;
        ensure!(frame.seq() == seq, "not number {seq}: {}", frame.text);
        seq += 1;
        let id: u64 = frame.need("id")?;
        if let Some(earlier) = before.get(&id) {
            ensure!(frame.content() == earlier.content(), "{} was {}", frame.text, earlier.text);
        }
        match waiting.iter().position(|&waiting| waiting == id) {
            Some(index) => drop(waiting.remove(index)),
            None => ensure!(before.contains_key(&id), "not asked for: {}", frame.text),
        }
        ends.push(frame);
    }
    Ok(ends)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reliable_session_goes_on() -> Result<()> {
    let mut cluster = cluster().await?;
    let _echo = cluster.worker("echo").start(|seen| vec![Reply::echo(seen).anywhere()])?;
    let (held, go) = cluster.worker("held").held()?;
    let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
    let mut answers = BTreeMap::new();
    for id in 1..=6 {
        let ask = format!(r#"{{"service":"echo","id":{id},"payload":{id}}}"#);
        answers.insert(id, ws.ask(&ask).await?);
        if id == 3 {
            ws.send(r#"{"type":"ack","seq":3}"#).await?;
            ws.is_heard().await?;
        }
    }
    for id in 7..=9 {
        ws.send(format!(r#"{{"service":"held","id":{id},"payload":{id}}}"#)).await?;
    }
    held.has_seen(3).await?;

    cluster.node_mut(0).kill();
    ensure!(ws.closed().await?.is_none(), "a dead node cannot say good-bye");
    // The client has seen four frames; the fifth and sixth, it says, never arrived.
    let (mut ws, ticket) = ticket.resumes(cluster.node(1), 4).await?;
    go.send_replace(true);
    let unacked: BTreeMap<u64, Frame> = answers.split_off(&4);
    let ends = end_each(&mut ws, 5, vec![5, 6, 7, 8, 9], &unacked).await?;
    for end in &ends {
        let id: u64 = end.need("id")?;
        ensure!(end.kind() == "response" && end.payload() == id.to_string(), "{}", end.text);
    }
    // Nothing is due any more, and the session lives on.
    let last = ends.last().map(Frame::seq).unwrap_or_default();
    ws.send(format!(r#"{{"type":"ack","seq":{last}}}"#)).await?;
    ws.is_heard().await?;
    drop(ws);
    cluster.node_mut(0).restart().await?;
    cluster.balanced().await?;
    let (mut ws, _) = ticket.resumes(cluster.node(0), last).await?;
    let mut next = ws.ask(r#"{"service":"echo","id":10,"payload":10}"#).await?;
    // The fourth answer had arrived without being acknowledged.
    if next.need::<u64>("id")? == 4 {
        next = ws.frame().await?;
    }
    ensure!(next.payload() == "10", "{}", next.text);
    ensure!(held.seen().len() == 3, "produced again");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_flight_may_be_asked_again() -> Result<()> {
    let mut cluster = cluster().await?;
    let (held, go) = cluster.worker("held").held()?;
    let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
    let ask = |id| format!(r#"{{"service":"held","id":{id},"payload":{id},"receipt":true}}"#);
    let mut request_ids = BTreeMap::new();
    for id in 1..=5_u64 {
        ws.send(ask(id)).await?;
        let receipt = ws.frame_of("receipt").await?;
        request_ids.insert(receipt.need::<u64>("id")?, receipt.request_id());
    }
    ws.send(r#"{"type":"ack","seq":5}"#).await?;
    ws.is_heard().await?;
    held.has_seen(5).await?;

    cluster.node_mut(0).kill();
    let (mut ws, _) = ticket.resumes(cluster.node(1), 5).await?;
    for id in 1..=5 {
        ws.send(ask(id)).await?;
    }
    // Another content under an id that is in flight is still another request.
    ws.send(r#"{"service":"held","id":1,"payload":"other"}"#).await?;
    let duplicate = ws.frame().await?;
    ensure!(duplicate.code() == "duplicate", "{}", duplicate.text);
    go.send_replace(true);
    for _ in 1..=5 {
        let end = ws.frame_of("response").await?;
        let id = end.need::<u64>("id")?;
        ensure!(end.payload() == id.to_string(), "{}", end.text);
        ensure!(request_ids.remove(&id) == Some(end.request_id()), "asked anew: {}", end.text);
    }
    ensure!(held.seen().len() == 5, "produced again: {}", held.seen().len());
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn its_deadlines_outlive_the_node() -> Result<()> {
    let mut cluster = cluster().await?;
    let silent = cluster.worker("silent").silent()?;
    let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
    for (id, timeout_ms) in [(1, 500), (2, 12_000)] {
        let request = format!(r#""service":"silent","id":{id},"timeout_ms":{timeout_ms}"#);
        ws.send(format!(r#"{{{request}}}"#)).await?;
    }
    silent.has_seen(2).await?;
    cluster.node_mut(0).kill();
    drop(ws);

    // The first deadline passes while nobody serves the session.
    sleep(Duration::from_secs(1)).await;
    let (mut ws, _) = ticket.resumes(cluster.node(1), 0).await?;
    let ends = end_each(&mut ws, 1, vec![1, 2], &BTreeMap::new()).await?;
    for (end, id) in ends.iter().zip(1..) {
        ensure!(end.code() == "timeout" && end.need::<u64>("id")? == id, "{}", end.text);
        ensure!(end.raw("recorded") == Some("true"), "{}", end.text);
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_parked_is_kept() -> Result<()> {
    let mut cluster = cluster().await?;
    let (held, go) = cluster.worker("held").held()?;
    let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
    for id in 1..=20 {
        ws.send(format!(r#"{{"service":"held","id":{id},"payload":{id}}}"#)).await?;
    }
    held.has_seen(20).await?;
    drop(ws);
    go.send_replace(true);
    // An offset is committed only when the reply is safe.
    let (group, replies) = (cluster.tag().to_owned(), cluster.topic("replies"));
    tests::eventually(tests::SOON, "all replies are handled", async || {
        let lag = cluster.kafka().lag(&group, &replies, 12)?;
        ensure!(lag == 0, "{lag} are not");
        Ok(())
    })
    .await?;

    cluster.node_mut(0).kill();
    let (mut ws, _) = ticket.resumes(cluster.node(1), 0).await?;
    let ends = end_each(&mut ws, 1, (1..=20).collect(), &BTreeMap::new()).await?;
    ensure!(ends.iter().all(|end| end.kind() == "response"), "{ends:?}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_session_without_acknowledgements_is_over() -> Result<()> {
    let mut cluster = cluster().await?;
    let _echo = cluster.worker("echo").echo()?;
    let (mut ws, ticket) = Ticket::new_session(cluster.node(0), false).await?;
    ensure!(ws.request("echo", "1").await?.seq() == 1, "not the first");

    cluster.node_mut(0).kill();
    ensure!(ws.closed().await?.is_none(), "a dead node cannot say good-bye");
    ticket.is_over(cluster.node(1), 1).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn both_nodes_may_die_one_after_the_other() -> Result<()> {
    let mut cluster = cluster().await?;
    let (held, go) = cluster.worker("held").held()?;
    let (mut ws, mut ticket) = Ticket::new_session(cluster.node(0), true).await?;
    ws.send(r#"{"service":"held","id":1,"payload":1,"timeout_ms":60000}"#).await?;
    held.has_seen(1).await?;
    for (dies, lives) in [(0, 1), (1, 0)] {
        cluster.node_mut(dies).kill();
        drop(ws);
        (ws, ticket) = ticket.resumes(cluster.node(lives), 0).await?;
        ws.is_heard().await?;
        cluster.node_mut(dies).restart().await?;
        cluster.balanced().await?;
    }
    go.send_replace(true);
    let end = ws.frame().await?;
    ensure!((end.payload(), end.seq()) == ("1", 1), "{}", end.text);
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_over_where_the_registry_has_dropped_a_part() -> Result<()> {
    let mut cluster = cluster().await?;
    let _echo = cluster.worker("echo").echo()?;
    let (held, _go) = cluster.worker("held").held()?;
    let mut redis = cluster.redis().connect().await?;
    let mut dropped = Vec::new();
    for part in [":q", ":m"] {
        let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
        ws.ask(r#"{"service":"echo","id":1,"payload":1}"#).await?;
        ws.send(r#"{"service":"held","id":2,"payload":2}"#).await?;
        let key = format!("{}:s:{{{}}}", cluster.tag(), ticket.session);
        tests::eventually(tests::SOON, "the answer and both requests are in Redis", async || {
            let mut redis = cluster.redis().connect().await?;
            let frames: usize = redis.zcard(format!("{key}:m")).await?;
            let requests: usize = redis.hlen(format!("{key}:q")).await?;
            ensure!((frames, requests) == (1, 2), "{frames} and {requests}");
            Ok(())
        })
        .await?;
        dropped.push((ws, ticket, format!("{key}{part}")));
    }
    held.has_seen(2).await?;

    cluster.node_mut(0).kill();
    for (ws, ticket, key) in dropped {
        drop(ws);
        let gone: usize = redis.del(&key).await?;
        ensure!(gone == 1, "there is no {key}");
        ticket.is_over(cluster.node(1), 0).await?;
    }
    cluster.finish().await
}
