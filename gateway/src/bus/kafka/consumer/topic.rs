//! Whether what the group has committed is of the topic that is there now.
//!
//! Blocks: the consumer's watch calls it. What it finds the reader is told in its turn, among
//! records and rebalances.

use rdkafka::{consumer::Consumer as _, error::KafkaResult};

use super::{limits::ANSWER, member::Client, reading::Reading};
use crate::bus::kafka::{
    offsets::Put,
    rebalance::{Start, Untold},
    topic_id::{TopicId, topic_id},
};

/// One look: lets go of what was held back, or has partitions begin anew. Between two questions it
/// asks whether it `goes_on`, and otherwise leaves everything as it is.
///
/// # Errors
/// No answer: to be repeated.
pub(super) fn check(client: &Client, goes_on: impl Fn() -> bool) -> KafkaResult<()> {
    let reading: &Reading = &client.context().reading;
    let topic = topic_id(client.client(), reading.observed.broker(), &reading.topic, ANSWER)?;
    let (is_another, partitions) = {
        let offsets = reading.offsets();
        let is_another = topic.zip(offsets.topic()).is_some_and(|(is, was)| is != was);
        (is_another, if is_another { offsets.all() } else { offsets.unchecked() })
    };
    let is_clear = partitions.is_empty() && !is_another;
    if is_clear || reading.rebalances().is_rewinding() || !goes_on() {
        return Ok(());
    }
    let mut starts = Vec::new();
    let committed = client.committed_offsets(reading.list(&partitions), ANSWER)?;
    for element in committed.elements() {
        element.error()?;
        let partition = element.partition();
        let committed = element.offset().to_raw().filter(|offset| *offset >= 0);
        let of = TopicId::of_metadata(element.metadata());
        if is_another || topic.zip(of).is_some_and(|(is, was)| is != was) {
            if !goes_on() {
                return Ok(());
            }
            // Asked for, since librdkafka may remember where the former topic began. A partition
            // that is not there any more is about to be revoked.
            if let Ok((first, _)) = client.fetch_watermarks(&reading.topic, partition, ANSWER) {
                starts.push(Start { partition, offset: first, committed });
            }
        } else {
            let put = reading.offsets().checked(topic, partition, committed);
            self::put(client, partition, put)?;
        }
    }
    if is_another || !starts.is_empty() {
        reading.log.warning(&format!(
            "topic {} has been created anew: {} partitions are read from their beginning",
            reading.topic,
            starts.len(),
        ));
        reading.tell(Untold::Rewound { topic, starts });
    }
    Ok(())
}

/// Hands an offset over to librdkafka.
pub(super) fn put(client: &Client, partition: i32, put: Put) -> KafkaResult<()> {
    let reading: &Reading = &client.context().reading;
    let (offset, is_lower) = match put {
        Put::Nothing => return Ok(()),
        Put::Store(offset) => (offset, false),
        Put::Commit(offset) => (offset, true),
    };
    let topic = reading.offsets().topic();
    let list = reading.offset(partition, offset, topic)?;
    if is_lower {
        client.commit(&list, rdkafka::consumer::CommitMode::Async)?;
    }
    client.store_offsets(&list)
}
