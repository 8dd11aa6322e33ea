//! The records of a topic in memory.

use std::{collections::VecDeque, sync::Arc};

use crate::bus::{Outgoing, Position, partitioner::partition_without};

/// A partition keeps its latest records up to this number.
const RETENTION_RECORDS_MAX: usize = 100_000;

/// A record, owned.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    pub(super) key: Option<Vec<u8>>,
    /// Of which so many bytes at the end do not count for the partition.
    pub(super) key_suffix_bytes: usize,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    pub(super) fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len());
        self.key.as_ref().map_or(0, Vec::len)
            + self.value.as_ref().map_or(0, Vec::len)
            + headers.sum::<usize>()
    }
}

impl From<&Outgoing<'_>> for Record {
    fn from(record: &Outgoing<'_>) -> Self {
        let headers = record.headers.iter();
        Self {
            key: record.key.map(<[u8]>::to_vec),
            key_suffix_bytes: record.key_suffix_bytes,
            value: record.value.map(<[u8]>::to_vec),
            headers: headers.map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect(),
        }
    }
}

/// Partitions of records.
#[derive(Debug, Default)]
pub(super) struct Topic {
    /// How many topics of this name there were before.
    pub(super) generation: u64,
    partitions: Vec<Partition>,
    /// Which partition is next for a record without a key.
    turn: usize,
}

#[derive(Debug, Default)]
struct Partition {
    /// The offset of the first record that is still there.
    start: i64,
    records: VecDeque<Arc<Record>>,
}

impl Topic {
    /// Adds partitions up to this number of them.
    pub(super) fn grow(&mut self, partitions: i32) {
        let partitions = usize::try_from(partitions).unwrap_or(0).max(self.partitions.len());
        self.partitions.resize_with(partitions, Partition::default);
    }

    /// The topic that comes after this one, under the same name.
    pub(super) fn made_anew(&self, partitions: i32) -> Self {
        let mut next = Self { generation: self.generation + 1, ..Self::default() };
        next.grow(partitions);
        next
    }

    pub(super) fn partition_count(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }

    /// Writes a record to the partition, or to its key's; `None`: there is no such partition.
    pub(super) fn append(&mut self, partition: Option<i32>, record: Record) -> Option<Position> {
        let count = self.partition_count();
        let partition = partition.unwrap_or_else(|| match &record.key {
            Some(key) => partition_without(key, record.key_suffix_bytes, count),
            None => {
                self.turn = (self.turn + 1) % self.partitions.len().max(1);
                i32::try_from(self.turn).unwrap_or(0)
            }
        });
        let log = self.partitions.get_mut(usize::try_from(partition).ok()?)?;
        let offset = log.end();
        log.records.push_back(Arc::new(record));
        if log.records.len() > RETENTION_RECORDS_MAX {
            log.records.pop_front();
            log.start += 1;
        }
        Some(Position { partition, offset })
    }

    /// The first record at or after `offset`, and its own offset.
    pub(super) fn read(&self, partition: i32, offset: i64) -> Option<(i64, Arc<Record>)> {
        let log = self.partition(partition)?;
        let offset = offset.max(log.start);
        let index = usize::try_from(offset - log.start).ok()?;
        log.records.get(index).map(|record| (offset, Arc::clone(record)))
    }

    /// The offset of the partition's next record.
    pub(super) fn end(&self, partition: i32) -> i64 {
        self.partition(partition).map_or(0, Partition::end)
    }

    fn partition(&self, partition: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(partition).ok()?)
    }
}

impl Partition {
    fn end(&self) -> i64 {
        self.start + i64::try_from(self.records.len()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_records_go_and_a_late_reader_begins_after_them() {
        let mut topic = Topic::default();
        topic.grow(1);
        let more = 3;
        for _ in 0..RETENTION_RECORDS_MAX + more {
            assert!(topic.append(Some(0), Record::default()).is_some());
        }
        assert_eq!(topic.read(0, 0).map(|(offset, _)| offset), Some(3));
        assert_eq!(topic.read(0, 7).map(|(offset, _)| offset), Some(7));
        assert!(topic.read(0, topic.end(0)).is_none());
        assert!(topic.read(1, 0).is_none());
        assert!(topic.append(Some(1), Record::default()).is_none());
    }
}
