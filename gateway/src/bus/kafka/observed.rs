//! What has been seen of a topic: how many partitions it has, and how far behind the reader is.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
};

use serde::Deserialize;

use super::unreadable::Standing;
use crate::bus::Lag;

/// A heartbeat of the next generation's protocol, as brokers have it by default.
const STABLE_MS: i64 = 5000;

/// What was last seen of one topic.
#[derive(Debug)]
pub(super) struct Observed {
    /// -1: nobody has looked yet. 0: there is no such topic.
    partition_count: AtomicI32,
    /// The id of a broker that is there; -1 if none has been seen.
    broker: AtomicI32,
    lag: Mutex<Vec<Lag>>,
}

impl Default for Observed {
    fn default() -> Self {
        let unknown = || AtomicI32::new(-1);
        Self { partition_count: unknown(), broker: unknown(), lag: Mutex::default() }
    }
}

impl Observed {
    /// Whether somebody has looked and there is no such topic.
    pub(super) fn is_missing(&self) -> bool {
        self.partition_count.load(Ordering::Relaxed) == 0
    }

    pub(super) fn partition_count(&self) -> Option<i32> {
        Some(self.partition_count.load(Ordering::Relaxed)).filter(|count| *count > 0)
    }

    /// Returns whether the count is another one than before.
    pub(super) fn set_partition_count(&self, count: i32) -> bool {
        self.partition_count.swap(count, Ordering::Relaxed) != count
    }

    pub(super) fn broker(&self) -> i32 {
        self.broker.load(Ordering::Relaxed)
    }

    pub(super) fn set_broker(&self, broker: i32) {
        self.broker.store(broker, Ordering::Relaxed);
    }

    pub(super) fn lag(&self) -> Vec<Lag> {
        self.lag.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_lag(&self, lag: Vec<Lag>) {
        *self.lag.lock().unwrap_or_else(PoisonError::into_inner) = lag;
    }
}

/// The part of librdkafka's statistics that is of interest here; `STATISTICS.md` describes all.
#[derive(Deserialize)]
pub(super) struct Statistics {
    #[serde(default)]
    topics: BTreeMap<String, TopicStatistics>,
    cgrp: Option<GroupStatistics>,
}

#[derive(Deserialize)]
struct GroupStatistics {
    /// `up`: the group's coordinator is known and connected.
    state: String,
    /// For how long, in milliseconds.
    stateage: i64,
}

#[derive(Deserialize)]
struct TopicStatistics {
    #[serde(default)]
    partitions: BTreeMap<String, PartitionStatistics>,
}

/// Offsets are negative while they are not known.
#[derive(Deserialize)]
struct PartitionStatistics {
    partition: i32,
    /// The last record that was handed over, plus one.
    app_offset: i64,
    committed_offset: i64,
    /// The end of the partition, as of the last fetch.
    hi_offset: i64,
    /// The end of what may be read of it: open transactions are behind it.
    #[serde(default)]
    ls_offset: i64,
    /// How many records have been fetched and not handed over.
    #[serde(default)]
    fetchq_cnt: i64,
}

impl Statistics {
    /// # Errors
    /// This is not the JSON that librdkafka is known to write.
    pub(super) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// Whether the group's coordinator has been there for long enough to have said what is due to
    /// this member.
    pub(super) fn is_stable(&self) -> bool {
        self.cgrp.as_ref().is_some_and(|group| group.state == "up" && group.stateage >= STABLE_MS)
    }

    /// The lag of each of a topic's partitions that `assigned` lets through, as far as it is known.
    pub(super) fn lag(&self, topic: &str, assigned: impl Fn(i32) -> bool) -> Vec<Lag> {
        let partitions = self.topics.get(topic).map(|topic| &topic.partitions);
        let known = partitions.into_iter().flat_map(BTreeMap::values).filter(|p| p.hi_offset >= 0);
        let mut lag: Vec<Lag> =
            known.filter(|p| assigned(p.partition)).map(PartitionStatistics::lag).collect();
        lag.sort_unstable_by_key(|lag| lag.partition);
        lag
    }

    /// Where the reader stands in each of these partitions of a topic.
    pub(super) fn standings(&self, topic: &str, partitions: &[i32]) -> Vec<Standing> {
        let known = self.topics.get(topic).map(|topic| &topic.partitions);
        let known = known.into_iter().flat_map(BTreeMap::values);
        known
            .filter(|seen| partitions.contains(&seen.partition))
            .map(|seen| Standing {
                partition: seen.partition,
                position: seen.position(),
                is_owed: seen.ls_offset > seen.position() && seen.fetchq_cnt == 0,
            })
            .collect()
    }
}

impl PartitionStatistics {
    /// Before the first record the reader stands where the group has got to.
    fn position(&self) -> i64 {
        if self.app_offset >= 0 { self.app_offset } else { self.committed_offset.max(0) }
    }

    fn lag(&self) -> Lag {
        let records = (self.hi_offset - self.position()).max(0);
        Lag { partition: self.partition, records }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shortened from what librdkafka 2.12 writes.
    const STATISTICS: &str = r#"{"name":"rdkafka#consumer-1","topics":{"replies":{"topic":"replies",
        "partitions":{
        "0":{"partition":0,"app_offset":7,"committed_offset":5,"hi_offset":10,"consumer_lag":5},
        "1":{"partition":1,"app_offset":-1001,"committed_offset":-1001,"hi_offset":3},
        "2":{"partition":2,"app_offset":-1001,"committed_offset":2,"hi_offset":3},
        "3":{"partition":3,"app_offset":1,"committed_offset":1,"hi_offset":9},
        "-1":{"partition":-1,"app_offset":-1001,"committed_offset":-1001,"hi_offset":-1001}}}},
        "cgrp":{"state":"up","stateage":5870,"join_state":"steady"}}"#;

    #[test]
    fn lag_is_counted_from_the_position_else_from_the_committed_offset() {
        let statistics = Statistics::parse(STATISTICS.as_bytes()).unwrap();
        assert!(statistics.is_stable());
        let lag = statistics.lag("replies", |partition| partition != 3);
        let lag: Vec<_> = lag.iter().map(|lag| (lag.partition, lag.records)).collect();
        assert_eq!(lag, [(0, 3), (1, 3), (2, 1)]);
        assert_eq!(statistics.lag("other", |_| true), []);
    }

    #[test]
    fn a_topic_without_partitions_is_not_known() {
        let observed = Observed::default();
        assert_eq!(observed.partition_count(), None);
        assert!(!observed.is_missing(), "nobody has looked");
        assert!(observed.set_partition_count(0), "the first look is news");
        assert!(observed.is_missing());
        assert_eq!(observed.partition_count(), None);
        assert!(observed.set_partition_count(3));
        assert!(!observed.set_partition_count(3));
        assert_eq!(observed.partition_count(), Some(3));
    }
}
