//! Situation: two nodes; a reply topic in which not everything is a reply.
//! Action: into every partition, records without and with malformed correlation, with a null value,
//! too large for a request, for nobody; between them honest traffic.
//! Must hold: no partition is held up, each is handled to its end, and counted by its reason.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::{
    SOON,
    cluster::Cluster,
    eventually,
    traffic::Traffic,
    worker::{Reply, ReplyKey},
};
use uuid::Uuid;

const PARTITIONS: i32 = 6;
/// Over what a request may be by default, and within what a producer sends by default.
const LARGE: usize = 960_000;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_reply_is_counted_and_skipped() -> Result<()> {
    let cluster =
        Cluster::builder().nodes(2).service("echo").reply_partitions(PARTITIONS).start().await?;
    let _echo = cluster.worker("echo").start(|seen| vec![Reply::echo(seen).anywhere()])?;
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.public()).collect();
    cluster.balanced().await?;
    let traffic = Traffic::start(&nodes, "echo", 4, 2);

    let large = vec![b'x'; LARGE];
    let nobody = Uuid::now_v7().to_string();
    // Older than any request can be.
    let ancient = "01800000-0000-7000-8000-000000000000";
    let correlation = |id: &'static [u8]| vec![("kafka_correlationId", Some(id))];
    let (topic, kafka) = (cluster.topic("replies"), cluster.kafka());
    for partition in 0..PARTITIONS {
        let put = async |key: Option<&[u8]>, value: Option<&[u8]>, headers: &[_]| {
            kafka.produce(&topic, partition, key, value, headers).await
        };
        put(None, None, &[]).await?;
        put(None, Some(&large), &[]).await?;
        put(Some(b"order-1"), Some(b"{}"), &[]).await?;
        put(None, Some(b"{}"), &correlation(b"not-an-id")).await?;
        put(None, None, &correlation(b"")).await?;
        put(None, None, &[("kafka_correlationId", None)]).await?;
        put(Some(nobody.as_bytes()), None, &[]).await?;
        put(Some(nobody.as_bytes()), Some(&large), &[]).await?;
        put(Some(ancient.as_bytes()), Some(b"{}"), &[("roundtrip-status", Some(b"x"))]).await?;
    }
    traffic.goes_on(500).await?;
    let tally = traffic.finish().await?;
    tally.check_each_once()?;
    ensure!(tally.of("ok") == tally.asked, "{tally:?}");

    let each = f64::from(PARTITIONS);
    for (reason, expected) in [("uncorrelated", 3.0), ("malformed_correlation", 3.0)] {
        let labels = [("reason", reason)];
        let counted = cluster.sum("roundtrip_records_skipped_total", &labels).await?;
        ensure!(counted == expected * each, "{reason}: {counted}");
    }
    eventually(SOON, "all of it is handled", async || {
        let unrouted = cluster.sum("roundtrip_replies_total", &[("way", "unrouted")]).await?;
        ensure!(unrouted == 3.0 * each, "{unrouted} unrouted");
        let lag = kafka.lag(cluster.tag(), &topic, PARTITIONS)?;
        ensure!(lag == 0, "{lag} records are not handled");
        Ok(())
    })
    .await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_of_any_shape_arrive() -> Result<()> {
    let cluster = Cluster::builder().nodes(2).service("shapes").start().await?;
    let large = vec![b'7'; LARGE];
    let _service = cluster.worker("shapes").start(move |seen| {
        let raw = Uuid::parse_str(&seen.header("kafka_correlationId")).unwrap_or_default();
        let reply = match seen.text().as_str() {
            "0" => Reply::default(),
            "1" => Reply::of(large.clone()),
            "2" => Reply { key: ReplyKey::Bytes(raw.into_bytes().into()), ..Reply::echo(seen) },
            _ => Reply::echo(seen).header("x-not-allowed", "1").header("kafka_other", "2"),
        };
        vec![reply.anywhere(), Reply::of("late").anywhere().after(Duration::from_millis(200))]
    })?;
    cluster.balanced().await?;

    for round in 0..6 {
        let node = cluster.node(round % 2);
        let mut ws = node.ws().await?;
        assert_eq!(ws.request("shapes", "0").await?.payload(), "null");
        assert_eq!(ws.request("shapes", "1").await?.payload().len(), LARGE);
        assert_eq!(ws.request("shapes", "2").await?.payload(), "2");
        let answer = ws.request("shapes", "3").await?;
        assert_eq!((answer.payload(), answer.raw("headers")), ("3", None));
        let answer = node.http().post("/v1/services/shapes", "1").await?;
        assert_eq!(answer.body.len(), LARGE);
    }
    cluster.finish().await
}
