//! The callbacks of a consumer. They run inside its polls, on the reader's own thread.

use std::sync::Arc;

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

use super::{
    super::{observed::Statistics, unreadable},
    bell::Bell,
    reading::Reading,
};

/// The callbacks of one client.
pub(super) struct Context {
    pub(super) reading: Arc<Reading>,
    /// Whether the group protocol is that of KIP-848.
    next_generation: bool,
    /// Rung when the topic is to be looked at.
    bell: Arc<Bell>,
}

impl Context {
    pub(super) fn new(reading: Arc<Reading>, next_generation: bool, bell: Arc<Bell>) -> Self {
        Self { reading, next_generation, bell }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.reading.log.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::PartitionEOF) {
            // No error: the reader is told in its turn.
            return;
        }
        if code.and_then(|code| unreadable::reason(code, reason)).is_some() {
            // Repeated for as long as nobody looks, and that may be thousands of times a second.
            tracing::debug!(topic = self.reading.topic, %error, reason, "a batch cannot be read");
            self.reading.suspicions().complained(unreadable::offset(reason));
            self.bell.ring();
        } else {
            self.reading.log.error(&error, reason);
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let reading = &self.reading;
        let statistics = match Statistics::parse(statistics) {
            Ok(statistics) => statistics,
            Err(error) => {
                reading.log.warning(&format!("cannot read librdkafka's statistics: {error}"));
                return;
            }
        };
        let mut rebalances = reading.rebalances();
        if self.next_generation
            && reading.observed.partition_count().is_some()
            && statistics.is_stable()
        {
            // With this protocol a member that gets no partition has no callback for it, and its
            // state does not show it.
            rebalances.assigned(Vec::new());
        }
        let lag = statistics.lag(&reading.topic, |partition| rebalances.is_assigned(partition));
        reading.observed.set_lag(lag);
        let standings = statistics.standings(&reading.topic, &rebalances.read());
        if reading.suspicions().observed(standings.into_iter()) {
            self.bell.ring();
        }
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, client: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let reading = &self.reading;
        match rebalance {
            Rebalance::Assign(list) => {
                let partitions = partitions(list);
                reading.offsets().assigned(&partitions);
                reading.rebalances().assigned(partitions);
                self.bell.ring();
            }
            Rebalance::Revoke(list) => {
                // Asked here because unassigning, which comes next, forgets it.
                let lost = client.assignment_lost();
                let partitions = partitions(list);
                reading.offsets().revoked(&partitions);
                reading.stuck().retain(|partition, _| !partitions.contains(partition));
                let paused = reading.rebalances().revoked(partitions, lost);
                if !paused.is_empty()
                    && let Err(error) = client.resume(&reading.list(&paused))
                {
                    reading.log.warning(&format!("cannot resume revoked partitions: {error}"));
                }
            }
            Rebalance::Error(error) => reading.log.warning(&format!("rebalance failed: {error}")),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        for element in offsets.elements_for_topic(&self.reading.topic) {
            if let (Ok(()), Offset::Offset(offset)) = (element.error(), element.offset()) {
                self.reading.offsets().committed(element.partition(), offset);
            }
        }
        // Harmless by itself: the offsets stay stored and go with the next commit.
        if let Err(error) = result
            && error.rdkafka_error_code() != Some(RDKafkaErrorCode::NoOffset)
        {
            self.reading.log.warning(&format!("offsets not committed: {error}"));
        }
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<i32> {
    list.elements()
        .iter()
        .map(rdkafka::topic_partition_list::TopicPartitionListElem::partition)
        .collect()
}
