//! Situation: two nodes under load with a Redis of their own; clients that acknowledge and clients that
//! do not; one session that changes its node after Redis has written a dump.
//! Action: Redis is killed and starts from that dump.
//! Must hold: no connection is closed, no session is lost, whichever node its client comes back to,
//! and every request ends; the nodes drain at once.

use anyhow::{Result, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use tests::{cluster::Cluster, ticket::Ticket, traffic::Traffic, worker::Reply};
use tokio::{
    task::JoinSet,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Nothing is in flight, so nothing is waited for.
const DRAIN_MAX: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn an_older_redis_costs_nobody_anything() -> Result<()> {
    let cluster = Cluster::builder().nodes(2).service("echo").own_redis().start().await?;
    let echo = cluster.worker("echo").start(|seen| vec![Reply::echo(seen).anywhere()])?;
    cluster.balanced().await?;
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.public()).collect();
    let traffic = Traffic::start(&nodes, "echo", 8, 4);
    traffic.goes_on(300).await?;
    let (mut moved, ticket) = Ticket::new_session(cluster.node(0), true).await?;
    let (mut stays, of_stays) = Ticket::new_session(cluster.node(1), true).await?;
    let (mut plain, _) = Ticket::new_session(cluster.node(0), false).await?;
    for ws in [&mut moved, &mut stays, &mut plain] {
        ws.ask(r#"{"service":"echo","id":1,"payload":1}"#).await?;
    }

    cluster.redis().save().await?;
    // The dump has a token and an owner that are replaced now, twice.
    drop(moved);
    let (moved, ticket) = ticket.resumes(cluster.node(1), 1).await?;
    drop(moved);
    let (mut moved, ticket) = ticket.resumes(cluster.node(0), 1).await?;
    let answer = moved.ask(r#"{"service":"echo","id":2,"payload":2}"#).await?;
    ensure!(answer.seq() == 2 && answer.payload() == "2", "{}", answer.text);
    traffic.goes_on(300).await?;
    cluster.redis().restart().await?;

    for (ws, seq) in [(&mut moved, 3), (&mut stays, 2), (&mut plain, 2)] {
        let answer = ws.ask(r#"{"service":"echo","id":3,"payload":3}"#).await?;
        ensure!(answer.seq() == seq && answer.payload() == "3", "{}", answer.text);
    }
    // At once, with a token of which Redis may not have heard again yet, on the other node.
    drop(moved);
    let (mut moved, _) = ticket.resumes(cluster.node(1), 3).await?;
    drop(stays);
    let (mut stays, _) = of_stays.resumes(cluster.node(0), 2).await?;
    for ws in [&mut moved, &mut stays, &mut plain] {
        let answer = ws.ask(r#"{"service":"echo","id":4,"payload":4}"#).await?;
        ensure!(answer.payload() == "4", "{}", answer.text);
    }
    traffic.goes_on(300).await?;
    let tally = traffic.finish().await?;
    tally.check_each_once()?;
    tally.check_unseen(&echo.seen())?;
    ensure!(tally.reconnected == 0, "a connection was closed: {tally:?}");

    drop((moved, stays, plain));
    let begun = Instant::now();
    cluster.finish().await?;
    ensure!(begun.elapsed() < DRAIN_MAX, "it took {:?} to drain", begun.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_nobody_can_have_seen_is_no_promise() -> Result<()> {
    let mut cluster = Cluster::builder().nodes(2).service("echo").start().await?;
    let _echo = cluster.worker("echo").echo()?;
    for last_seq in [u64::MAX, u64::MAX - 1, (1 << 53) + 1] {
        let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
        ws.ask(r#"{"service":"echo","id":1,"payload":1}"#).await?;
        cluster.node_mut(0).kill();
        ticket.is_over(cluster.node(1), last_seq).await?;
        cluster.node_mut(0).restart().await?;
        cluster.balanced().await?;
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_broken_entry_is_nobody_elses_trouble() -> Result<()> {
    let mut cluster = Cluster::builder().nodes(2).service("echo").own_redis().start().await?;
    let _echo = cluster.worker("echo").start(|seen| vec![Reply::echo(seen).anywhere()])?;
    let mut connection = cluster.redis().connect().await?;
    let table = format!("{}:{{nodes}}", cluster.tag());
    for (field, value) in [("gw-8", "what"), ("gw-9", "00000000000000000001 99999999999999 x {}")] {
        let mut command = redis::cmd("HSET");
        command.arg(&table).arg(field).arg(value).query_async::<()>(&mut connection).await?;
    }
    // A node that has to read the table to become ready, and to bring replies home.
    cluster.node_mut(1).kill();
    cluster.node_mut(1).restart().await?;
    cluster.balanced().await?;
    for node in cluster.nodes() {
        let mut ws = node.ws().await?;
        for _ in 0..20 {
            let answer = ws.request("echo", "1").await?;
            ensure!(answer.payload() == "1", "{}", answer.text);
        }
    }
    let unread = cluster.sum("roundtrip_registry_unreadable_total", &[("entry", "node")]).await?;
    ensure!(unread >= 2.0, "nobody has counted it: {unread}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn bogus_tokens_hold_nobody_up() -> Result<()> {
    const BOGUS: usize = 40;
    let cluster = Cluster::builder().nodes(2).service("echo").start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let (mut ws, ticket) = Ticket::new_session(cluster.node(0), true).await?;
    ws.ask(r#"{"service":"echo","id":1,"payload":1}"#).await?;
    // Whoever knows the session's id, and no more than that.
    let id = Uuid::parse_str(&ticket.session)?;
    let stop = CancellationToken::new();
    let mut attackers = JoinSet::new();
    for _ in 0..BOGUS {
        let (stop, connect) = (stop.clone(), cluster.node(1).connect());
        let query = format!("reliable=1&resume={}&last_seq=0", forged(id));
        attackers.spawn(async move {
            while !stop.is_cancelled() {
                drop(connect.clone().query(&query).welcome().await);
            }
        });
    }
    drop(ws);
    let begun = Instant::now();
    let (mut ws, _) = ticket.resumes(cluster.node(1), 1).await?;
    let took = begun.elapsed();
    stop.cancel();
    let answer = ws.ask(r#"{"service":"echo","id":2,"payload":2}"#).await?;
    ensure!(answer.payload() == "2", "{}", answer.text);
    // Forty, one after the other, would have held it up for two seconds.
    ensure!(took < Duration::from_secs(1), "it took {took:?} to resume");
    attackers.shutdown().await;
    drop(ws);
    cluster.finish().await
}

/// A token of the right form for that session.
fn forged(session: Uuid) -> String {
    BASE64.encode([*session.as_bytes(), *Uuid::new_v4().as_bytes()].concat())
}
