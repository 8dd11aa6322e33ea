//! Situation: services that compress their replies, or answer in transactions; a request topic that takes
//! small batches only.
//! Action: requests, with every codec that Kafka has; while somebody else's transaction is open on
//! every partition of the reply topic; and many at once to the topic of small batches.
//! Must hold: replies of every codec arrive. While a transaction is open replies behind it wait, and go
//! on when it ends; a node that reads uncommitted records does not wait. A request is too large only by
//! itself, whatever it shares a batch with.

use std::time::Duration;

use anyhow::{Result, ensure};
use rdkafka::{
    admin::{NewTopic, TopicReplication},
    producer::{BaseProducer, BaseRecord, Producer},
};
use tests::{SOON, cluster::Cluster, eventually};

const CODECS: [&str; 4] = ["gzip", "snappy", "lz4", "zstd"];
const PARTITIONS: i32 = 4;

/// A text that every codec makes smaller, since what does not become smaller is sent as it is.
fn compressible() -> String {
    format!("\"{}\"", "roundtrip ".repeat(1000))
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_of_every_codec_arrive() -> Result<()> {
    let mut builder = Cluster::builder().nodes(2).reply_partitions(PARTITIONS);
    for codec in CODECS {
        builder = builder.service(codec);
    }
    let cluster = builder.start().await?;
    let workers: Result<Vec<_>> =
        CODECS.iter().map(|codec| cluster.worker(codec).compression(codec).echo()).collect();
    let _workers = workers?;
    let payload = compressible();
    for node in cluster.nodes() {
        let mut ws = node.ws().await?;
        for codec in CODECS {
            let answer = ws.request(codec, &payload).await?;
            ensure!(answer.payload() == payload, "{codec}: {}", answer.code());
        }
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_kept_in_zstd_is_read() -> Result<()> {
    let config = "kafka.reply_topic = \"{tag}.zstd-replies\"";
    let mut cluster = Cluster::builder().service("echo").config(config).prepare().await?;
    let replies = cluster.topic("zstd-replies");
    let topic = NewTopic::new(&replies, PARTITIONS, TopicReplication::Fixed(1));
    cluster.kafka().create(vec![topic.set("compression.type", "zstd")]).await?;
    cluster.node_mut(0).restart().await?;
    let _echo = cluster.worker("echo").echo()?;
    let payload = compressible();
    assert_eq!(cluster.node(0).ws().await?.request("echo", &payload).await?.payload(), payload);
    cluster.finish().await
}

/// Somebody's transaction, open on every partition of the topic.
fn open_transaction(cluster: &Cluster) -> Result<BaseProducer> {
    let topic = cluster.topic("replies");
    let id = format!("{}-other", cluster.tag());
    let producer: BaseProducer = cluster.kafka().client().set("transactional.id", id).create()?;
    producer.init_transactions(SOON)?;
    producer.begin_transaction()?;
    for partition in 0..PARTITIONS {
        let record: BaseRecord<'_, str, str> =
            BaseRecord::to(&topic).partition(partition).payload("{}");
        producer.send(record).map_err(|(error, _)| error)?;
    }
    producer.flush(SOON)?;
    Ok(producer)
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_wait_behind_an_open_transaction() -> Result<()> {
    let cluster = Cluster::builder().service("echo").reply_partitions(PARTITIONS).start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let mut ws = cluster.node(0).ws().await?;
    ensure!(ws.request("echo", "1").await?.payload() == "1", "all is well before");

    let transaction = open_transaction(&cluster)?;
    let waits = r#"{"type":"request","id":"w","service":"echo","payload":2,"timeout_ms":2000}"#;
    let ended = ws.ask(waits).await?;
    ensure!(ended.code() == "timeout" && ended.raw("recorded") == Some("true"), "{ended:?}");
    let http = cluster.node(0).http();
    let called = tokio::spawn(async move { http.post("/v1/services/echo", "3").await });
    eventually(SOON, "the call waits", async || {
        let waiting = cluster.sum("roundtrip_in_flight", &[]).await?;
        ensure!(waiting == 1.0, "{waiting} wait");
        Ok(())
    })
    .await?;
    transaction.commit_transaction(SOON)?;
    assert_eq!(called.await??.text(), "3");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn uncommitted_replies_are_read_where_that_is_wanted() -> Result<()> {
    let config = "kafka.isolation_level = \"read_uncommitted\"";
    let cluster = Cluster::builder()
        .service("echo")
        .reply_partitions(PARTITIONS)
        .config(config)
        .start()
        .await?;
    let _echo = cluster.worker("echo").echo()?;
    let transaction = open_transaction(&cluster)?;
    let answer = cluster.node(0).ws().await?.request("echo", "1").await?;
    assert_eq!(answer.payload(), "1");
    transaction.abort_transaction(Duration::from_secs(10))?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_too_large_only_by_itself() -> Result<()> {
    const REQUESTS: usize = 200;
    let config = "services.small.request_topic = \"{tag}.small.requests\"";
    let mut cluster = Cluster::builder().config(config).prepare().await?;
    let name = cluster.topic("small.requests");
    let topic = NewTopic::new(&name, 2, TopicReplication::Fixed(1));
    cluster.kafka().create(vec![topic.set("max.message.bytes", "2000")]).await?;
    cluster.node_mut(0).restart().await?;
    let _echo = cluster.worker("small").echo()?;
    let mut ws = cluster.node(0).ws().await?;
    for round in 0..2 {
        for id in 0..REQUESTS {
            ws.send(format!(r#"{{"service":"small","id":{id},"payload":{id}}}"#)).await?;
        }
        let large = "x".repeat(3000);
        ws.send(format!(r#"{{"service":"small","id":"large","payload":"{large}"}}"#)).await?;
        for _ in 0..=REQUESTS {
            let frame = ws.frame().await?;
            let is_large = frame.get("id") == Some("large");
            let expected = if is_large { "too_large" } else { "" };
            ensure!(frame.code() == expected, "in round {round}: {}", frame.text);
        }
    }
    cluster.finish().await
}
