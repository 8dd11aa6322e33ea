//! Writes to the topics of which messages can be deleted, so that their segments roll: Kafka compacts
//! none that is still written to, and begins another one only when something is written. Without this
//! what was deleted last in a partition would stay for as long as nobody writes there.
//!
//! Each node does it, none asks another: a partition gets a record of 37 bytes more than it needs,
//! which the next compaction takes away. When that is due follows from the topic's times alone, so no
//! node has to remember what was deleted, and by whom.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    bus::{Outgoing, Position, ProduceError, Producer},
    deletable::{NOBODY, SUFFIX_BYTES},
    relay::gate::Gate,
};

/// How soon a topic whose partitions are not known is looked at again, at most.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// The topics of a node, and what it takes to write to them.
#[derive(Debug)]
pub struct Rolling {
    topics: Vec<Topic>,
    producer: Arc<dyn Producer>,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct Topic {
    name: Arc<str>,
    pace: Duration,
    due: Instant,
}

impl Rolling {
    /// Writes to these topics, each at its pace.
    pub fn new(
        topics: impl IntoIterator<Item = (Arc<str>, Duration)>,
        producer: &Arc<dyn Producer>,
        gate: &Arc<Gate>,
    ) -> Self {
        let due = Instant::now();
        let topics = topics.into_iter().map(|(name, pace)| Topic { name, pace, due }).collect();
        Self { topics, producer: Arc::clone(producer), gate: Arc::clone(gate) }
    }

    /// Does so for as long as the node lives and does not drain.
    pub async fn run(mut self) {
        loop {
            let Some(next) = self.topics.iter().map(|topic| topic.due).min() else {
                return std::future::pending().await;
            };
            tokio::time::sleep_until(next).await;
            let now = Instant::now();
            for topic in self.topics.iter_mut().filter(|topic| topic.due <= now) {
                let wait = match self.gate.is_draining() || roll(&*self.producer, &topic.name) {
                    true => topic.pace,
                    false => topic.pace.min(RETRY_MAX),
                };
                topic.due = now + wait;
            }
        }
    }
}

/// Writes to each partition; whether they are known.
fn roll(producer: &dyn Producer, topic: &Arc<str>) -> bool {
    let Some(count) = producer.partition_count(topic) else { return false };
    for partition in 0..count {
        let record = Outgoing {
            topic,
            partition: Some(partition),
            key: Some(NOBODY),
            key_suffix_bytes: SUFFIX_BYTES,
            value: None,
            headers: &[],
        };
        let name = Arc::clone(topic);
        let tell = move |error: ProduceError| {
            tracing::warn!(topic = &*name, partition, %error, "the segment may not roll in time");
        };
        let told = tell.clone();
        let on_delivery = Box::new(move |outcome: Result<Position, ProduceError>| {
            outcome.map_or_else(told, drop);
        });
        if let Err(error) = producer.produce(&record, on_delivery) {
            tell(error);
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{
        BusEvent, Consumer,
        memory::{MemoryBus, MemoryConsumer},
    };

    /// The partitions of what comes within this time.
    async fn within(consumer: &mut MemoryConsumer, time: Duration) -> Vec<i32> {
        let (end, mut seen) = (Instant::now() + time, Vec::new());
        let mut sink = |event: BusEvent<'_>| {
            if let BusEvent::Record(record) = event {
                assert_eq!((record.key, record.value), (Some(NOBODY), None));
                seen.push(record.partition);
            }
        };
        while tokio::time::timeout_at(end, consumer.next(100, &mut sink)).await.is_ok() {}
        seen.sort_unstable();
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn each_partition_is_written_to_in_time_also_those_that_come_later() {
        const PACE: Duration = Duration::from_secs(100);
        let bus = MemoryBus::new(&[]);
        let gate = Arc::<Gate>::default();
        let producer: Arc<dyn Producer> = Arc::new(bus.producer());
        let rolling = Rolling::new([("t".into(), PACE)], &producer, &gate);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(rolling.run());

        // The topic is created later, and then given more partitions.
        tokio::time::sleep(RETRY_MAX * 2).await;
        bus.create_topic("t", 2);
        let mut consumer = bus.consumer("g", "t");
        assert_eq!(within(&mut consumer, RETRY_MAX * 2).await, [0, 1]);
        bus.create_topic("t", 3);
        assert_eq!(within(&mut consumer, PACE).await, [0, 1, 2]);
        assert_eq!(within(&mut consumer, PACE).await, [0, 1, 2]);
        gate.drain();
        assert_eq!(within(&mut consumer, PACE * 2).await, [0; 0]);
    }
}
