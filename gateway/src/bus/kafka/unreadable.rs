//! Which batches of a topic cannot be read, according to librdkafka's messages. Pure: no client, no
//! I/O.
//!
//! librdkafka tells of a batch that it cannot hand over with a code and a sentence, which has the
//! batch's offset but not its partition; then it fetches the same again, for ever.

use std::collections::BTreeMap;

use rdkafka::error::RDKafkaErrorCode;

use crate::bus::UnreadableReason;

/// How many offsets are remembered until somebody looks.
const OFFSETS_MAX: usize = 64;

/// Why a batch cannot be read; `None`: the error is of something else.
pub(super) fn reason(code: RDKafkaErrorCode, text: &str) -> Option<UnreadableReason> {
    // Of a response that was not even taken in: the connection is closed, and made again.
    if text.contains("receive.message.max.bytes") {
        return Some(UnreadableReason::TooLarge);
    }
    match code {
        RDKafkaErrorCode::BadMessage
        | RDKafkaErrorCode::InvalidMessage
        | RDKafkaErrorCode::InvalidRecord => Some(UnreadableReason::Corrupt),
        RDKafkaErrorCode::BadCompression => Some(UnreadableReason::Undecodable),
        RDKafkaErrorCode::NotImplemented | RDKafkaErrorCode::UnsupportedCompressionType => {
            Some(UnreadableReason::Unsupported)
        }
        RDKafkaErrorCode::MessageSizeTooLarge => Some(UnreadableReason::TooLarge),
        _ => None,
    }
}

/// Where the batch begins, as librdkafka's sentence has it: "… at offset 7 …", "… message at 7 …".
pub(super) fn offset(text: &str) -> Option<i64> {
    text.split(" at ").skip(1).find_map(|rest| {
        let rest = rest.strip_prefix("offset ").unwrap_or(rest);
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    })
}

/// The first offset after a batch that begins at or before `start`, where `end` is the partition's.
/// Asks whether an offset is still in it, as seldom as it can; `None` once that cannot be told.
pub(super) fn after(
    start: i64,
    end: i64,
    mut is_in: impl FnMut(i64) -> Option<bool>,
) -> Option<i64> {
    let (mut inside, mut step) = (start, 1);
    let mut outside = loop {
        let at = start.saturating_add(step);
        if at >= end {
            break end;
        }
        if !is_in(at)? {
            break at;
        }
        inside = at;
        step *= 2;
    };
    while outside - inside > 1 {
        let middle = inside + (outside - inside) / 2;
        if is_in(middle)? { inside = middle } else { outside = middle }
    }
    Some(outside)
}

/// The signs that partitions are not read on, kept until somebody has looked.
#[derive(Debug, Default)]
pub(super) struct Suspicions {
    /// Offsets of batches that librdkafka complained about, in some partition.
    offsets: Vec<i64>,
    /// Whether anything was complained about, even without an offset.
    complained: bool,
    /// Partitions that stand still though there is more to read, with their positions.
    standing: BTreeMap<i32, i64>,
    /// Positions as of the last statistics.
    positions: BTreeMap<i32, i64>,
}

/// The position in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) partition: i32,
    /// The next record's offset, as far as the reader has had them.
    pub(super) position: i64,
    /// There is more, and none of it has been fetched.
    pub(super) is_owed: bool,
}

impl Suspicions {
    /// librdkafka complained about a batch.
    pub(super) fn complained(&mut self, offset: Option<i64>) {
        self.complained = true;
        if let Some(offset) = offset
            && !self.offsets.contains(&offset)
            && self.offsets.len() < OFFSETS_MAX
        {
            self.offsets.push(offset);
        }
    }

    /// New statistics. Returns whether there is something to look at.
    pub(super) fn observed(&mut self, standings: impl Iterator<Item = Standing>) -> bool {
        let before = std::mem::take(&mut self.positions);
        self.standing.clear();
        for Standing { partition, position, is_owed } in standings {
            if !is_owed {
                continue;
            }
            self.positions.insert(partition, position);
            if before.get(&partition) == Some(&position) {
                self.standing.insert(partition, position);
            }
        }
        !self.standing.is_empty()
    }

    /// Whether there is something to look at.
    pub(super) fn is_any(&self) -> bool {
        self.complained || !self.standing.is_empty()
    }

    /// Whether the partition stands still.
    pub(super) fn stands(&self, partition: i32) -> bool {
        self.standing.contains_key(&partition)
    }

    /// The offsets that were complained about; the complaints are being looked into.
    pub(super) fn take_offsets(&mut self) -> Vec<i64> {
        self.complained = false;
        std::mem::take(&mut self.offsets)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn offsets_are_found_in_librdkafkas_sentences() {
        for (text, expected) in [
            (
                "MessageSet at offset 17 (70 bytes) failed CRC32C check (original 0x1 != …)",
                Some(17),
            ),
            (
                "Decompression (codec 0x4) of message at 250 of 61 bytes failed: Local: Bad",
                Some(250),
            ),
            ("Unsupported Message(Set) MagicByte 3 at offset 5", Some(5)),
            ("Fetch from broker 1 failed at offset 9 (leader epoch 0): Broker: Too large", Some(9)),
            ("127.0.0.1:9092/1: Receive failed: Invalid response size 9 (0..8)", None),
            ("nothing at all", None),
        ] {
            assert_eq!(offset(text), expected, "{text}");
        }
    }

    #[test]
    fn a_partition_that_is_owed_records_and_stays_is_looked_at() {
        let mut suspicions = Suspicions::default();
        let standing = |position, is_owed| Standing { partition: 3, position, is_owed };
        assert!(!suspicions.observed([standing(7, true)].into_iter()));
        assert!(!suspicions.observed([standing(8, true)].into_iter()), "it went on");
        assert!(suspicions.observed([standing(8, true)].into_iter()));
        assert!(suspicions.stands(3));
        assert!(!suspicions.observed([standing(8, false)].into_iter()), "nothing is owed");
        assert!(!suspicions.is_any());
        suspicions.complained(Some(8));
        assert!(suspicions.is_any());
        assert_eq!(suspicions.take_offsets(), [8]);
        assert!(!suspicions.is_any());
    }

    #[test]
    fn what_cannot_be_told_is_not_stepped_over() {
        assert_eq!(after(5, 100, |_| None), None);
        assert_eq!(after(5, 6, |_| None), Some(6), "the last record needs no question");
    }

    proptest! {
        #[test]
        fn the_end_of_a_batch_is_found(start in 0..1000_i64, length in 1..5000_i64, more in 0..5000_i64) {
            let (next, end) = (start + length, start + length + more);
            let mut asked = 0;
            let found = after(start, end, |at| {
                asked += 1;
                Some(at < next)
            });
            prop_assert_eq!(found, Some(next));
            prop_assert!(asked <= 28, "asked {} times", asked);
        }
    }
}
