//! Situation: two nodes that may have few file descriptors; clients of both.
//! Action: connections that ask for nothing, and then as many sockets as there is room for; meanwhile
//! Redis and the links between the nodes break.
//! Must hold: who sends no head makes room; who finds no place is told so; probes are answered, links
//! come back, and whoever was in is served.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::{
    SOON,
    client::{Handshake, WsClient},
    cluster::{Cluster, Node},
    eventually,
    infra::proxy::Link,
    raw::RawWs,
};
use tokio::net::TcpStream;

const DESCRIPTORS: u32 = 256;
/// More than a node has descriptors for.
const MANY: usize = 400;

/// Opens sockets until there is no room, and checks what those are told that find none.
async fn fill(crowded: &Node) -> Result<Vec<Box<WsClient>>> {
    let mut sockets = Vec::new();
    let (status, headers) = loop {
        match crowded.connect().handshake().await? {
            Handshake::Accepted(socket) => sockets.push(socket),
            Handshake::Refused { status, headers } => break (status, headers),
        }
        ensure!(sockets.len() < MANY, "there is no end of sockets");
    };
    ensure!(status == 503 && headers.contains_key("retry-after"), "{status} {headers:?}");
    for _ in 0..20 {
        let answer = crowded.http().post("/v1/services/echo", "1").await?;
        ensure!(answer.status == 503 && answer.text().contains("descriptors"), "{answer:?}");
    }
    let limit = [("limit", "descriptors")];
    let hits = crowded.metrics().await?.sum("roundtrip_limit_hits_total", &limit);
    ensure!(hits >= 21.0, "{hits} hits");
    Ok(sockets)
}

/// Waits until the node has reached the registry again.
async fn announces_again(node: &Node) -> Result<()> {
    let calls = async || {
        let announced = [("operation", "announce")];
        let metrics = node.metrics().await?;
        anyhow::Ok(metrics.sum("roundtrip_registry_seconds_count", &announced))
    };
    let before = calls().await?;
    eventually(SOON, "the node table is reached again", async || {
        node.is_ready().await?;
        ensure!(calls().await? > before + 1.0, "not announced again");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_node_keeps_descriptors_for_itself() -> Result<()> {
    let cluster = Cluster::builder()
        .nodes(2)
        .service("echo")
        .descriptors(DESCRIPTORS)
        .own_redis()
        .proxied()
        .start()
        .await?;
    let _echo = cluster.worker("echo").echo()?;
    cluster.balanced().await?;
    let (crowded, other) = (cluster.node(0), cluster.node(1));
    let mut early = crowded.ws().await?;

    // A burst that never says what it wants.
    let mut silent = Vec::new();
    for _ in 0..MANY {
        silent.push(TcpStream::connect(crowded.public()).await?);
    }
    let answer = early.request("echo", "1").await?;
    assert_eq!(answer.payload(), "1");
    eventually(SOON, "a newcomer gets a place", async || crowded.ws().await).await?;
    drop(silent);

    let sockets = fill(crowded).await?;
    let mut bare = RawWs::connect(other.public()).await?;
    ensure!(bare.text().await?.contains("welcome"), "the other node has room");

    // What the node needs for itself can be opened anew.
    for node in cluster.nodes() {
        node.proxy().set(Link::Cut);
    }
    cluster.redis().kill()?;
    cluster.redis().restart().await?;
    for node in cluster.nodes() {
        node.proxy().heal();
    }
    announces_again(crowded).await?;
    let mut elsewhere = other.ws().await?;
    for number in 0..50 {
        for socket in [&mut early, &mut elsewhere] {
            let answer = socket.request("echo", &number.to_string()).await?;
            assert_eq!(answer.payload(), number.to_string(), "{}", answer.text);
        }
        let live = crowded.internal("/livez").await?;
        ensure!(live.status == 200, "{live:?}");
    }
    drop(sockets);
    eventually(Duration::from_secs(10), "there is room again", async || {
        let answer = crowded.http().post("/v1/services/echo", "1").await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    })
    .await?;
    cluster.finish().await
}
