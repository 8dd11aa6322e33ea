//! Situation: batches on the reply topic that no client can read: damaged on the broker's disk, or
//! larger than what the node takes in.
//! Action: the node meets them.
//! Must hold: it says where they are and why, and counts them. What can be stepped over is: the replies
//! behind it arrive, and the caller of one that was skipped gets `timeout`. Where it cannot, the node
//! is not ready, and says so; its other partitions are read on.

use std::time::Duration;

use anyhow::{Result, ensure};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use tests::{
    SOON,
    cluster::Cluster,
    eventually,
    worker::{Reply, ReplyPartition},
};

/// Where a batch has what: magic byte, and the first byte of its checksum.
const MAGIC: usize = 16;
const CHECKSUM: usize = 17;

/// A partition's next batch, of three records that are nobody's.
fn write_batch(client: &ClientConfig, topic: &str, partition: i32) -> Result<()> {
    // Long enough for all three to be there before the first is sent.
    let producer: BaseProducer = client.clone().set("linger.ms", "500").create()?;
    for value in ["one", "two", "three"] {
        let record: BaseRecord<'_, str, str> =
            BaseRecord::to(topic).partition(partition).payload(value);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    Ok(producer.flush(SOON)?)
}

async fn counted(cluster: &Cluster, partition: &str, reason: &str) -> Result<f64> {
    let labels =
        [("topic", &*cluster.topic("replies")), ("partition", partition), ("reason", reason)];
    cluster.sum("roundtrip_consumer_errors_total", &labels).await
}

/// Partition 0 has a damaged batch at its end, partition 1 one of an unknown format; 2 is well.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_batches_stop_nobody_else() -> Result<()> {
    let mut cluster =
        Cluster::builder().service("echo").own_kafka(&[]).reply_partitions(3).prepare().await?;
    let (topic, kafka) = (cluster.topic("replies"), cluster.kafka().clone());
    kafka.produce(&topic, 0, None, Some(b"good"), &[]).await?;
    for partition in [0, 1] {
        write_batch(&kafka.client(), &topic, partition)?;
    }
    kafka.stop().await?;
    kafka.edit_last_batch(&topic, 0, |batch| batch[CHECKSUM] ^= 0xff)?;
    kafka.edit_last_batch(&topic, 1, |batch| batch[MAGIC] = 9)?;
    kafka.restart().await?;

    cluster.node_mut(0).start()?;
    cluster.node_mut(0).bound().await?;
    eventually(SOON, "the damaged batch is stepped over", async || {
        let lag = kafka.lag_of(cluster.tag(), &topic, 0)?;
        ensure!(lag == 0, "{lag} records are not handled");
        let corrupt = counted(&cluster, "0", "corrupt").await?;
        ensure!(corrupt == 1.0, "counted {corrupt} times");
        Ok(())
    })
    .await?;
    eventually(SOON, "the other one is told", async || {
        let unsupported = counted(&cluster, "1", "unsupported").await?;
        ensure!(unsupported == 1.0, "counted {unsupported} times");
        let reason = format!("partition 1 of {topic} is not read on from offset 0: unsupported");
        let answer = cluster.node(0).internal("/readyz").await?;
        let text = answer.text();
        ensure!(answer.status == 503 && text.contains(&reason), "{}: {text}", answer.status);
        Ok(())
    })
    .await?;
    let said = std::fs::read_to_string(cluster.node(0).log())?;
    for part in ["corrupt", "failed CRC32C", "unsupported", "MagicByte 9"] {
        let warned = said.lines().any(|line| line.contains("WARN") && line.contains(part));
        ensure!(warned, "no warning of {part}");
    }

    let _echo = cluster.worker("echo").start(|seen| {
        let partition = seen.text().parse().unwrap_or_default();
        vec![Reply { partition: ReplyPartition::Fixed(partition), ..Reply::echo(seen) }]
    })?;
    let mut ws = cluster.node(0).ws().await?;
    for well in ["0", "2", "0", "2"] {
        assert_eq!(ws.request("echo", well).await?.payload(), well);
    }
    cluster.finish().await
}

/// Takes in at most 200 kB, in one answer of the broker or in one batch that was unpacked.
const SMALL: &str = r#"
    [kafka.properties]
    "message.max.bytes" = 100000
    "fetch.max.bytes" = 100000
    "receive.message.max.bytes" = 200000
"#;

#[tokio::test(flavor = "multi_thread")]
async fn replies_that_are_too_large_stop_nobody() -> Result<()> {
    let cluster = Cluster::builder()
        .service("plain")
        .service("packed")
        .reply_partitions(2)
        .config(SMALL)
        .start()
        .await?;
    let answers = |seen: &tests::worker::Seen| match seen.text().as_str() {
        "0" => vec![Reply::of(vec![b'7'; 300_000])],
        _ => vec![Reply::echo(seen)],
    };
    let _plain = cluster.worker("plain").start(answers)?;
    let _packed = cluster.worker("packed").compression("zstd").start(answers)?;
    let mut ws = cluster.node(0).ws().await?;
    for (service, reason) in [("packed", "undecodable"), ("plain", "too_large")] {
        assert_eq!(ws.request(service, "1").await?.payload(), "1");
        let large = format!(
            r#"{{"type":"request","id":"large","service":"{service}","payload":0,"timeout_ms":15000}}"#
        );
        ws.send(large).await?;
        let total = async || {
            let labels = [("reason", reason)];
            cluster.sum("roundtrip_consumer_errors_total", &labels).await
        };
        eventually(SOON, "it is stepped over", async || {
            ensure!(total().await? == 1.0, "{reason}: counted {} times", total().await?);
            Ok(())
        })
        .await?;
        for small in ["2", "3", "4", "5"] {
            let mut other = cluster.node(0).ws().await?;
            assert_eq!(other.request(service, small).await?.payload(), small);
        }
        let ended = ws.frame_of("error").await?;
        ensure!(ended.code() == "timeout" && ended.raw("recorded") == Some("true"), "{ended:?}");
    }
    eventually(Duration::from_secs(5), "the node is ready", async || {
        cluster.node(0).is_ready().await
    })
    .await?;
    cluster.finish().await
}
