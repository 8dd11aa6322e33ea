//! Kafka clients for the yardsticks: no group, no offsets, nothing between.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{Consumer, StreamConsumer},
    producer::{DefaultProducerContext, ThreadedProducer},
};

/// What writes for a yardstick.
pub type Producer = ThreadedProducer<DefaultProducerContext>;

/// One that reads all partitions of a topic from where they end now, and one that writes with the
/// guarantees that a gateway and its services write with.
///
/// # Errors
/// When the topic does not exist or the broker does not answer.
pub fn clients(
    bootstrap: &str,
    topic: &str,
    partitioner: &str,
) -> Result<(StreamConsumer, Producer)> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    let consumer: StreamConsumer = config
        .clone()
        .set("group.id", "unused")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "500")
        .create()?;
    assign_all(&consumer, topic)?;
    let producer = config
        .set("linger.ms", "0")
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", partitioner)
        .set("queue.buffering.max.messages", "1000000")
        .create()?;
    Ok((consumer, producer))
}

fn assign_all(consumer: &StreamConsumer, topic: &str) -> Result<()> {
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(20))?;
    let topic = metadata.topics().first().context("no answer about the topic")?;
    ensure!(topic.error().is_none(), "topic {}: {:?}", topic.name(), topic.error());
    let mut list = TopicPartitionList::new();
    for partition in topic.partitions() {
        // Asked for now: `Offset::End` would be found out later, and what comes meanwhile missed.
        let (_, end) =
            consumer.fetch_watermarks(topic.name(), partition.id(), Duration::from_secs(20))?;
        list.add_partition_offset(topic.name(), partition.id(), Offset::Offset(end))?;
    }
    Ok(consumer.assign(&list)?)
}
