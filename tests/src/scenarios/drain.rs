//! Situation: three nodes under load.
//! Action: SIGTERM to one of them, then to the next.
//! Must hold: exit code 0; every session is resumed elsewhere, and every request is answered once.

use anyhow::Result;
use tests::{SOON, client::Event, cluster::Cluster, traffic::Traffic, worker::Reply};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_drained_under_load_loses_no_answer() -> Result<()> {
    let mut cluster = Cluster::builder().nodes(3).service("echo").start().await?;
    let _echo = cluster
        .worker("echo")
        .start(|seen| vec![Reply::echo(seen).after(std::time::Duration::from_millis(20))])?;
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.public()).collect();
    let traffic = Traffic::start(&nodes, "echo", 12, 4);
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
