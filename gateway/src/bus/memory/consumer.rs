//! A member of a group on the bus in memory.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{
    Shared,
    group::{Group, Step},
};
use crate::bus::{BusEvent, Consumer, ConsumerControl, Incoming, Lag, Sink, Trouble};

/// How often what is stored is committed.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// A [`Consumer`] on a [`super::MemoryBus`]. Dropping it without [`Consumer::close`] is a crash:
/// what it stored since the last commit is forgotten.
#[derive(Debug)]
pub struct MemoryConsumer {
    seat: Arc<Seat>,
    committed_at: Instant,
    closed: bool,
}

/// A member's place in a group.
#[derive(Debug)]
struct Seat {
    shared: Arc<Shared>,
    /// The names of group and topic.
    key: (String, String),
    member: u64,
}

impl MemoryConsumer {
    pub(super) fn join(shared: &Arc<Shared>, group: &str, topic: &str) -> Self {
        let key = (group.to_owned(), topic.to_owned());
        let member = shared.broker.change(|state| {
            state.members_ever += 1;
            state.groups.entry(key.clone()).or_default().join(state.members_ever);
            state.members_ever
        });
        let seat = Arc::new(Seat { shared: Arc::clone(shared), key, member });
        Self { seat, committed_at: Instant::now(), closed: false }
    }

    /// Tells the ends of its partitions from now on.
    #[must_use]
    pub fn tell_ends(self) -> Self {
        self.seat.in_group(Group::tell_ends);
        self
    }

    fn commit_if_due(&mut self) {
        if self.committed_at.elapsed() >= COMMIT_INTERVAL {
            self.committed_at = Instant::now();
            self.seat.in_group(|group, member| group.commit(member));
        }
    }
}

impl Seat {
    /// Calls `what` with the group. If the member is closed, the group may no longer have it.
    fn in_group<T: Default>(&self, what: impl FnOnce(&mut Group, u64) -> T) -> T {
        let mut state = self.shared.broker.lock();
        state.groups.get_mut(&self.key).map(|group| what(group, self.member)).unwrap_or_default()
    }

    fn step(&self) -> Option<Step> {
        let state = &mut *self.shared.broker.lock();
        if state.unavailable {
            return None;
        }
        let topic = state.topics.get(&self.key.1)?;
        state.groups.get_mut(&self.key)?.step(self.member, topic)
    }
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn next(&mut self, max: usize, sink: &mut Sink<'_>) {
        let seat = Arc::clone(&self.seat);
        let mut handed = 0;
        while handed < max.max(1) {
            let change = seat.shared.broker.next_change();
            self.commit_if_due();
            let Some(step) = seat.step() else {
                if handed > 0 {
                    return;
                }
                // Whatever is stored while nothing happens is committed in time, too.
                let _either = tokio::time::timeout(COMMIT_INTERVAL, change).await;
                continue;
            };
            // Outside of the lock: the sink may pause and store.
            hand_over(&step, sink);
            if !matches!(step, Step::Record { .. }) {
                // Others may wait for what this one has let go of.
                seat.shared.broker.change(|_| ());
            }
            handed += 1;
        }
        // A busy topic must not keep the other tasks off the thread.
        tokio::task::yield_now().await;
    }

    fn control(&self) -> Arc<dyn ConsumerControl> {
        Arc::clone(&self.seat) as Arc<dyn ConsumerControl>
    }

    async fn close(mut self: Box<Self>, _within: Duration) {
        self.closed = true;
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        self.seat.in_group(|group, member| group.leave(member, self.closed));
        self.seat.shared.broker.change(|_| ());
    }
}

fn hand_over(step: &Step, sink: &mut Sink<'_>) {
    match step {
        Step::Assigned(partitions) => sink(BusEvent::Assigned(partitions)),
        Step::Revoked { partitions, lost } => sink(BusEvent::Revoked { partitions, lost: *lost }),
        Step::Rewound(partitions) => sink(BusEvent::Rewound(partitions)),
        Step::Ended(partition) => sink(BusEvent::Ended(*partition)),
        Step::Record { partition, offset, record } => {
            let headers = record.headers.iter();
            let headers: Vec<_> =
                headers.map(|(name, value)| (name.as_str(), Some(value.as_slice()))).collect();
            sink(BusEvent::Record(Incoming {
                partition: *partition,
                offset: *offset,
                key: record.key.as_deref(),
                value: record.value.as_deref(),
                headers: &headers,
                at_ms: None,
            }));
        }
    }
}

impl ConsumerControl for Seat {
    fn store(&self, partition: i32, offset: i64) {
        self.in_group(|group, member| group.store(member, partition, offset));
    }

    fn pause(&self, partition: i32) {
        self.in_group(|group, member| group.set_paused(member, partition, true));
    }

    fn resume(&self, partition: i32) {
        self.in_group(|group, member| group.set_paused(member, partition, false));
        self.shared.broker.change(|_| ());
    }

    fn rewind(&self, partition: i32) -> bool {
        self.in_group(|group, member| group.rewind_one(member, partition));
        self.shared.broker.change(|_| ());
        true
    }

    fn topic_id(&self) -> Option<String> {
        let state = self.shared.broker.lock();
        state.topics.get(&self.key.1).map(|topic| topic.generation.to_string())
    }

    fn partition_count(&self) -> Option<i32> {
        let state = self.shared.broker.lock();
        state.topics.get(&self.key.1).map(super::log::Topic::partition_count)
    }

    fn lag(&self) -> Vec<Lag> {
        let state = self.shared.broker.lock();
        let group = state.groups.get(&self.key);
        let topic = state.topics.get(&self.key.1);
        group.zip(topic).map(|(group, topic)| group.lag(self.member, topic)).unwrap_or_default()
    }

    fn troubles(&self) -> Vec<Trouble> {
        let state = self.shared.broker.lock();
        let is_missing = !state.unavailable && !state.topics.contains_key(&self.key.1);
        is_missing.then(|| Trouble::MissingTopic(self.key.1.clone())).into_iter().collect()
    }
}
