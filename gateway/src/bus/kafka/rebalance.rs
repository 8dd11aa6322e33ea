//! What a group's rebalances mean for the reader of one topic, and what else it has to be told in
//! order with its records. Plain state: no client, no I/O.

use std::collections::{BTreeSet, VecDeque};

use super::topic_id::TopicId;
use crate::bus::Unreadable;

/// An event that the reader has not been told yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Untold {
    Assigned(Vec<i32>),
    Revoked {
        partitions: Vec<i32>,
        lost: bool,
    },
    /// The topic is another one under the same name.
    Rewound {
        topic: Option<TopicId>,
        starts: Vec<Start>,
    },
    /// A batch cannot be read.
    Unreadable(Unreadable),
}

/// The offset at which a partition begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) partition: i32,
    /// Its first record's, or that of the next one.
    pub(super) offset: i64,
    /// What the group has committed for the former topic.
    pub(super) committed: Option<i64>,
}

/// Which partitions are assigned and paused, and what the reader has yet to hear of it.
#[derive(Debug, Default)]
pub(super) struct Rebalances {
    assigned: BTreeSet<i32>,
    paused: BTreeSet<i32>,
    /// Emptied before any record that was read after the callback.
    untold: VecDeque<Untold>,
    /// An assignment, be it empty, has been told: the group is joined.
    joined: bool,
}

impl Rebalances {
    pub(super) fn assigned(&mut self, partitions: Vec<i32>) {
        // The cooperative protocol sends many assignments of nothing: only the first one, which
        // says that the group has been joined, is news.
        if partitions.is_empty() && self.joined {
            return;
        }
        self.joined = true;
        self.assigned.extend(&partitions);
        self.untold.push_back(Untold::Assigned(partitions));
    }

    /// Returns those of the partitions that are paused: librdkafka would keep them so until they
    /// come back.
    pub(super) fn revoked(&mut self, partitions: Vec<i32>, lost: bool) -> Vec<i32> {
        if partitions.is_empty() {
            return Vec::new();
        }
        let paused = partitions.iter().copied().filter(|p| self.paused.remove(p)).collect();
        self.assigned.retain(|partition| !partitions.contains(partition));
        self.untold.push_back(Untold::Revoked { partitions, lost });
        paused
    }

    /// Notes a pause; `false`: the partition is not assigned.
    pub(super) fn paused(&mut self, partition: i32) -> bool {
        self.is_assigned(partition) && {
            self.paused.insert(partition);
            true
        }
    }

    /// Notes the end of a pause; `false`: the partition was not paused.
    pub(super) fn resumed(&mut self, partition: i32) -> bool {
        self.paused.remove(&partition)
    }

    /// The partitions that are read now.
    pub(super) fn read(&self) -> Vec<i32> {
        self.assigned.difference(&self.paused).copied().collect()
    }

    pub(super) fn is_assigned(&self, partition: i32) -> bool {
        self.assigned.contains(&partition)
    }

    /// Leaves something for the reader, after what it has yet to hear.
    pub(super) fn tell(&mut self, untold: Untold) {
        self.untold.push_back(untold);
    }

    /// Whether the reader has yet to hear that the topic is another one.
    pub(super) fn is_rewinding(&self) -> bool {
        self.untold.iter().any(|untold| matches!(untold, Untold::Rewound { .. }))
    }

    pub(super) fn next_untold(&mut self) -> Option<Untold> {
        self.untold.pop_front()
    }

    pub(super) fn has_untold(&self) -> bool {
        !self.untold.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(rebalances: &mut Rebalances) -> Vec<Untold> {
        std::iter::from_fn(|| rebalances.next_untold()).collect()
    }

    #[test]
    fn only_the_first_empty_assignment_is_news() {
        let mut rebalances = Rebalances::default();
        rebalances.assigned(vec![]);
        rebalances.assigned(vec![]);
        assert_eq!(told(&mut rebalances), [Untold::Assigned(vec![])]);
        rebalances.assigned(vec![1]);
        rebalances.assigned(vec![]);
        rebalances.revoked(vec![], false);
        assert_eq!(told(&mut rebalances), [Untold::Assigned(vec![1])]);
    }

    #[test]
    fn a_paused_partition_comes_back_unpaused() {
        let mut rebalances = Rebalances::default();
        assert!(!rebalances.paused(1), "not assigned yet");
        rebalances.assigned(vec![1, 2]);
        assert!(rebalances.paused(1));
        assert_eq!(rebalances.revoked(vec![1, 2], true), [1]);
        assert!(!rebalances.is_assigned(1));
        assert!(!rebalances.resumed(1));
    }
}
