//! Whether what the group has committed is of the topic that is there now.
//!
//! Blocks: the consumer's watch calls it. What it finds the reader is told in its turn, among records
//! and rebalances.

use rdkafka::{consumer::Consumer as _, error::KafkaResult};

use super::{Client, context::Context, watch::PATIENCE};
use crate::bus::kafka::{
    offsets::Put,
    rebalance::{Start, Untold},
    topic_id::{TopicId, topic_id},
};

/// One look: lets go of what was held back, or has partitions begin anew.
///
/// # Errors
/// No answer: to be repeated.
pub(super) fn check(client: &Client) -> KafkaResult<()> {
    let context: &Context = client.context();
    let topic = topic_id(client.client(), context.observed.broker(), &context.topic, PATIENCE)?;
    let (is_another, partitions) = {
        let offsets = context.offsets();
        let is_another = topic.zip(offsets.topic()).is_some_and(|(is, was)| is != was);
        (is_another, if is_another { offsets.all() } else { offsets.unchecked() })
    };
    if context.rebalances().is_rewinding() || (partitions.is_empty() && !is_another) {
        return Ok(());
    }
    let mut starts = Vec::new();
    let committed = client.committed_offsets(context.list(&partitions), PATIENCE)?;
    for element in committed.elements() {
        element.error()?;
        let partition = element.partition();
        let committed = element.offset().to_raw().filter(|offset| *offset >= 0);
        let of = TopicId::of_metadata(element.metadata());
        if is_another || topic.zip(of).is_some_and(|(is, was)| is != was) {
            // Asked for, since librdkafka may remember where the former topic began. A partition that
            // is not there any more is about to be revoked.
            if let Ok((first, _)) = client.fetch_watermarks(&context.topic, partition, PATIENCE) {
                starts.push(Start { partition, offset: first, committed });
            }
        } else {
            let put = context.offsets().checked(topic, partition, committed);
            context.put(client, partition, put)?;
        }
    }
    if is_another || !starts.is_empty() {
        context.log.warning(&format!(
            "topic {} has been created anew: {} partitions are read from their beginning",
            context.topic,
            starts.len(),
        ));
        context.tell(Untold::Rewound { topic, starts });
    }
    Ok(())
}

impl Context {
    /// Hands an offset over to librdkafka.
    pub(super) fn put(&self, client: &Client, partition: i32, put: Put) -> KafkaResult<()> {
        let (offset, is_lower) = match put {
            Put::Nothing => return Ok(()),
            Put::Store(offset) => (offset, false),
            Put::Commit(offset) => (offset, true),
        };
        let topic = self.offsets().topic();
        let list = self.offset(partition, offset, topic)?;
        if is_lower {
            client.commit(&list, rdkafka::consumer::CommitMode::Async)?;
        }
        client.store_offsets(&list)
    }
}
