//! Request ids that bring their replies to this node. An id is chosen so that the Java default
//! partitioner sends a reply keyed with it to a partition that this node reads. It also carries the
//! node tag, so that any other node that reads the reply knows where to forward it.
//!
//! Pure arithmetic over the partitions that are owned; where both means fail, the route in the
//! registry is used.

use std::sync::Arc;

use arc_swap::ArcSwap;
use registry::RequestId;
use uuid::Builder;

use crate::{
    bus::partitioner::{Murmur2, partition_of_hash},
    relay::cluster::NodeTag,
};

/// A UUID has 36 characters; the last eight are hexadecimal digits of one random word.
const ID_LENGTH: usize = 36;
const PREFIX_LENGTH: usize = ID_LENGTH - 8;

/// After so many attempts any id will do. If one partition of a thousand is owned, one choice in a
/// hundred thousand fails.
const ATTEMPTS_MAX: u32 = 12_000;

/// Which partitions of the reply topic this node reads.
#[derive(Debug, Default)]
struct Owned {
    partitions: Vec<i32>,
    /// Whether partition `i` is owned; as long as the topic's number of partitions.
    mask: Vec<bool>,
}

/// A new request id, and the partition on which its reply is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The id.
    pub request: RequestId,
    /// The owned partition that a reply keyed with the id goes to; `None` when no partition is
    /// owned (yet) or none was hit.
    pub partition: Option<i32>,
}

/// Chooses request ids. Readers take no lock; a rebalance replaces the whole list.
#[derive(Debug)]
pub struct Affinity {
    tag: NodeTag,
    owned: ArcSwap<Owned>,
}

impl Affinity {
    /// Ids of the node with this tag, which owns no partition yet.
    pub fn new(tag: NodeTag) -> Self {
        Self { tag, owned: ArcSwap::default() }
    }

    /// Sets which partitions this node reads, and how many there are. Partitions beyond that number
    /// are ignored.
    pub fn own(&self, partitions: &[i32], count: i32) {
        let mut mask = vec![false; usize::try_from(count).unwrap_or(0)];
        let known = |p: &&i32| (0..count).contains(*p);
        let partitions: Vec<i32> = partitions.iter().filter(known).copied().collect();
        for &partition in &partitions {
            mask[partition as usize] = true;
        }
        self.owned.store(Arc::new(Owned { partitions, mask }));
    }

    /// An owned partition, for services that are told to which one to reply; `None` if none is
    /// owned.
    pub fn any_partition(&self, request: RequestId) -> Option<i32> {
        let owned = self.owned.load();
        let at = request.as_uuid().as_u128() % owned.partitions.len().max(1) as u128;
        owned.partitions.get(at as usize).copied()
    }

    /// Chooses an id. `unix_ms` is the time in it, `random` the rest, apart from the node tag: its
    /// last word is varied until the id fits.
    pub fn choose(&self, unix_ms: u64, mut random: [u8; 10]) -> Choice {
        let owned = self.owned.load();
        self.tag.write(&mut random);
        let uuid = Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid();
        if owned.partitions.is_empty() {
            return Choice { request: RequestId::from_uuid(uuid), partition: None };
        }
        let mut text = [0; ID_LENGTH];
        uuid.hyphenated().encode_lower(&mut text);
        let prefix = Murmur2::with_length(ID_LENGTH).mix(&text[..PREFIX_LENGTH]);
        let mut word = uuid.as_u128() as u32;
        for _ in 0..ATTEMPTS_MAX {
            let partition = partition_of_hash(prefix.finish(&hex(word)), owned.mask.len() as i32);
            if owned.mask[partition as usize] {
                let uuid = (uuid.as_u128() & !u128::from(u32::MAX)) | u128::from(word);
                let request = RequestId::from_uuid(uuid::Uuid::from_u128(uuid));
                return Choice { request, partition: Some(partition) };
            }
            // Any odd step visits every word once before one comes again.
            word = word.wrapping_add(0x9e37_79b9);
        }
        Choice { request: RequestId::from_uuid(uuid), partition: None }
    }
}

/// The eight lower-case hexadecimal digits of a word.
fn hex(word: u32) -> [u8; 8] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|at| DIGITS[(word >> (28 - 4 * at)) as usize & 15])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, proptest};

    use registry::{NodeId, NodeRef};

    use super::*;
    use crate::bus::partitioner::partition_for;

    fn tag(incarnation: u64) -> NodeTag {
        NodeTag::of(&NodeRef { id: NodeId::parse("gw-1").unwrap(), incarnation })
    }

    #[test]
    fn without_a_partition_any_marked_id_does() {
        let affinity = Affinity::new(tag(1));
        let choice = affinity.choose(1, [7; 10]);
        assert_eq!(NodeTag::read(choice.request), Some(tag(1)));
        assert_eq!(choice.partition, None);
        assert_eq!(affinity.any_partition(choice.request), None);
    }

    #[test]
    fn one_partition_of_a_thousand_is_hit() {
        let affinity = Affinity::new(tag(1));
        affinity.own(&[617], 1000);
        let choice = affinity.choose(1, [3; 10]);
        assert_eq!(choice.partition, Some(617));
        assert_eq!(partition_for(choice.request.to_string().as_bytes(), 1000), 617);
    }

    #[test]
    fn what_lies_beyond_the_topic_is_not_owned() {
        let affinity = Affinity::new(tag(1));
        affinity.own(&[-1, 12], 12);
        assert_eq!(affinity.choose(1, [0; 10]).partition, None);
        affinity.own(&[3], 0);
        assert_eq!(affinity.choose(1, [0; 10]).partition, None);
    }

    proptest! {
        #[test]
        fn a_chosen_id_goes_to_an_owned_partition(
            (count, owned) in (1..64_i32).prop_flat_map(|count| {
                (Just(count), proptest::collection::hash_set(0..count, 1..=count as usize))
            }),
            unix_ms in 0..1_u64 << 48,
            random in any::<[u8; 10]>(),
            incarnation in any::<u64>(),
        ) {
            let owned: Vec<i32> = owned.into_iter().collect();
            let affinity = Affinity::new(tag(incarnation));
            affinity.own(&owned, count);
            let choice = affinity.choose(unix_ms, random);
            let partition = partition_for(choice.request.to_string().as_bytes(), count);
            prop_assert_eq!(choice.partition, Some(partition));
            prop_assert!(owned.contains(&partition));
            prop_assert_eq!(choice.request.unix_ms(), unix_ms);
            prop_assert_eq!(choice.request.as_uuid().get_version_num(), 7);
            prop_assert_eq!(NodeTag::read(choice.request), Some(tag(incarnation)));
            let kept = &choice.request.as_uuid().as_bytes()[..10];
            let unmarked = Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid();
            prop_assert_eq!(kept, &unmarked.as_bytes()[..10], "what is random stays so");
            prop_assert!(owned.contains(&affinity.any_partition(choice.request).unwrap()));
        }
    }
}
