//! A consumer that remembers all that it has met.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{Bed, DEADLINE};
use crate::bus::{BusEvent, Consumer, Incoming, Position, Unreadable};

/// An event, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::bus) enum Seen {
    Assigned(Vec<i32>),
    Revoked(Vec<i32>),
    Rewound(Vec<i32>),
    Unreadable(Unreadable),
    Record(Record),
}

impl Seen {
    pub(super) fn offset(&self) -> Option<i64> {
        match self {
            Self::Record(record) => Some(record.position.offset),
            _ => None,
        }
    }
}

/// A record, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::bus) struct Record {
    pub(in crate::bus) position: Position,
    pub(in crate::bus) key: Option<Vec<u8>>,
    pub(in crate::bus) value: Option<Vec<u8>>,
    pub(in crate::bus) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl From<Incoming<'_>> for Record {
    fn from(record: Incoming<'_>) -> Self {
        let headers = record.headers.iter();
        Self {
            position: Position { partition: record.partition, offset: record.offset },
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: headers.map(|(k, v)| ((*k).to_owned(), v.map(<[u8]>::to_vec))).collect(),
        }
    }
}

/// A consumer and all that it has met.
pub(in crate::bus) struct Reader {
    pub(in crate::bus) consumer: Box<dyn Consumer>,
    pub(in crate::bus) seen: Vec<Seen>,
    /// What is assigned now, as told.
    pub(in crate::bus) assigned: BTreeSet<i32>,
    pub(in crate::bus) deadline: Instant,
}

impl Reader {
    pub(in crate::bus) fn new(consumer: Box<dyn Consumer>) -> Self {
        let deadline = Instant::now() + DEADLINE;
        Self { consumer, seen: Vec::new(), assigned: BTreeSet::new(), deadline }
    }

    /// One batch, if there is one in time; keeps the order of events.
    pub(in crate::bus) async fn read(&mut self, within: Duration) {
        let (seen, assigned) = (&mut self.seen, &mut self.assigned);
        let mut sink = |event: BusEvent<'_>| match event {
            BusEvent::Ended(_) => {}
            BusEvent::Assigned(partitions) => {
                assigned.extend(partitions);
                seen.push(Seen::Assigned(partitions.to_vec()));
            }
            BusEvent::Revoked { partitions, .. } => {
                assigned.retain(|partition| !partitions.contains(partition));
                seen.push(Seen::Revoked(partitions.to_vec()));
            }
            BusEvent::Rewound(partitions) => seen.push(Seen::Rewound(partitions.to_vec())),
            BusEvent::Unreadable(batch) => seen.push(Seen::Unreadable(batch.clone())),
            BusEvent::Record(record) => {
                assert!(assigned.contains(&record.partition), "a record before its assignment");
                seen.push(Seen::Record(record.into()));
            }
        };
        let _none_in_time =
            timeout_at(Instant::now() + within, self.consumer.next(64, &mut sink)).await;
    }

    /// Reads until `enough`.
    pub(in crate::bus) async fn read_until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            assert!(Instant::now() < self.deadline, "in vain waited for {what}: {:?}", self.seen);
            self.read(Duration::from_millis(200)).await;
        }
    }

    pub(in crate::bus) fn records(&self) -> impl Iterator<Item = &Record> {
        self.seen.iter().filter_map(|seen| match seen {
            Seen::Record(record) => Some(record),
            _ => None,
        })
    }

    pub(in crate::bus) fn of_partition(&self, partition: i32) -> Vec<&Record> {
        self.records().filter(|record| record.position.partition == partition).collect()
    }

    /// `None` once partitions were taken from it. They come back as if they had never been its own: from
    /// what was stored, and not paused.
    pub(super) fn undisturbed(&self) -> Option<()> {
        let is_taken = |seen: &Seen| matches!(seen, Seen::Revoked(_));
        (!self.seen.iter().any(is_taken)).then_some(())
    }

    pub(super) async fn close(self) {
        self.consumer.close(DEADLINE).await;
    }
}

/// A member that has all partitions of a topic.
pub(super) async fn joined(bed: &dyn Bed, group: &str, topic: &str, partitions: i32) -> Reader {
    let mut reader = Reader::new(bed.consumer(group, topic));
    let all = usize::try_from(partitions).expect("positive");
    reader.read_until("the assignment", |reader| reader.assigned.len() == all).await;
    reader
}
