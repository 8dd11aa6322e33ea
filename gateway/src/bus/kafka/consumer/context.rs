//! The callbacks of a consumer. They run inside its polls, on the reader's own thread.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use futures_util::task::AtomicWaker;
use rdkafka::{
    ClientConfig, ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult},
};

use super::{
    super::{
        log::ClientLog,
        observed::{Observed, Statistics},
        offsets::Offsets,
        rebalance::{Rebalances, Untold},
        topic_id::TopicId,
        unreadable::{self, Suspicions},
    },
    watch::Watch,
};
use crate::{bus::Unreadable, tasks::locked};

/// What is known of a consumer, and what its reader has yet to be told.
pub(super) struct Context {
    pub(super) topic: String,
    pub(super) observed: Observed,
    pub(super) log: ClientLog,
    /// Of the group protocol: KIP-848.
    next_generation: bool,
    rebalances: Mutex<Rebalances>,
    offsets: Mutex<Offsets>,
    suspicions: Mutex<Suspicions>,
    /// What keeps which partition from being read on.
    stuck: Mutex<BTreeMap<i32, Unreadable>>,
    /// For clients that look at one place of the topic.
    pub(super) probe: ClientConfig,
    /// The reader, while it waits.
    pub(super) reader: AtomicWaker,
    watch: Arc<Watch>,
}

impl Context {
    pub(super) fn new(
        topic: &str,
        next_generation: bool,
        probe: ClientConfig,
        watch: Arc<Watch>,
    ) -> Self {
        Self {
            topic: topic.to_owned(),
            observed: Observed::default(),
            log: ClientLog::new(format!("consumer of {topic}")),
            next_generation,
            rebalances: Mutex::default(),
            offsets: Mutex::default(),
            suspicions: Mutex::default(),
            stuck: Mutex::default(),
            probe,
            reader: AtomicWaker::new(),
            watch,
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

    /// Leaves something for the reader and wakes it.
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

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if code.and_then(|code| unreadable::reason(code, reason)).is_some() {
            // Repeated for as long as nobody looks, and that may be thousands of times a second.
            tracing::debug!(topic = self.topic, %error, reason, "a batch cannot be read");
            self.suspicions().complained(unreadable::offset(reason));
            self.watch.look();
        } else {
            self.log.error(&error, reason);
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let statistics = match Statistics::parse(statistics) {
            Ok(statistics) => statistics,
            Err(error) => {
                self.log.warning(&format!("cannot read librdkafka's statistics: {error}"));
                return;
            }
        };
        let mut rebalances = self.rebalances();
        if self.next_generation
            && self.observed.partition_count().is_some()
            && statistics.is_settled()
        {
            // A member that gets nothing has no callback there, and no state that tells.
            rebalances.assigned(Vec::new());
        }
        let lag = statistics.lag(&self.topic, |partition| rebalances.is_assigned(partition));
        self.observed.set_lag(lag);
        let standings = statistics.standings(&self.topic, &rebalances.read());
        if self.suspicions().observed(standings.into_iter()) {
            self.watch.look();
        }
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, client: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                let partitions = partitions(list);
                self.offsets().assigned(&partitions);
                self.rebalances().assigned(partitions);
                self.watch.look();
            }
            Rebalance::Revoke(list) => {
                // Asked here because unassigning, which comes next, forgets it.
                let lost = client.assignment_lost();
                let partitions = partitions(list);
                self.offsets().revoked(&partitions);
                self.stuck().retain(|partition, _| !partitions.contains(partition));
                let paused = self.rebalances().revoked(partitions, lost);
                if !paused.is_empty()
                    && let Err(error) = client.resume(&self.list(&paused))
                {
                    self.log.warning(&format!("cannot resume revoked partitions: {error}"));
                }
            }
            Rebalance::Error(error) => self.log.warning(&format!("rebalance failed: {error}")),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        for element in offsets.elements_for_topic(&self.topic) {
            if let (Ok(()), Offset::Offset(offset)) = (element.error(), element.offset()) {
                self.offsets().committed(element.partition(), offset);
            }
        }
        // Harmless by itself: the offsets stay stored and go with the next commit.
        if let Err(error) = result
            && error.rdkafka_error_code() != Some(rdkafka::error::RDKafkaErrorCode::NoOffset)
        {
            self.log.warning(&format!("offsets not committed: {error}"));
        }
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<i32> {
    list.elements()
        .iter()
        .map(rdkafka::topic_partition_list::TopicPartitionListElem::partition)
        .collect()
}
