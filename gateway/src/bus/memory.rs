//! The message bus inside one process: for tests of a whole cluster, under tokio's clock.
//!
//! Behaves as Kafka does where the relay can tell: records are written in order by somebody else
//! than the caller, partitions move only after their reader has let go of them, and what was stored
//! is committed once a second. Keeps nothing on disk and runs no thread.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, futures::Notified},
    task::JoinSet,
    time::timeout,
};

use self::{group::Group, log::Topic};
use super::{
    OnDelivery, Outgoing, Position, ProduceError, Producer, RecordSize, outstanding::Outstanding,
};

pub use self::consumer::MemoryConsumer;

mod consumer;
mod group;
mod log;

/// How many records a producer queues, unless told otherwise.
const QUEUE_RECORDS_MAX: usize = 100_000;

/// The largest record, as librdkafka's default `message.max.bytes`.
const RECORD_BYTES_MAX: usize = 1_000_000;

/// A bus that all clones, producers and consumers share.
#[derive(Clone, Debug)]
pub struct MemoryBus {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    broker: Arc<Broker>,
    /// The task that writes what is queued; ends with the last user of the bus.
    _writer: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Broker {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    unavailable: bool,
    topics: BTreeMap<String, Topic>,
    /// By the names of group and topic.
    groups: BTreeMap<(String, String), Group>,
    queue: VecDeque<Queued>,
    /// What the members of groups are told apart by.
    members_ever: u64,
}

/// A record on its way into the log.
struct Queued {
    topic: String,
    partition: Option<i32>,
    record: log::Record,
    on_delivery: OnDelivery,
    outstanding: Arc<Outstanding>,
}

impl MemoryBus {
    /// A bus with these topics and their numbers of partitions.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(topics: &[(&str, i32)]) -> Self {
        let broker = Arc::new(Broker::default());
        let mut writer = JoinSet::new();
        writer.spawn(write_queued(Arc::clone(&broker)));
        let bus = Self { shared: Arc::new(Shared { broker, _writer: writer }) };
        for (topic, partitions) in topics {
            bus.create_topic(topic, *partitions);
        }
        bus
    }

    /// Creates a topic, or gives an existing one more partitions.
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        self.broker().change(|state| {
            state.topics.entry(topic.to_owned()).or_default().grow(partitions);
        });
    }

    /// Deletes a topic and creates it again, under the same name and with nothing in it. What its
    /// groups have committed stays, as where a member commits late.
    pub fn make_anew(&self, topic: &str, partitions: i32) {
        self.broker().change(|state| {
            let former = state.topics.entry(topic.to_owned()).or_default();
            *former = former.made_anew(partitions);
        });
    }

    /// Takes the bus away from everybody, or brings it back. Meanwhile records are queued and
    /// nothing is read.
    pub fn set_available(&self, available: bool) {
        self.broker().change(|state| state.unavailable = !available);
    }

    /// Gives up what is queued, as a Kafka producer does when its message time-out has passed.
    pub fn time_out_queued(&self) {
        let mut given_up = VecDeque::new();
        self.broker().change(|state| std::mem::swap(&mut given_up, &mut state.queue));
        for queued in given_up {
            queued.tell(Err(ProduceError::Unconfirmed("timed out".to_owned())));
        }
    }

    /// Takes the partitions of a topic away from all members of a group, as Kafka does with members
    /// that it has not heard of for too long: they find out later.
    pub fn lose_assignments(&self, group: &str, topic: &str) {
        self.broker().change(|state| {
            if let Some(group) = state.groups.get_mut(&(group.to_owned(), topic.to_owned())) {
                group.lose_all();
            }
        });
    }

    /// A producer.
    pub fn producer(&self) -> MemoryProducer {
        self.producer_with_queue(QUEUE_RECORDS_MAX)
    }

    /// A producer that queues up to `records_max` records.
    pub fn producer_with_queue(&self, records_max: usize) -> MemoryProducer {
        let outstanding = Arc::new(Outstanding::default());
        MemoryProducer { shared: Arc::clone(&self.shared), outstanding, records_max }
    }

    /// A new member of the group.
    pub fn consumer(&self, group: &str, topic: &str) -> MemoryConsumer {
        MemoryConsumer::join(&self.shared, group, topic)
    }

    fn broker(&self) -> &Broker {
        &self.shared.broker
    }
}

impl Broker {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something and wakes whoever waits for a change.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_waiters();
        result
    }

    /// The next change after this call, even if it comes before the first poll.
    fn next_change(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

/// Moves records from the queue into the log, until it is aborted.
async fn write_queued(broker: Arc<Broker>) {
    loop {
        let change = broker.next_change();
        let written = broker.lock().write_next();
        let Some((queued, result)) = written else {
            change.await;
            continue;
        };
        // Outside of the lock: the callback may produce.
        queued.tell(result);
        broker.changed.notify_waiters();
        // Readers and the writer take turns.
        tokio::task::yield_now().await;
    }
}

impl State {
    fn write_next(&mut self) -> Option<(Queued, Result<Position, ProduceError>)> {
        if self.unavailable {
            return None;
        }
        let mut queued = self.queue.pop_front()?;
        let record = std::mem::take(&mut queued.record);
        let written = self
            .topics
            .get_mut(&queued.topic)
            .and_then(|topic| topic.append(queued.partition, record))
            .ok_or(ProduceError::UnknownTopic);
        Some((queued, written))
    }
}

impl Queued {
    fn tell(self, result: Result<Position, ProduceError>) {
        self.on_delivery.done(result);
        self.outstanding.remove();
    }
}

impl std::fmt::Debug for Queued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { topic, partition, record, .. } = self;
        f.debug_tuple("Queued").field(topic).field(partition).field(record).finish()
    }
}

/// A [`Producer`] on a [`MemoryBus`].
#[derive(Debug)]
pub struct MemoryProducer {
    shared: Arc<Shared>,
    outstanding: Arc<Outstanding>,
    records_max: usize,
}

#[async_trait]
impl Producer for MemoryProducer {
    fn produce(&self, record: &Outgoing<'_>, on_delivery: OnDelivery) -> Result<(), ProduceError> {
        let Outgoing { topic, partition, .. } = *record;
        let bytes = record.content_bytes();
        let record = log::Record::from(record);
        if record.bytes() > RECORD_BYTES_MAX {
            let bytes_max = Some(RECORD_BYTES_MAX);
            return Err(ProduceError::TooLarge(RecordSize { bytes, bytes_max }));
        }
        self.shared.broker.change(|state| {
            if self.outstanding.count() >= self.records_max {
                return Err(ProduceError::QueueFull);
            }
            self.outstanding.add();
            let outstanding = Arc::clone(&self.outstanding);
            let topic = topic.to_owned();
            state.queue.push_back(Queued { topic, partition, record, on_delivery, outstanding });
            Ok(())
        })
    }

    fn is_available(&self) -> bool {
        !self.shared.broker.lock().unavailable
    }

    fn partition_count(&self, topic: &str) -> Option<i32> {
        self.shared.broker.lock().topics.get(topic).map(Topic::partition_count)
    }

    fn outstanding(&self) -> usize {
        self.outstanding.count()
    }

    async fn flush(&self, within: Duration) {
        if timeout(within, self.outstanding.none()).await.is_err() {
            let records = self.outstanding.count();
            tracing::warn!(records, "gave up waiting for records to be acknowledged");
        }
    }
}

#[cfg(test)]
mod tests;
