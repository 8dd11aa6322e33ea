//! What a consumer knows of the topic that it reads, and what its reader has not been told yet.
//! State only: the callbacks, the control and the watch share it, and it knows none of them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use futures_util::task::AtomicWaker;
use rdkafka::{ClientConfig, Offset, TopicPartitionList, error::KafkaResult};

use super::super::{
    log::ClientLog,
    observed::Observed,
    offsets::Offsets,
    rebalance::{Rebalances, Untold},
    topic_id::TopicId,
    unreadable::Suspicions,
};
use crate::{bus::Unreadable, tasks::locked};

/// The state of one member's reading of a topic.
pub(super) struct Reading {
    pub(super) topic: String,
    pub(super) observed: Observed,
    pub(super) log: ClientLog,
    /// The configuration of clients that look at one offset of the topic.
    pub(super) probe: ClientConfig,
    /// Wakes the reader.
    pub(super) reader: AtomicWaker,
    rebalances: Mutex<Rebalances>,
    offsets: Mutex<Offsets>,
    suspicions: Mutex<Suspicions>,
    /// The batches that keep partitions from being read on.
    stuck: Mutex<BTreeMap<i32, Unreadable>>,
}

impl Reading {
    pub(super) fn new(topic: &str, probe: ClientConfig) -> Self {
        Self {
            topic: topic.to_owned(),
            observed: Observed::default(),
            log: ClientLog::new(format!("consumer of {topic}")),
            probe,
            reader: AtomicWaker::new(),
            rebalances: Mutex::default(),
            offsets: Mutex::default(),
            suspicions: Mutex::default(),
            stuck: Mutex::default(),
        }
    }

    pub(super) fn rebalances(&self) -> MutexGuard<'_, Rebalances> {
        locked(&self.rebalances)
    }

    pub(super) fn offsets(&self) -> MutexGuard<'_, Offsets> {
        locked(&self.offsets)
    }

    pub(super) fn suspicions(&self) -> MutexGuard<'_, Suspicions> {
        locked(&self.suspicions)
    }

    pub(super) fn stuck(&self) -> MutexGuard<'_, BTreeMap<i32, Unreadable>> {
        locked(&self.stuck)
    }

    /// Leaves an event for the reader and wakes it.
    pub(super) fn tell(&self, untold: Untold) {
        self.rebalances().tell(untold);
        self.reader.wake();
    }

    pub(super) fn next_untold(&self) -> Option<Untold> {
        self.rebalances().next_untold()
    }

    pub(super) fn has_untold(&self) -> bool {
        self.rebalances().has_untold()
    }

    /// These partitions of the topic, for librdkafka.
    pub(super) fn list(&self, partitions: &[i32]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        list
    }

    /// An offset of the topic, for librdkafka; it says of which topic it is.
    pub(super) fn offset(
        &self,
        partition: i32,
        offset: i64,
        topic: Option<TopicId>,
    ) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::with_capacity(1);
        let mut element = list.add_partition(&self.topic, partition);
        element.set_offset(Offset::Offset(offset))?;
        if let Some(topic) = topic {
            element.set_metadata(topic.metadata());
        }
        Ok(list)
    }
}
