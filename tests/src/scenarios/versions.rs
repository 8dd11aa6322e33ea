//! Situation: nodes of this version, and of a later one: all that the latter write for other nodes (calls,
//! verdicts, sessions that they hand over, checkpoints, routes, their entries) has fields, words and
//! variants that this version does not know.
//! Action: a rolling upgrade, with one node taken back, while clients ask and resume on any node, and
//! nodes of both versions are killed; a session that goes to and fro between versions; a session whose
//! frames only the later version knows; a version that is too far away.
//! Must hold: nothing is lost, and all is answered, in both directions. A session that cannot be read is
//! honestly over. Versions that do not meet leave each other alone and say so once; what is read by the
//! wrong one waits for the right one.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use redis::AsyncCommands;
use tests::{
    SOON,
    account::Allowance,
    client::{Frame, WsClient},
    cluster::{Cluster, Node},
    drill::{SERVICES, services},
    eventually,
    faults::nodes::{kill, replace},
    reliable::{Crowd, Profile, directory::Directory},
    say,
    ticket::Ticket,
    worker::Reply,
};
use tokio::time::{Instant, sleep};

/// A later version that this one gets along with.
const WORDS: &str = "words";

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_upgrade_and_a_way_back_lose_nothing() -> Result<()> {
    const AWAY: Duration = Duration::from_secs(1);
    let builder = SERVICES.into_iter().fold(Cluster::builder().nodes(3), |b, name| b.service(name));
    let mut cluster = builder.start().await?;
    let _services = services(&cluster)?;
    cluster.balanced().await?;
    let directory = Arc::<Directory>::default();
    cluster.nodes().iter().for_each(|node| directory.list(node));
    let profile = Profile {
        services: SERVICES.map(str::to_owned).to_vec(),
        roam: Some(Duration::from_secs(2)),
        seed: rand::random(),
        ..Profile::default()
    };
    let crowd = Crowd::start(&profile, 20, &directory);
    crowd.goes_on(300).await?;

    replace(&mut cluster, &directory, 0, Some(WORDS)).await?;
    crowd.goes_on(300).await?;
    is_announced(&cluster, cluster.node(0)).await?;
    understand_each_other(&cluster, cluster.node(0)).await?;
    for index in [0, 1] {
        let others = cluster.nodes().iter().filter(|node| node.id() != cluster.node(index).id());
        let copied_before = copied(others).await?;
        kill(&mut cluster, &directory, index, AWAY, true).await?;
        crowd.goes_on(300).await?;
        eventually(SOON, "its sessions go on from their copies", async || {
            ensure!(copied(cluster.nodes().iter()).await? > copied_before, "none yet");
            Ok(())
        })
        .await?;
    }
    for (index, version) in [(1, Some(WORDS)), (0, None), (0, Some(WORDS)), (2, Some(WORDS))] {
        replace(&mut cluster, &directory, index, version).await?;
        crowd.goes_on(300).await?;
    }

    let account = crowd.finish().await?;
    say(&account.to_string());
    account.check(&Allowance { repeats: true, ..Allowance::default() })?;
    cluster.finish().await
}

/// How many sessions those nodes have taken from what a dead one had written.
async fn copied(nodes: impl Iterator<Item = &Node>) -> Result<f64> {
    let mut sum = 0.0;
    for node in nodes {
        sum += node.metrics().await?.sum("roundtrip_resumes_total", &[("result", "copied")]);
    }
    Ok(sum)
}

/// Waits until that node's entry is what a later version writes.
async fn is_announced(cluster: &Cluster, node: &Node) -> Result<()> {
    let key = format!("{}:{{nodes}}", cluster.tag());
    eventually(SOON, "the node table has its entry", async || {
        let mut redis = cluster.redis().connect().await?;
        let entry: String = redis.hget(&key, node.id()).await?;
        let says = |what| entry.contains(what);
        ensure!(says(r#""state":"resting""#) && says(r#""speaks":"1-2""#), "{entry}");
        Ok(())
    })
    .await
}

/// How many attempts to forward replies have not succeeded.
async fn failed(from: &Node, to: &Node) -> Result<f64> {
    let labels = [("peer", to.id()), ("result", "failed")];
    Ok(from.metrics().await?.sum("roundtrip_forwards_total", &labels))
}

/// Waits until, under load, replies have gone from the node of the later version to those of this one
/// and back, and verdicts have come that this version does not know.
async fn understand_each_other(cluster: &Cluster, later: &Node) -> Result<()> {
    for this in cluster.nodes().iter().filter(|node| node.id() != later.id()) {
        let failed_before = failed(this, later).await?;
        for (from, to) in [(this, later), (later, this)] {
            eventually(SOON, "replies are forwarded", async || {
                let labels = [("peer", to.id()), ("result", "delivered")];
                let delivered = from.metrics().await?.sum("roundtrip_forwards_total", &labels);
                ensure!(delivered > 0.0, "none from {} to {}", from.id(), to.id());
                Ok(())
            })
            .await?;
        }
        eventually(SOON, "a verdict cannot be read", async || {
            ensure!(failed(this, later).await? > failed_before, "{} reads all", this.id());
            Ok(())
        })
        .await?;
    }
    let unreadable = cluster.sum("roundtrip_registry_unreadable_total", &[]).await?;
    ensure!(unreadable == 0.0, "{unreadable} entries of the registry cannot be read");
    Ok(())
}

/// Requests to it wait for longer than anything takes here.
fn patient(service: &str) -> String {
    format!("[services.{service}]\ntimeout = \"5m\"\ntimeout_max = \"5m\"")
}

/// Waits until so many frames are in a session's checkpoint.
async fn has_mailbox(cluster: &Cluster, ticket: &Ticket, frames: usize) -> Result<()> {
    let key = format!("{}:s:{{{}}}:m", cluster.tag(), ticket.session);
    eventually(SOON, "its mailbox is filled", async || {
        let there: usize = cluster.redis().connect().await?.zcard(&key).await?;
        ensure!(there >= frames, "{there} of {frames}");
        Ok(())
    })
    .await
}

/// Reads frames, numbered from 1 on, until the session has brought the first two of these three: an
/// answer, a receipt, and the answer to what has that receipt; or the third as well. Any of them may
/// come again.
async fn brings(ws: &mut WsClient, owed: [&Frame; 2], end: Option<&str>) -> Result<()> {
    let mut waiting: Vec<String> = owed.iter().map(|frame| frame.content()).collect();
    let (mut seq, mut has_ended) = (0, end.is_none());
    while !(waiting.is_empty() && has_ended) {
        let frame = ws.frame().await?;
        seq += 1;
        ensure!(frame.seq() == seq, "not number {seq}: {}", frame.text);
        let content = frame.content();
        match owed.iter().any(|owed| owed.content() == content) {
            true => waiting.retain(|waiting| *waiting != content),
            false => {
                let is_end = frame.kind() == "response" && Some(frame.payload()) == end;
                let is_its = frame.request_id() == owed[1].request_id();
                ensure!(is_end && is_its, "unexpected: {}", frame.text);
                has_ended = true;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_to_and_fro_between_versions() -> Result<()> {
    let builder = Cluster::builder().nodes(2).service("echo").service("held");
    let mut cluster = builder.config(&patient("held")).later(1, WORDS).start().await?;
    let _echo = cluster.worker("echo").start(|seen| vec![Reply::echo(seen).anywhere()])?;
    let (held, go) = cluster.worker("held").held()?;
    cluster.balanced().await?;
    for (asked, from, to) in [(1, 0, 1), (2, 1, 0)] {
        // It is owed an answer and a receipt, and waits for an answer.
        let (mut ws, mut ticket) = Ticket::new_session(cluster.node(from), true).await?;
        let answer = ws.ask(r#"{"service":"echo","id":1,"payload":1}"#).await?;
        ws.send(r#"{"service":"held","id":2,"payload":2,"receipt":true}"#).await?;
        let receipt = ws.frame_of("receipt").await?;
        let owed = [&answer, &receipt];
        held.has_seen(asked).await?;

        // A node that is slow to answer is not waited for, so there may be more than one round.
        eventually(SOON, "it is handed over, both ways", async || {
            for index in [to, from] {
                let (mut ws, next) = ticket.resumes(cluster.node(index), 0).await?;
                ticket = next;
                brings(&mut ws, owed, None).await?;
            }
            for index in [to, from] {
                let metrics = cluster.node(index).metrics().await?;
                let released = metrics.sum("roundtrip_resumes_total", &[("result", "released")]);
                ensure!(released > 0.0, "node {index} has read a checkpoint");
            }
            Ok(())
        })
        .await?;

        // The next owner has only the checkpoint.
        has_mailbox(&cluster, &ticket, 2).await?;
        cluster.node_mut(from).kill();
        let (mut ws, _) = ticket.resumes(cluster.node(to), 0).await?;
        go.send_replace(true);
        brings(&mut ws, owed, Some("2")).await?;
        ensure!(held.seen().len() == asked, "produced again");
        go.send_replace(false);
        cluster.node_mut(from).restart().await?;
        cluster.balanced().await?;
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_only_a_later_version_can_read_is_over() -> Result<()> {
    let builder = Cluster::builder().nodes(2).service("echo").later(0, "frames");
    let mut cluster = builder.start().await?;
    cluster.balanced().await?;
    let _echo = cluster.worker("echo").echo()?;
    let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
    ws.request("echo", "1").await?;
    drop(ws);
    has_mailbox(&cluster, &ticket, 1).await?;
    cluster.node_mut(0).kill();
    ticket.is_over(cluster.node(1), 0).await?;
    let metrics = cluster.node(1).metrics().await?;
    let unread = metrics.sum("roundtrip_registry_unreadable_total", &[("entry", "frame")]);
    ensure!(unread > 0.0, "nobody has noticed");
    cluster.finish().await
}

/// How often the log of a node says at ERROR that it and that peer do not understand each other.
fn complaints(of: &Node, about: &Node) -> Result<usize> {
    let url = format!("http://{}", about.internal_address());
    let log = fs::read_to_string(of.log())?;
    let is_it =
        |line: &&str| ["ERROR", "speaks no version", &url].iter().all(|part| line.contains(part));
    Ok(log.lines().filter(is_it).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_do_not_meet_leave_each_other_alone() -> Result<()> {
    const APART: usize = 2;
    let builder = Cluster::builder().nodes(3).service("astray").later(APART, "apart");
    let mut cluster = builder.config(&patient("astray")).start().await?;
    let _astray = cluster.worker("astray").start(|seen| vec![Reply::echo(seen).anywhere()])?;
    cluster.balanced().await?;
    // A session of each side.
    let (mut ws, _) = Ticket::new_session(cluster.node(0), true).await?;
    let (apart, ticket) = Ticket::new_session(cluster.node(APART), true).await?;
    let ask = |id| format!(r#"{{"service":"astray","id":{id},"payload":{id}}}"#);
    for id in 0..60 {
        ws.send(ask(id)).await?;
    }

    let apart_node = cluster.node(APART);
    let tried = async || -> Result<f64> {
        Ok(failed(apart_node, cluster.node(0)).await? + failed(apart_node, cluster.node(1)).await?)
    };
    eventually(SOON, "a reply is read by the wrong one", async || {
        ensure!(tried().await? > 0.0, "none yet");
        Ok(())
    })
    .await?;
    let (before, started) = (tried().await?, Instant::now());
    sleep(Duration::from_secs(6)).await;
    let (tries, seconds) = (tried().await? - before, started.elapsed().as_secs_f64());
    // Every two seconds for each of two peers, and some times more without a reply.
    ensure!(tries <= seconds + 6.0, "tried {tries} times in {seconds} s");
    for (of, about) in [(0, APART), (1, APART), (APART, 0), (APART, 1)] {
        let (of, about) = (cluster.node(of), cluster.node(about));
        let peer = format!("peer http://{}: speaks the versions", about.internal_address());
        eventually(SOON, "it is said, once", async || {
            let count = complaints(of, about)?;
            ensure!(count == 1, "{} says it {count} times of {}", of.id(), about.id());
            let probe = of.internal("/readyz").await?.text();
            ensure!(probe.contains(&peer) && probe.contains("7-9"), "{probe}");
            Ok(())
        })
        .await?;
    }

    // Its sessions go on elsewhere, from their copies; what it has read is read again by others.
    drop(apart);
    let (mut moved, _) = ticket.resumes(cluster.node(0), 0).await?;
    let code = cluster.node_mut(APART).term().await?;
    ensure!(code == 0, "drained with exit code {code}");
    let mut waiting: Vec<u64> = (0..60).collect();
    while !waiting.is_empty() {
        let frame = ws.frame().await.with_context(|| format!("{} wait", waiting.len()))?;
        let id: u64 = frame.need("id")?;
        ensure!(frame.kind() == "response" && frame.payload() == id.to_string(), "{}", frame.text);
        waiting.retain(|waiting| *waiting != id);
    }
    moved.send(ask(7)).await?;
    ensure!(moved.frame().await?.payload() == "7", "the session that has moved");
    cluster.finish().await
}
