//! Which partition a key belongs to, as Kafka's Java clients decide it.
//!
//! Pure arithmetic, so that the affinity of requests can be worked out without a Kafka client.
//! Source: `murmur2` and `toPositive` of `org.apache.kafka.common.utils.Utils`, and
//! `BuiltInPartitioner.partitionForKey` of the Java producer.

const SEED: u32 = 0x9747_b28c;
const M: u32 = 0x5bd1_e995;
const R: u32 = 24;

/// Kafka's 32-bit murmur2 of `key`. Java sees the same bits as a signed integer.
pub const fn murmur2(key: &[u8]) -> u32 {
    Murmur2::with_length(key.len()).finish(key)
}

/// The partition of `key` among `partitions`, as the Java default partitioner chooses it for keyed
/// records; librdkafka calls it `murmur2_random`. Without any partition, 0.
pub const fn partition_for(key: &[u8], partitions: i32) -> i32 {
    partition_of_hash(murmur2(key), partitions)
}

/// The same without so many bytes at the end of the key, which do not count.
pub fn partition_without(key: &[u8], suffix_bytes: usize, partitions: i32) -> i32 {
    partition_for(&key[..key.len().saturating_sub(suffix_bytes)], partitions)
}

/// The partition that a murmur2 `hash` stands for among `partitions`. Without any partition, 0.
pub const fn partition_of_hash(hash: u32, partitions: i32) -> i32 {
    // Both operands are non-negative after the mask, so this is also Java's signed remainder.
    if partitions <= 0 { 0 } else { (hash & 0x7fff_ffff) as i32 % partitions }
}

/// A murmur2 that has taken in the beginning of a key of known length.
///
/// Keys that differ in their last bytes only are hashed by mixing their common beginning once and
/// finishing a copy of the state for each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Murmur2 {
    state: u32,
}

impl Murmur2 {
    /// The state before the first byte of a key of `length` bytes in all: murmur2 mixes the length
    /// in at the start.
    pub const fn with_length(length: usize) -> Self {
        Self { state: SEED ^ length as u32 }
    }

    /// Takes in the next bytes of the key.
    ///
    /// # Panics
    /// Unless `prefix` is a multiple of four bytes: murmur2 works on words, only the last one of a
    /// key may be incomplete.
    #[must_use]
    pub const fn mix(mut self, prefix: &[u8]) -> Self {
        assert!(prefix.len().is_multiple_of(4), "murmur2 mixes whole words of four bytes");
        let (words, _) = prefix.as_chunks::<4>();
        let mut index = 0;
        while index < words.len() {
            let word = u32::from_le_bytes(words[index]).wrapping_mul(M);
            let word = (word ^ (word >> R)).wrapping_mul(M);
            self.state = self.state.wrapping_mul(M) ^ word;
            index += 1;
        }
        self
    }

    /// The hash, once the rest of the key, of any length, is taken in.
    pub const fn finish(self, rest: &[u8]) -> u32 {
        let (words, tail) = rest.split_at(rest.len() - rest.len() % 4);
        let mut state = self.mix(words).state;
        state = match *tail {
            [a] => (state ^ a as u32).wrapping_mul(M),
            [a, b] => (state ^ u32::from_le_bytes([a, b, 0, 0])).wrapping_mul(M),
            [a, b, c] => (state ^ u32::from_le_bytes([a, b, c, 0])).wrapping_mul(M),
            _ => state,
        };
        state = (state ^ (state >> 13)).wrapping_mul(M);
        state ^ (state >> 15)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::any, proptest};

    use super::*;

    /// From `UtilsTest.testMurmur2` of Apache Kafka.
    const PUBLISHED: [(&[u8], i32); 6] = [
        (b"21", -973_932_308),
        (b"foobar", -790_332_482),
        (b"a-little-bit-long-string", -985_981_536),
        (b"a-little-bit-longer-string", -1_486_304_829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        (b"abc", 479_470_107),
    ];

    #[test]
    fn agrees_with_the_vectors_that_kafka_publishes() {
        for (key, hash) in PUBLISHED {
            assert_eq!(murmur2(key).cast_signed(), hash, "{}", key.escape_ascii());
        }
    }

    #[test]
    fn partitions_are_positive_and_in_range() {
        assert_eq!(partition_for(b"21", 12), (-973_932_308 & i32::MAX) % 12);
        assert_eq!(partition_for(b"21", 1), 0);
        assert_eq!(partition_for(b"21", 0), 0, "a topic whose partitions are not known yet");
        assert_eq!(partition_for(b"21", -1), 0);
    }

    #[test]
    #[should_panic(expected = "whole words")]
    fn a_broken_word_is_refused() {
        let _hash = Murmur2::with_length(5).mix(b"abcde");
    }

    proptest! {
        #[test]
        fn mixing_a_key_in_pieces_changes_nothing(key in vec(any::<u8>(), 0..64), at in 0..16_usize) {
            let (prefix, rest) = key.split_at((4 * at).min(key.len() - key.len() % 4));
            let whole = Murmur2::with_length(key.len());
            assert_eq!(whole.mix(prefix).finish(rest), murmur2(&key));
        }
    }
}
