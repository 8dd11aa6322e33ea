//! What operators see of replies that are read and not handled yet.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::labels::PartitionLabels;

/// Seconds for which the oldest record of one partition has waited.
pub type UnhandledGauge = Gauge<f64, AtomicU64>;

/// The metrics of all windows of a node.
#[derive(Debug, Default)]
pub struct Unhandled {
    oldest: Family<PartitionLabels, UnhandledGauge>,
    bytes: Gauge,
    handled_again: Counter,
}

impl Unhandled {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "oldest_unhandled",
            "How long the oldest reply of a partition waits that this node has read and not handled, \
             so that the partition's offset waits too; 0 when none does",
            Unit::Seconds,
            self.oldest.clone(),
        );
        registry.register_with_unit(
            "unhandled",
            "Replies that this node has read and not handled",
            Unit::Bytes,
            self.bytes.clone(),
        );
        registry.register(
            "replies_handled_again",
            "Replies that a failure within this node has dropped, and that were handled again",
            self.handled_again.clone(),
        );
    }

    /// The gauge of a partition that is read from now on, at zero.
    pub fn oldest(&self, topic: &str, partition: i32) -> UnhandledGauge {
        let labels = PartitionLabels { topic: topic.to_owned(), partition };
        let gauge = self.oldest.get_or_create_owned(&labels);
        gauge.set(0.0);
        gauge
    }

    /// A partition is not read here any more.
    pub fn forget(&self, topic: &str, partition: i32) {
        self.oldest.remove(&PartitionLabels { topic: topic.to_owned(), partition });
    }

    /// So many bytes waited in all partitions of a topic, and so many do now.
    pub fn bytes_changed(&self, before: usize, now: usize) {
        let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.bytes.inc_by(signed(now) - signed(before));
    }

    /// So many replies were dropped, and are handled again.
    pub fn handled_again(&self, count: usize) {
        self.handled_again.inc_by(count as u64);
    }
}
