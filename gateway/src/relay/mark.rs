//! The mark of a node, which every request id that it chooses carries: whoever reads the reply
//! knows from it where to go first.
//!
//! A hint and never a proof: two nodes may have one mark, and an id that is not ours has any.

use std::ops::Range;

use registry::{NodeRef, RequestId};
use xxhash_rust::xxh3::Xxh3;

/// Where in an id the mark is: random in a UUIDv7, and not what affinity varies.
const IN_ID: Range<usize> = 10..12;
/// The random bytes of a UUIDv7 are its last ten.
const IN_RANDOM: Range<usize> = IN_ID.start - 6..IN_ID.end - 6;

/// Sixteen bits that tell one run of a node from most others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeMark(u16);

impl NodeMark {
    /// The mark of a node's run. Nodes of different versions run side by side, so it is the same in
    /// all of them.
    pub fn of(node: &NodeRef) -> Self {
        let mut hasher = Xxh3::new();
        hasher.update(&node.incarnation.to_le_bytes());
        hasher.update(node.id.as_str().as_bytes());
        Self(hasher.digest() as u16)
    }

    /// The mark that an id carries; `None` where it is no UUIDv7, which no node has chosen.
    pub fn read(request: RequestId) -> Option<Self> {
        let uuid = request.as_uuid();
        let bytes = &uuid.as_bytes()[IN_ID];
        (uuid.get_version_num() == 7).then(|| Self(u16::from_be_bytes([bytes[0], bytes[1]])))
    }

    /// Puts the mark among the random bytes that an id will be made of.
    pub(super) fn write(self, random: &mut [u8; 10]) {
        random[IN_RANDOM].copy_from_slice(&self.0.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use registry::NodeId;
    use uuid::Uuid;

    use super::*;

    fn node(id: &str, incarnation: u64) -> NodeRef {
        NodeRef { id: NodeId::parse(id).unwrap(), incarnation }
    }

    #[test]
    fn a_mark_is_the_same_in_every_version() {
        assert_eq!(NodeMark::of(&node("gw-1", 1_700_000_000_000)), NodeMark(26_421));
    }

    #[test]
    fn another_run_has_another_mark() {
        assert_ne!(NodeMark::of(&node("gw-1", 1)), NodeMark::of(&node("gw-1", 2)));
    }

    #[test]
    fn only_ids_of_version_7_carry_one() {
        let v7 = RequestId::from_header(b"01890a5d-ac96-774b-bcce-b302099a8057").unwrap();
        assert_eq!(NodeMark::read(v7), Some(NodeMark(0xb302)));
        assert_eq!(NodeMark::read(RequestId::from_uuid(Uuid::new_v4())), None);
    }
}
