//! Kafka clients for the yardsticks: no group, no offsets, nothing between.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{Consumer, StreamConsumer},
};

/// Reads all partitions of a topic from where they end now.
///
/// # Errors
/// When the topic does not exist or the broker does not answer.
pub fn assign_all(consumer: &StreamConsumer, topic: &str) -> Result<()> {
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
