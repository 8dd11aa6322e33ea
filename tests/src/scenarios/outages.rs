//! Situation: two nodes under load, with a Kafka and a Redis of their own.
//! Action: Kafka, or Redis, is killed and comes back (Redis empty); or it hangs for a while; or a
//! node does.
//! Must hold: every request ends exactly once, in an answer or an honest error; no connection is
//! closed; readiness says when Kafka is away; then all is as before, by itself.

use std::time::Duration;

use anyhow::{Result, ensure};
use http::Method;
use nix::sys::signal::Signal;
use tests::{
    SOON,
    cluster::Cluster,
    eventually,
    meter::Meter,
    say,
    traffic::{Tally, Traffic},
    worker::{Reply, Worker},
};
use tokio::time::sleep;

/// What a client may be told while Kafka or the registry is away.
const HONEST: [&str; 4] = ["ok", "timeout", "unavailable", "overloaded"];

fn check(tally: &Tally, service: &Worker) -> Result<()> {
    tally.check_each_once()?;
    tally.check_unseen(&service.seen())?;
    ensure!(tally.reconnected == 0, "a connection was closed: {tally:?}");
    let dishonest = tally.outcomes.keys().find(|outcome| !HONEST.contains(&outcome.as_str()));
    ensure!(dishonest.is_none(), "{dishonest:?} in {:?}", tally.outcomes);
    Ok(())
}

async fn still_answers(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let answer = node.ws().await?.request("echo", "1").await?;
        ensure!(answer.payload() == "1", "{}", answer.text);
    }
    Ok(())
}

/// Waits until each node says that Kafka is away.
async fn kafka_is_missed(cluster: &Cluster, within: Duration) -> Result<()> {
    for node in cluster.nodes() {
        eventually(within, "the node is not ready", async || {
            let answer = node.internal("/readyz").await?;
            let is_kafka = answer.text().contains(r#""kafka":"unready""#);
            ensure!(answer.status == 503 && is_kafka, "{}", answer.text());
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// What a client is told when the node knows that Kafka is away.
async fn refuses(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(0);
    let frame = node.ws().await?.request("echo", "1").await?;
    ensure!(frame.code() == "unavailable", "{}", frame.text);
    ensure!(frame.raw("retryable") == Some("true"), "{}", frame.text);
    ensure!(frame.raw("recorded") == Some("false"), "{}", frame.text);
    let answer = node.http().send(Method::POST, "/v1/services/echo", &[], "1").await?;
    ensure!(answer.status == 503, "{}", answer.text());
    ensure!(answer.json()?["code"] == "unavailable", "{}", answer.text());
    ensure!(!answer.header("retry-after").is_empty(), "{answer:?}");
    // Alive all the same: a restart would not help.
    let alive = node.internal("/livez").await?;
    ensure!(alive.status == 200, "{}", alive.text());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_killed_and_restarted_under_load() -> Result<()> {
    let cluster = Cluster::builder().nodes(2).service("echo").own_kafka(&[]).start().await?;
    let echo = cluster.worker("echo").echo()?;
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.public()).collect();
    let traffic = Traffic::start(&nodes, "echo", 8, 4);
    traffic.goes_on(300).await?;

    cluster.kafka().kill()?;
    kafka_is_missed(&cluster, SOON).await?;
    refuses(&cluster).await?;
    cluster.kafka().restart().await?;
    cluster.ready().await?;

    traffic.goes_on(300).await?;
    let tally = traffic.finish().await?;
    check(&tally, &echo)?;
    ensure!(tally.of("unavailable") > 0, "nobody was told: {:?}", tally.outcomes);
    still_answers(&cluster).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_killed_and_restarted_empty_under_load() -> Result<()> {
    let cluster = Cluster::builder().nodes(2).service("echo").own_redis().start().await?;
    // Replies land anywhere, so that more than affinity is at stake.
    let echo = cluster.worker("echo").start(|seen| vec![Reply::echo(seen).anywhere()])?;
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.public()).collect();
    let traffic = Traffic::start(&nodes, "echo", 8, 4);
    traffic.goes_on(300).await?;

    cluster.redis().kill()?;
    cluster.redis().restart().await?;

    traffic.goes_on(300).await?;
    check(&traffic.finish().await?, &echo)?;
    still_answers(&cluster).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_replies_come_home_wherever_they_land() -> Result<()> {
    let builder = Cluster::builder().nodes(2).service("echo").service("anywhere");
    let cluster = builder.own_redis().start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let _anywhere = cluster.worker("anywhere").start(|seen| vec![Reply::echo(seen).anywhere()])?;
    cluster.balanced().await?;

    // Each node forwards to the other one, and so has heard of it.
    ask_all(&cluster, "anywhere").await?;
    cluster.redis().kill()?;
    ask_all(&cluster, "echo").await?;
    ask_all(&cluster, "anywhere").await?;
    cluster.redis().restart().await?;
    cluster.finish().await
}

async fn ask_all(cluster: &Cluster, service: &str) -> Result<()> {
    for node in cluster.nodes() {
        let mut ws = node.ws().await?;
        for _ in 0..50 {
            let answer = ws.request(service, "1").await?;
            ensure!(answer.payload() == "1", "{}", answer.text);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_that_hangs_is_noticed_and_forgiven() -> Result<()> {
    let cluster = Cluster::builder().nodes(2).service("echo").own_kafka(&[]).start().await?;
    let echo = cluster.worker("echo").echo()?;
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.public()).collect();
    let traffic = Traffic::start(&nodes, "echo", 8, 4);
    traffic.goes_on(300).await?;

    cluster.kafka().signal(Signal::SIGSTOP)?;
    kafka_is_missed(&cluster, SOON * 2).await?;
    refuses(&cluster).await?;
    cluster.kafka().signal(Signal::SIGCONT)?;
    cluster.ready().await?;

    traffic.goes_on(300).await?;
    check(&traffic.finish().await?, &echo)?;
    still_answers(&cluster).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_broker_hangs_has_nothing_to_do() -> Result<()> {
    const WAITING: usize = 100;
    const STILL: Duration = Duration::from_secs(2);
    // One partition: its requests alone never fill a connection, so that librdkafka keeps trying.
    let config = "[services.echo]\nrequest_topic = \"{tag}.echo.requests\"";
    let builder = Cluster::builder().topic("echo.requests", 1).config(config);
    let cluster = builder.own_kafka(&[]).start().await?;
    let echo = cluster.worker("echo").echo()?;
    let node = cluster.node(0);
    let mut meter = Meter::default();
    meter.add("node", node.pid()?);
    let traffic = Traffic::start(&[node.public()], "echo", 8, 4);
    traffic.goes_on(300).await?;

    cluster.kafka().signal(Signal::SIGSTOP)?;
    // Some are on their way, and what comes after them cannot be sent.
    let mut waiting = node.ws().await?;
    for id in 0..WAITING {
        waiting.send(format!(r#"{{"service":"echo","id":{id},"timeout_ms":60000}}"#)).await?;
        sleep(Duration::from_millis(2)).await;
    }
    let before = meter.read()?;
    sleep(STILL).await;
    let used = before.until(&meter.read()?);
    // Its time is over before it could go.
    let mut late = node.ws().await?;
    let answer = late.ask(r#"{"service":"echo","payload":"late","timeout_ms":100}"#).await?;
    cluster.kafka().signal(Signal::SIGCONT)?;

    for _ in 0..WAITING {
        let answer = waiting.frame().await?;
        ensure!(answer.kind() == "response", "{}", answer.text);
    }
    traffic.goes_on(300).await?;
    let share = used.share("node");
    say(&format!("while Kafka stood still, the node used {:.1} % of a core", 100.0 * share));
    ensure!(share < 0.25, "{:.0} % of a core while nothing could be sent", 100.0 * share);
    ensure!(["timeout", "unavailable"].contains(&answer.code().as_str()), "{}", answer.text);
    check(&traffic.finish().await?, &echo)?;
    if answer.raw("recorded") == Some("false") {
        let seen = echo.seen();
        ensure!(
            seen.iter().all(|seen| seen.value.as_deref() != Some(br#""late""#)),
            "recorded all the same"
        );
    }
    cluster.finish().await
}

/// Many requests on both nodes, whose service answers only when it is told to.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_outlives_an_empty_redis() -> Result<()> {
    const EACH: usize = 40;
    let cluster = Cluster::builder().nodes(2).service("held").own_redis().start().await?;
    let (held, let_go) = cluster.worker("held").held()?;
    cluster.balanced().await?;
    let mut clients = Vec::new();
    for node in cluster.nodes() {
        let mut ws = node.ws().await?;
        for id in 0..EACH {
            let frame = format!(r#""service":"held","id":{id},"payload":{id}"#);
            ws.send(format!(r#"{{{frame},"timeout_ms":60000}}"#)).await?;
        }
        clients.push(ws);
    }
    held.has_seen(2 * EACH).await?;

    cluster.redis().kill()?;
    cluster.redis().restart().await?;
    let_go.send_replace(true);
    for ws in &mut clients {
        let mut answered = [false; EACH];
        for _ in 0..EACH {
            let answer = ws.frame().await?;
            ensure!(answer.kind() == "response", "{}", answer.text);
            let id: usize = answer.need("id")?;
            ensure!(answer.payload() == id.to_string(), "another's answer: {}", answer.text);
            ensure!(!std::mem::replace(&mut answered[id], true), "twice: {}", answer.text);
        }
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_hangs_holds_up_only_what_needs_it() -> Result<()> {
    const EACH: usize = 40;
    let cluster = Cluster::builder().nodes(2).service("echo").own_redis().start().await?;
    let echo = cluster.worker("echo").start(|seen| vec![Reply::echo(seen).anywhere()])?;
    cluster.balanced().await?;

    cluster.redis().signal(Signal::SIGSTOP)?;
    let mut clients = Vec::new();
    for node in cluster.nodes() {
        let mut ws = node.ws().await?;
        for id in 0..EACH {
            let frame = format!(r#""service":"echo","id":{id},"payload":{id}"#);
            ws.send(format!(r#"{{{frame},"timeout_ms":60000}}"#)).await?;
        }
        clients.push(ws);
    }
    echo.has_seen(2 * EACH).await?;
    // Half of the replies land at home.
    for ws in &mut clients {
        let answer = ws.frame().await?;
        ensure!(answer.kind() == "response", "{}", answer.text);
    }
    cluster.redis().signal(Signal::SIGCONT)?;
    for ws in &mut clients {
        for _ in 1..EACH {
            let answer = ws.frame().await?;
            ensure!(answer.kind() == "response", "{}", answer.text);
        }
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_slept_tells_the_truth() -> Result<()> {
    let mut cluster = Cluster::builder().nodes(2).service("echo").start().await?;
    let echo = cluster.worker("echo").start(|seen| vec![Reply::echo(seen).anywhere()])?;
    cluster.balanced().await?;
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.public()).collect();
    let awake = Traffic::start(&nodes[..1], "echo", 4, 4);
    let sleeping = Traffic::start(&nodes[1..], "echo", 4, 4);
    sleeping.goes_on(100).await?;

    cluster.node_mut(1).stop()?;
    let replies = cluster.topic("replies");
    eventually(SOON, "its partitions are taken over", async || {
        let owned = cluster.node(0).partitions(&replies).await?;
        ensure!(owned.len() == 12, "{owned:?}");
        Ok(())
    })
    .await?;
    awake.goes_on(100).await?;
    cluster.node_mut(1).cont()?;

    sleeping.goes_on(100).await?;
    cluster.balanced().await?;
    for traffic in [awake, sleeping] {
        check(&traffic.finish().await?, &echo)?;
    }
    still_answers(&cluster).await?;
    cluster.finish().await
}
