//! The callbacks of a consumer. They run inside its polls, on the reader's own thread.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::{
    ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult},
};

use super::{
    super::{
        log::ClientLog,
        observed::{Observed, Statistics},
        rebalance::{Rebalanced, Rebalances},
    },
    watch::Watch,
};

/// What is known of a consumer, and what its reader has yet to be told.
pub(super) struct Context {
    pub(super) topic: String,
    pub(super) observed: Observed,
    pub(super) log: ClientLog,
    /// Of the group protocol: KIP-848.
    next_generation: bool,
    rebalances: Mutex<Rebalances>,
    watch: Arc<Watch>,
}

impl Context {
    pub(super) fn new(topic: &str, next_generation: bool, watch: Arc<Watch>) -> Self {
        Self {
            topic: topic.to_owned(),
            observed: Observed::default(),
            log: ClientLog::new(format!("consumer of {topic}")),
            next_generation,
            rebalances: Mutex::default(),
            watch,
        }
    }

    pub(super) fn rebalances(&self) -> MutexGuard<'_, Rebalances> {
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn next_untold(&self) -> Option<Rebalanced> {
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
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(&error, reason);
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
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, client: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                self.rebalances().assigned(partitions(list));
                self.watch.look();
            }
            Rebalance::Revoke(list) => {
                // Asked here because unassigning, which comes next, forgets it.
                let lost = client.assignment_lost();
                let paused = self.rebalances().revoked(partitions(list), lost);
                if !paused.is_empty()
                    && let Err(error) = client.resume(&self.list(&paused))
                {
                    self.log.warning(&format!("cannot resume revoked partitions: {error}"));
                }
            }
            Rebalance::Error(error) => self.log.warning(&format!("rebalance failed: {error}")),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
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
