//! Situation: a service of which messages can be deleted, on a topic that `topics` has created, or on
//! one that is not as it should be.
//! Action: three messages of one key; the second is deleted, and nobody writes there any more.
//! Must hold: the second is on no disk any more in time, its key included; a consumer sees the other
//! two, in their order. What differs of a topic is said, and is a failure where that is asked for.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gateway::{bus::partitioner::partition_for, deletable};
use http::Method;
use tests::{
    SOON,
    cluster::Cluster,
    eventually,
    process::command,
    worker::{Reply, Seen},
};
use tokio::{process::Command, time::Instant};
use uuid::Uuid;

/// In what time a message has to be gone here.
const CONFIG: &str = "[services.notes]\nrequest_topic = \"{tag}.notes.requests\"\n\
                      deletable = true\ngone_within = \"10s\"";
/// However slow the machine is.
const PATIENCE: Duration = Duration::from_secs(90);

/// What `topics` shows, and its exit code.
async fn topics(cluster: &Cluster, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let mut command = command(cluster.node(0).program());
    command.args(["topics", "--config"]).arg(cluster.node(0).config()).args(arguments);
    let output = Command::from(command).output().await?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Answers requests; a record without a value is none.
fn answer(seen: &Seen) -> Vec<Reply> {
    seen.value.iter().map(|_| Reply::of("done")).collect()
}

/// In which segments these bytes are, of all topics whose names have this in them.
fn places(cluster: &Cluster, topic: &str, bytes: &str) -> Result<Vec<String>> {
    let bytes = bytes.as_bytes();
    let has = |content: &[u8]| content.windows(bytes.len()).any(|window| window == bytes);
    let segments = cluster.kafka().segments()?.into_iter();
    let segments = segments.map(|(path, content)| (path.display().to_string(), content));
    let found = segments.filter(|(path, content)| path.contains(topic) && has(content));
    Ok(found.map(|(path, _)| path).collect())
}

struct Written {
    value: String,
    guid: String,
    partition: i32,
    offset: i64,
}

async fn write(cluster: &Cluster, key: &str) -> Result<Written> {
    let value = Uuid::new_v4().to_string();
    let mut ws = cluster.node(0).ws().await?;
    ws.send(format!(
        r#"{{"service":"notes","key":"{key}","payload":"{value}","receipt":true,"timeout_ms":30000}}"#
    ))
    .await?;
    let receipt = ws.frame_of("receipt").await?;
    assert_eq!(receipt.need::<String>("guid")?, receipt.request_id());
    assert_eq!(ws.frame_of("response").await?.payload(), r#""done""#);
    let (partition, offset) = (receipt.need("partition")?, receipt.need("offset")?);
    Ok(Written { value, guid: receipt.request_id(), partition, offset })
}

#[tokio::test]
async fn a_deleted_message_is_gone_from_every_disk() -> Result<()> {
    let settings = ["num.partitions=3"];
    let mut cluster = Cluster::builder().config(CONFIG).own_kafka(&settings).prepare().await?;
    let topic = cluster.topic("notes.requests");
    let (code, shown) = topics(&cluster, &[]).await?;
    ensure!(code == Some(0) && shown.contains(&format!("{topic}: created\n")), "{shown}");
    for set in ["cleanup.policy=compact: ", "segment.ms=1250: ", "delete.retention.ms=2500: "] {
        ensure!(shown.contains(&format!("\n  {set}")), "{shown}");
    }
    cluster.node_mut(0).start()?;
    cluster.node_mut(0).ready().await?;
    let _notes = cluster.worker("notes").start(answer)?;

    let key = "customer-7/ä#1";
    let first = write(&cluster, key).await?;
    let second = write(&cluster, key).await?;
    let third = write(&cluster, key).await?;
    ensure!(first.partition == second.partition && second.partition == third.partition, "apart");
    ensure!(first.offset < second.offset && second.offset < third.offset, "not in order");
    ensure!(!places(&cluster, "", &second.value)?.is_empty(), "it was never there");

    let path = format!("/v1/services/notes/messages/customer-7%2F%C3%A4%231/{}", second.guid);
    let deleted = cluster.node(0).http().send(Method::DELETE, &path, &[], "").await?;
    let began = Instant::now();
    assert_eq!(deleted.status, 202, "{}", deleted.text());
    let at = deleted.json()?;
    assert_eq!((&at["topic"], &at["partition"]), (&topic.clone().into(), &second.partition.into()));
    ensure!(at["offset"].as_i64() > Some(third.offset), "{at}");

    // The reply to it has its id, and is not deleted.
    let of_topic = [("its value", "", &second.value), ("its key", &*topic, &second.guid)];
    for (what, topic, bytes) in of_topic {
        eventually(PATIENCE, &format!("{what} is gone"), async || {
            let places = places(&cluster, topic, bytes)?;
            ensure!(places.is_empty(), "it is in {places:?}");
            Ok(())
        })
        .await?;
        tests::say(&format!("{what} was gone after {:?}\n", began.elapsed()));
    }

    let mut left = Vec::new();
    for written in [&first, &third] {
        let place = places(&cluster, &topic, &written.value)?;
        left.push(place.last().context("it is gone too")?.clone());
    }
    ensure!(left.is_sorted(), "{left:?}");
    let reader = cluster.tap("notes.requests")?;
    let messages = eventually(PATIENCE, "the reader sees what is left", async || {
        let seen = reader.seen();
        let messages = seen.iter().filter_map(|seen| {
            let message = deletable::message(seen.key.as_deref(), seen.value.as_deref())?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Some((text(message.key), message.guid?.to_owned(), text(message.value)))
        });
        let messages: Vec<_> = messages.collect();
        ensure!(messages.iter().any(|(_, guid, _)| *guid == third.guid), "{messages:?}");
        Ok(messages)
    })
    .await?;
    let expected = [&first, &third]
        .map(|written| (key.to_owned(), written.guid.clone(), format!("\"{}\"", written.value)));
    assert_eq!(messages, expected);
    cluster.finish().await
}

#[tokio::test]
async fn a_broker_that_compacts_too_seldom_is_named() -> Result<()> {
    let seldom = ["log.cleaner.backoff.ms=15000"];
    let cluster = Cluster::builder().config(CONFIG).own_kafka(&seldom).prepare().await?;
    for (arguments, expected) in [(&[][..], 0), (&["--check"][..], 1)] {
        let (code, shown) = topics(&cluster, arguments).await?;
        ensure!(code == Some(expected), "{code:?}: {shown}");
        let named = "broker 1: log.cleaner.backoff.ms is 15000, should be 625 at most\n";
        ensure!(shown.ends_with(named), "{shown}");
    }
    cluster.finish().await
}

#[tokio::test]
async fn a_topic_may_be_given_more_partitions() -> Result<()> {
    const AFTER: usize = 7;
    // librdkafka's default are five minutes.
    let soon = "kafka.properties.\"topic.metadata.refresh.interval.ms\" = 300";
    let builder = Cluster::builder().config(CONFIG).config(soon).topic("notes.requests", 2);
    let cluster = builder.start().await?;
    let _notes = cluster.worker("notes").start(answer)?;
    let topic = cluster.topic("notes.requests");
    let place = |key: &str, partitions| partition_for(key.as_bytes(), partitions);
    let mut keys = (0..).map(|number: u32| format!("key-{number}"));
    let key = keys.find(|key| place(key, AFTER as i32) != place(key, 2)).context("none")?;

    let before = write(&cluster, &key).await?;
    assert_eq!(before.partition, place(&key, 2));
    cluster.kafka().grow(&topic, AFTER).await?;
    let after = eventually(SOON, "what is written follows the key", async || {
        let after = write(&cluster, &key).await?;
        ensure!(after.partition == place(&key, AFTER as i32), "it is in {}", after.partition);
        Ok(after)
    })
    .await?;
    for (written, query) in
        [(&after, String::new()), (&before, format!("?partition={}", before.partition))]
    {
        let path = format!("/v1/services/notes/messages/{key}/{}{query}", written.guid);
        let deleted = cluster.node(0).http().send(Method::DELETE, &path, &[], "").await?;
        assert_eq!(deleted.json()?["partition"], written.partition, "{}", deleted.text());
    }
    cluster.finish().await
}

#[tokio::test]
async fn a_topic_that_keeps_what_is_deleted_is_named() -> Result<()> {
    // The harness creates the topic as any other.
    let mut cluster = Cluster::builder().service("notes").config(CONFIG).prepare().await?;
    for (arguments, expected) in [(&[][..], 0), (&["--check"][..], 1)] {
        let (code, shown) = topics(&cluster, arguments).await?;
        ensure!(code == Some(expected), "{code:?}: {shown}");
        let differs = format!("{}: exists and differs\n", cluster.topic("notes.requests"));
        for line in [&*differs, "cleanup.policy is delete, should be compact\n", "segment.ms is "] {
            ensure!(shown.contains(line), "{line} is not in {shown}");
        }
    }
    cluster.node_mut(0).start()?;
    cluster.node_mut(0).ready().await?;
    eventually(SOON, "the node says so", async || {
        let log = std::fs::read_to_string(cluster.node(0).log())?;
        let is_named = |line: &str| {
            line.contains("WARN") && line.contains("cleanup.policy is delete, should be compact")
        };
        ensure!(log.lines().any(is_named), "{log}");
        Ok(())
    })
    .await?;
    cluster.finish().await
}
