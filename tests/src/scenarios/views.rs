//! Situation: three nodes; a service whose requests are answered by events, which a validator writes
//! after a moment, at times before the request's record is even acknowledged.
//! Action: 500 requests over both edges of all nodes; a node is killed that reads events and holds
//! reliable sessions; Redis loses everything; a node starts before the view is complete.
//! Must hold: each request is answered by its own event, in time and once; a session that is resumed
//! gets its answer; a view is built again from its topic, and nobody is told that a key has no event
//! while that is not known.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use tests::{
    SOON,
    cluster::{Cluster, ClusterBuilder, Node},
    eventually,
    ticket::Ticket,
    worker::{Reply, Seen, Worker},
};
use tokio::time::sleep;

const CONFIG: &str = r#"
[views.orders]
topic = "{tag}.orders"
[services.orders]
timeout = "60s"
respond_on = { view = "orders", key = "/id", until = ["DONE", "FAILED"] }
"#;
const PARTITIONS: i32 = 12;

fn builder() -> ClusterBuilder {
    Cluster::builder().nodes(3).service("orders").topic("orders", PARTITIONS).config(CONFIG)
}

fn id_of(seen: &Seen) -> String {
    let value: serde_json::Value = serde_json::from_str(&seen.text()).unwrap_or_default();
    value["id"].as_str().unwrap_or_default().to_owned()
}

/// A validator that takes so many milliseconds at most.
fn validator(cluster: &Cluster, ms_max: u64) -> Result<Worker> {
    let topic = cluster.topic("orders");
    cluster.worker("orders").start(move |seen| {
        let id = id_of(seen);
        let event = |state: &str| {
            Reply::of(format!(r#"{{"id":"{id}","state":"{state}"}}"#)).to(&topic).keyed(&id)
        };
        let place = seen.offset.unsigned_abs() * 7_919 + u64::from(seen.partition.unsigned_abs());
        let ms = place * 1_013 % (ms_max + 1);
        vec![event("NEW"), event("DONE").after(Duration::from_millis(ms))]
    })
}

fn done(id: &str) -> String {
    format!(r#"{{"id":"{id}","state":"DONE"}}"#)
}

async fn post(node: &Node, id: &str) -> Result<()> {
    let body = format!(r#"{{"id":"{id}"}}"#);
    let answer = node.http().post("/v1/services/orders", &body).await?;
    ensure!(answer.status == 200 && answer.text() == done(id), "{id}: {answer:?}");
    Ok(())
}

async fn is_whole(node: &Node) -> Result<()> {
    eventually(SOON, "the view is complete", async || {
        let ready = node.internal("/readyz").await?;
        ensure!(ready.json()?["components"]["views"] == "ok", "{}", ready.text());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_answered_by_its_event() -> Result<()> {
    let cluster = builder().start().await?;
    let _validator = validator(&cluster, 30)?;
    let calls = (0..20).map(async |caller| {
        for round in 0..15 {
            let node = cluster.node((caller + round) % 3);
            post(node, &format!("http-{caller}-{round}")).await?;
        }
        anyhow::Ok(())
    });
    let sockets = (0..10).map(async |socket| {
        let mut ws = cluster.node(socket % 3).ws().await?;
        for round in 0..20 {
            let id = format!("ws-{socket}-{round}");
            let answer = ws.request("orders", &format!(r#"{{"id":"{id}"}}"#)).await?;
            ensure!(answer.payload() == done(&id), "{id}: {}", answer.text);
        }
        anyhow::Ok(())
    });
    tokio::try_join!(try_join_all(calls), try_join_all(sockets))?;

    // Once more for the same keys: what is there already is no answer to this.
    let seen = cluster.sum("roundtrip_requests_total", &[("service", "orders")]).await?;
    ensure!(seen == 500.0, "{seen}");
    try_join_all((0..30).map(|call| post(cluster.node(call % 3), "http-0-0"))).await?;
    for node in cluster.nodes() {
        for id in ["http-1-0", "ws-9-19"] {
            let found = node.http().get(&format!("/v1/views/orders/{id}")).await?;
            ensure!(found.status == 200 && found.text() == done(id), "{found:?}");
            let at_once = format!("/v1/views/orders/{id}?until=DONE&timeout_ms=5000");
            ensure!(node.http().get(&at_once).await?.status == 200, "{id}");
        }
        let none = node.http().get("/v1/views/orders/none").await?;
        ensure!(none.status == 404 && none.json()?["code"] == "not_found", "{none:?}");
    }
    // Nor that of somebody who has waited in vain.
    let never = "/v1/views/orders/ws-9-19?until=NEVER&timeout_ms=200";
    let waited = cluster.node(0).http().get(never).await?;
    ensure!(waited.status == 504 && waited.json()?["recorded"] == false, "{waited:?}");
    eventually(SOON, "no wait is left behind", async || {
        let mut redis = cluster.redis().connect().await?;
        let waits: Vec<String> = redis::cmd("KEYS")
            .arg(format!("{}:v:*:w", cluster.tag()))
            .query_async(&mut redis)
            .await?;
        ensure!(waits.is_empty(), "{waits:?}");
        Ok(())
    })
    .await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_takes_no_wake_up_along() -> Result<()> {
    let mut cluster = builder().start().await?;
    let _validator = validator(&cluster, 4_000)?;
    // Sessions of the node that is killed, which all wait.
    let mut sessions = Vec::new();
    for number in 0..20 {
        let (mut ws, ticket) = Ticket::new_session(cluster.node(2), true).await?;
        let ask = format!(r#"{{"service":"orders","id":1,"payload":{{"id":"r-{number}"}}}}"#);
        ws.send(ask).await?;
        ws.is_heard().await?;
        sessions.push((number, ticket));
    }
    sleep(Duration::from_millis(500)).await;
    let calls = join_all((0..100).map(|call| {
        let node = cluster.node(call % 2);
        async move { post(node, &format!("c-{call}")).await }
    }));
    let calls = {
        let mut calls = std::pin::pin!(calls);
        // Until half of the validator's time is over.
        let early = tokio::time::timeout(Duration::from_secs(2), &mut calls).await;
        ensure!(early.is_err(), "all answered before the node could be killed");
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(cluster.node(2).pid()?.cast_signed()),
            nix::sys::signal::Signal::SIGKILL,
        )?;
        calls.await
    };
    calls.into_iter().collect::<Result<Vec<()>>>()?;
    cluster.node_mut(2).kill();
    for (number, ticket) in sessions {
        let (mut ws, _) = ticket.resumes(cluster.node(number % 2), 0).await?;
        let answer = ws.frame_of("response").await.with_context(|| format!("r-{number}"))?;
        ensure!(answer.payload() == done(&format!("r-{number}")), "{}", answer.text);
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_built_from_its_topic() -> Result<()> {
    let mut cluster = builder().own_redis().prepare().await?;
    let topic = cluster.topic("orders");
    for key in 0..60 {
        for state in ["OLD", "DONE"] {
            let value = format!(r#"{{"id":"{key}","state":"{state}"}}"#);
            let (key, value) = (key.to_string(), value.as_bytes());
            let partition = key.parse::<i32>()? % PARTITIONS;
            cluster
                .kafka()
                .produce(&topic, partition, Some(key.as_bytes()), Some(value), &[])
                .await?;
        }
    }
    let has_all = async |cluster: &Cluster| {
        for key in 0..60 {
            let path = format!("/v1/views/orders/{key}");
            let found = cluster.node(key % 3).http().get(&path).await?;
            ensure!(found.status == 200, "{key}: {found:?}");
            ensure!(found.text() == done(&key.to_string()), "{key}: {found:?}");
        }
        anyhow::Ok(())
    };
    for node in 0..3 {
        cluster.node_mut(node).restart().await?;
    }
    // A node that is ready knows all of it.
    has_all(&cluster).await?;
    // Redis comes back with nothing: until the view is there again, nobody is told otherwise.
    cluster.redis().kill()?;
    cluster.redis().restart().await?;
    eventually(SOON, "the view is there again", async || {
        for key in 0..60 {
            let path = format!("/v1/views/orders/{key}");
            let found = cluster.node(key % 3).http().get(&path).await?;
            ensure!(found.status != 404, "{key} is said not to be there");
        }
        has_all(&cluster).await
    })
    .await?;
    for node in cluster.nodes() {
        is_whole(node).await?;
    }
    let _validator = validator(&cluster, 10)?;
    post(cluster.node(0), "after").await?;
    cluster.finish().await
}
