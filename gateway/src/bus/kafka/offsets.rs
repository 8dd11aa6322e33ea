//! What may be stored for a partition, and how. Plain state: no client, no I/O.
//!
//! An offset means something in one topic only. So each is committed with its topic's id, and none is
//! stored for a partition before it is known that what the group had committed there is of this very
//! topic: a store would lay our id over another topic's offset.

use std::collections::BTreeMap;

use super::{rebalance::Start, topic_id::TopicId};

/// The offsets of the assigned partitions.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    /// The topic that the reader reads, as far as it has been told.
    topic: Option<TopicId>,
    partitions: BTreeMap<i32, Known>,
}

/// What is known of a partition's committed offset.
#[derive(Clone, Copy, Debug)]
enum Known {
    /// Nothing yet; what has been handled meanwhile is held back.
    Unchecked { handled: Option<i64> },
    /// It is of this topic; `None` if nothing is committed.
    Checked { committed: Option<i64> },
}

/// What has to be done with an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// Nothing, for now.
    Nothing,
    /// Leave it to librdkafka, which commits what is stored where it is over what is committed.
    Store(i64),
    /// It is under what is committed, which librdkafka would leave as it is.
    Commit(i64),
}

impl Offsets {
    pub(super) fn topic(&self) -> Option<TopicId> {
        self.topic
    }

    pub(super) fn assigned(&mut self, partitions: &[i32]) {
        let unchecked = |&partition| (partition, Known::Unchecked { handled: None });
        self.partitions.extend(partitions.iter().map(unchecked));
    }

    pub(super) fn revoked(&mut self, partitions: &[i32]) {
        self.partitions.retain(|partition, _| !partitions.contains(partition));
    }

    /// Partitions whose committed offsets are to be looked at.
    pub(super) fn unchecked(&self) -> Vec<i32> {
        let unchecked = |known: &Known| matches!(known, Known::Unchecked { .. });
        let partitions = self.partitions.iter().filter(|(_, known)| unchecked(known));
        partitions.map(|(&partition, _)| partition).collect()
    }

    /// Whether something has been handled that is not stored yet.
    pub(super) fn is_holding_back(&self) -> bool {
        self.partitions.values().any(|known| matches!(known, Known::Unchecked { handled: Some(_) }))
    }

    pub(super) fn all(&self) -> Vec<i32> {
        self.partitions.keys().copied().collect()
    }

    /// Everything below `offset` has been handled.
    pub(super) fn handled(&mut self, partition: i32, offset: i64) -> Put {
        match self.partitions.get_mut(&partition) {
            None => Put::Nothing,
            Some(Known::Unchecked { handled }) => {
                *handled = Some(offset);
                Put::Nothing
            }
            Some(Known::Checked { committed }) => put(*committed, offset),
        }
    }

    /// What is committed for a partition is of this topic. Returns what is to be done with the offset
    /// that was held back.
    pub(super) fn checked(
        &mut self,
        topic: Option<TopicId>,
        partition: i32,
        committed: Option<i64>,
    ) -> Put {
        // A topic that replaced another is told to the reader first: see `rewound`.
        self.topic = self.topic.or(topic);
        let Some(known) = self.partitions.get_mut(&partition) else { return Put::Nothing };
        let before = std::mem::replace(known, Known::Checked { committed });
        match before {
            Known::Unchecked { handled: Some(offset) } => put(committed, offset),
            _ => Put::Nothing,
        }
    }

    /// What the group has committed for a partition, as far as it is known.
    pub(super) fn committed_of(&self, partition: i32) -> Option<i64> {
        match self.partitions.get(&partition)? {
            Known::Checked { committed } => *committed,
            Known::Unchecked { .. } => None,
        }
    }

    /// The reader is being told that these partitions begin anew: what was committed for them is of
    /// another topic.
    pub(super) fn rewound(&mut self, topic: Option<TopicId>, starts: &[Start]) {
        self.topic = topic;
        for Start { partition, committed, .. } in starts {
            if let Some(known) = self.partitions.get_mut(partition) {
                *known = Known::Checked { committed: *committed };
            }
        }
    }

    /// An offset was committed.
    pub(super) fn committed(&mut self, partition: i32, offset: i64) {
        if let Some(Known::Checked { committed }) = self.partitions.get_mut(&partition) {
            *committed = Some(offset);
        }
    }
}

fn put(committed: Option<i64>, offset: i64) -> Put {
    if committed.is_some_and(|committed| offset < committed) {
        Put::Commit(offset)
    } else {
        Put::Store(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> Option<TopicId> {
        TopicId::of_metadata(&format!("topic-id={name:A<22}"))
    }

    #[test]
    fn nothing_is_stored_before_the_committed_offset_is_known() {
        let mut offsets = Offsets::default();
        assert_eq!(offsets.handled(0, 7), Put::Nothing, "not assigned");
        offsets.assigned(&[0, 1]);
        assert_eq!(offsets.handled(0, 7), Put::Nothing);
        assert_eq!(offsets.handled(0, 8), Put::Nothing);
        assert_eq!(offsets.unchecked(), [0, 1]);
        assert_eq!(offsets.checked(topic("one"), 0, Some(5)), Put::Store(8));
        assert_eq!(offsets.checked(topic("one"), 1, None), Put::Nothing);
        assert_eq!(offsets.handled(1, 1), Put::Store(1));
        assert_eq!(offsets.unchecked(), [0_i32; 0]);
        offsets.revoked(&[0]);
        assert_eq!(offsets.handled(0, 9), Put::Nothing);
    }

    #[test]
    fn an_offset_below_the_committed_one_is_committed() {
        let mut offsets = Offsets::default();
        offsets.assigned(&[0]);
        assert_eq!(offsets.checked(None, 0, Some(100)), Put::Nothing);
        assert_eq!(offsets.handled(0, 3), Put::Commit(3));
        assert_eq!(offsets.handled(0, 4), Put::Commit(4), "until it is committed");
        offsets.committed(0, 4);
        assert_eq!(offsets.handled(0, 5), Put::Store(5));
    }

    #[test]
    fn the_former_topics_offset_is_replaced_by_a_lower_one() {
        let mut offsets = Offsets::default();
        offsets.assigned(&[0]);
        assert_eq!(offsets.checked(topic("one"), 0, Some(100)), Put::Nothing);
        assert_eq!(offsets.checked(topic("two"), 0, Some(100)), Put::Nothing);
        assert_eq!(offsets.topic(), topic("one"), "the reader has not been told");
        let start = Start { partition: 0, offset: 0, committed: Some(100) };
        offsets.rewound(topic("two"), &[start]);
        assert_eq!(offsets.topic(), topic("two"));
        assert_eq!(offsets.handled(0, 1), Put::Commit(1));
    }
}
