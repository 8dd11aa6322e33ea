//! A consumer's second thread: looks up how many partitions the topic has, whether it is still the
//! same, and whether all of it is read, which librdkafka tells only to a caller that blocks.
//!
//! Keeps nobody from closing the consumer: it holds the client for one question at a time, and asks no
//! more once that is to be the end.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use rdkafka::{
    Offset,
    consumer::Consumer as _,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

use super::{
    bell::Bell,
    examination::Examination,
    limits::ANSWER,
    member::{Client, Member},
    reading::Reading,
    topic,
};
use crate::bus::{
    Unreadable,
    kafka::{StartError, bootstrap::Bootstrap},
};

/// The time between two looks: for so long a topic that was created anew may go unnoticed.
const INTERVAL: Duration = Duration::from_secs(5);

/// The same while the topic has not been seen, something about it could not be told, or one of its
/// partitions is not read on.
const INTERVAL_UNKNOWN: Duration = Duration::from_secs(1);

/// The least time between two looks, however often one is wanted.
const REST: Duration = Duration::from_millis(100);

/// Starts the thread. It ends by itself some time after `bell` says so.
pub(super) fn start(
    member: &Arc<Member>,
    bell: &Arc<Bell>,
    bootstrap: Bootstrap,
) -> Result<(), StartError> {
    let watch = Watch {
        reading: Arc::clone(&member.context().reading),
        member: Arc::downgrade(member),
        bell: Arc::clone(bell),
        bootstrap,
    };
    let run = move || {
        if catch_unwind(AssertUnwindSafe(|| watch.run())).is_err() {
            tracing::error!(
                topic = watch.reading.topic,
                "the thread that watches a topic panicked"
            );
        }
    };
    let started = thread::Builder::new().name("kafka-watch".to_owned()).spawn(run);
    started.map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
    Ok(())
}

struct Watch {
    reading: Arc<Reading>,
    member: Weak<Member>,
    bell: Arc<Bell>,
    bootstrap: Bootstrap,
}

impl Watch {
    fn run(&self) {
        loop {
            let before = self.reading.stuck().clone();
            self.ask(|client| {
                let is_answered = observe(client, &self.reading);
                self.bootstrap.heard(client.client(), is_answered);
            });
            let interval = if self.is_well() { INTERVAL } else { INTERVAL_UNKNOWN };
            // Somebody may want one look after the other, for as long as something is wrong.
            let rest = rest(&before, &self.reading.stuck());
            self.bell.rest(rest);
            if !self.bell.heard(interval) {
                return;
            }
        }
    }

    /// Asks the client something; `None` once it is to be closed. If that comes meanwhile, this is the
    /// last to let go of it, and closes it.
    fn ask<T>(&self, question: impl FnOnce(&Client) -> T) -> Option<T> {
        if self.bell.is_over() {
            return None;
        }
        self.member.upgrade().map(|member| question(&member))
    }

    /// Whether there is a topic, the group's offsets are of it, and it is read.
    fn is_well(&self) -> bool {
        let (reading, goes_on) = (&*self.reading, || !self.bell.is_over());
        if reading.observed.partition_count().is_none() {
            return false;
        }
        // Each check is made whatever the other says: what keeps a partition from being read may
        // keep the client from asking, too.
        let checked = self.ask(|client| topic::check(client, goes_on)).unwrap_or(Ok(()));
        if let Err(error) = &checked
            && reading.offsets().is_holding_back()
        {
            let message = "what is handled is not committed before it is known to be of this topic";
            reading.log.warning(&format!("{message}: {error}"));
        }
        let is_suspicious = reading.suspicions().is_any() || !reading.stuck().is_empty();
        let position =
            |partition| self.ask(|client| position(client, reading, partition)).unwrap_or(Ok(None));
        let examination = Examination { reading, position: &position, goes_on: &goes_on };
        let is_read =
            !is_suspicious || (examination.carry_out().is_ok() && reading.stuck().is_empty());
        checked.is_ok() && is_read
    }
}

/// How long complaints are not listened to after a look, by what it has found stuck and the one before
/// it: what is stuck for good is complained about without end, and each look at it makes clients.
fn rest(before: &BTreeMap<i32, Unreadable>, after: &BTreeMap<i32, Unreadable>) -> Duration {
    if !before.is_empty() && before == after { INTERVAL_UNKNOWN } else { REST }
}

/// Looks once. Without an answer, what was last seen stays. Returns whether there was one.
fn observe(client: &Client, reading: &Reading) -> bool {
    let Ok(metadata) = client.fetch_metadata(Some(&reading.topic), ANSWER) else { return false };
    reading.log.connected();
    if let Some(broker) = metadata.brokers().first() {
        reading.observed.set_broker(broker.id());
    }
    let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == reading.topic) else {
        return true;
    };
    let count = match topic.error().map(RDKafkaErrorCode::from) {
        // Partitions that have no leader yet count all the same.
        None => i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition) => 0,
        Some(_) => return true,
    };
    if reading.observed.set_partition_count(count) && count == 0 {
        let topic = &reading.topic;
        reading
            .log
            .warning(&format!("topic {topic} does not exist: `roundtrip topics` creates it"));
    }
    true
}

/// Where the reader is in a partition: at what it has not had, else at what the group has not.
fn position(client: &Client, reading: &Reading, partition: i32) -> KafkaResult<Option<i64>> {
    let positions = client.position()?;
    let position = positions.find_partition(&reading.topic, partition);
    Ok(match position.map(|element| element.offset()) {
        Some(Offset::Offset(offset)) => Some(offset),
        _ => reading.offsets().committed_of(partition),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::UnreadableReason;

    #[test]
    fn what_is_stuck_for_good_is_looked_at_now_and_then() {
        let stuck = |offset| {
            let batch = Unreadable {
                topic: "replies".to_owned(),
                partition: 3,
                offset,
                next: None,
                reason: UnreadableReason::Unsupported,
                cause: "Unsupported MagicByte 9".to_owned(),
            };
            BTreeMap::from([(3, batch)])
        };
        assert_eq!(rest(&BTreeMap::new(), &BTreeMap::new()), REST);
        assert_eq!(rest(&BTreeMap::new(), &stuck(7)), REST);
        assert_eq!(rest(&stuck(7), &stuck(8)), REST, "there may be more behind it");
        assert_eq!(rest(&stuck(7), &stuck(7)), INTERVAL_UNKNOWN);
        assert_eq!(rest(&stuck(7), &BTreeMap::new()), REST);
    }
}
