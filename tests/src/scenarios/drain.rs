//! Situation: three nodes under load.
//! Action: SIGTERM to one of them, then to the next.
//! Must hold: exit code 0; every session is resumed elsewhere, and every request is answered once.

use std::time::Duration;

use anyhow::Result;
use tests::{SOON, client::Event, cluster::Cluster, traffic::Traffic, worker::Reply};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_drained_under_load_loses_no_answer() -> Result<()> {
    let mut cluster = Cluster::builder().nodes(3).service("echo").start().await?;
    let _echo = cluster
        .worker("echo")
        .start(|seen| vec![Reply::echo(seen).after(Duration::from_millis(20))])?;
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.public()).collect();
    let mut traffic = Traffic::reliable(&nodes, "echo", 12, 4);
    traffic.goes_on(500).await?;

    for index in [0, 1] {
        assert_eq!(cluster.node_mut(index).term().await?, 0);
        traffic.goes_on(500).await?;
    }

    let tally = traffic.finish().await?;
    assert_eq!(tally.of("ok"), tally.asked, "{tally:?}");
    assert_eq!((tally.repeated, tally.lost), (0, 0), "{tally:?}");
    // A third of the sessions moved at the first, at least as many at the second.
    assert!(tally.resumed >= 8, "{tally:?}");
    cluster.finish().await
}

#[tokio::test]
async fn a_drained_client_is_told_to_come_back() -> Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    let mut ws = cluster.node(0).ws().await?;
    assert_eq!(cluster.node_mut(0).term().await?, 0);
    let Event::Closed(code) = ws.next(SOON).await? else { panic!("a frame while draining") };
    assert_eq!(code, Some(1012));
    cluster.finish().await
}

#[tokio::test]
async fn a_parked_http_request_is_answered_while_draining() -> Result<()> {
    let mut cluster = Cluster::builder().service("slow").start().await?;
    let slow = cluster
        .worker("slow")
        .start(|seen| vec![Reply::echo(seen).after(Duration::from_secs(1))])?;
    let http = cluster.node(0).http();
    let asking = tokio::spawn(async move { http.post("/v1/services/slow", "1").await });
    slow.has_seen(1).await?;

    assert_eq!(cluster.node_mut(0).term().await?, 0);

    let answer = asking.await??;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "1".to_owned()));
    cluster.finish().await
}
