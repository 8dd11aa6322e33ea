//! The mark of a node, which every id that it chooses carries: whoever reads a reply knows from its
//! request's where to go first, and whoever does not know a session whom to ask.
//!
//! A hint and never a proof: two nodes may have one mark, and an id that is not ours has any.

use std::ops::Range;

use registry::{NodeRef, RequestId, SessionId};
use xxhash_rust::xxh3::Xxh3;

/// Where in an id the mark is: random in a UUIDv7, and not what affinity varies.
const IN_ID: Range<usize> = 10..12;
/// The same in a session's id, which has none at its end: sessions take turns by that.
const IN_SESSION: Range<usize> = 0..2;
/// The random bytes of a UUIDv7 are its last ten.
const IN_RANDOM: Range<usize> = IN_ID.start - 6..IN_ID.end - 6;

/// Sixteen bits that tell one run of a node from most others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeTag(u16);

impl NodeTag {
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

    /// The mark that a session's id carries, of the node on which it began.
    pub(in crate::relay) fn read_session(session: SessionId) -> Self {
        let bytes = session.as_uuid().as_bytes();
        Self(u16::from_be_bytes([bytes[IN_SESSION.start], bytes[IN_SESSION.start + 1]]))
    }

    /// The session with this mark, and all else of its id.
    pub(in crate::relay) fn write_session(self, session: SessionId) -> SessionId {
        let mut bytes = *session.as_uuid().as_bytes();
        bytes[IN_SESSION].copy_from_slice(&self.0.to_be_bytes());
        SessionId::from_bytes(bytes)
    }

    /// Puts the mark among the random bytes that an id will be made of.
    pub(in crate::relay) fn write(self, random: &mut [u8; 10]) {
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
        assert_eq!(NodeTag::of(&node("gw-1", 1_700_000_000_000)), NodeTag(26_421));
    }

    #[test]
    fn another_run_has_another_mark() {
        assert_ne!(NodeTag::of(&node("gw-1", 1)), NodeTag::of(&node("gw-1", 2)));
    }

    #[test]
    fn a_sessions_id_stays_a_uuid_of_version_4() {
        let (mark, session) = (NodeTag(0xb302), SessionId::random());
        let marked = mark.write_session(session);
        assert_eq!(NodeTag::read_session(marked), mark);
        assert_eq!(marked.as_uuid().get_version_num(), 4);
        assert_eq!(marked.as_uuid().as_bytes()[2..], session.as_uuid().as_bytes()[2..]);
    }

    #[test]
    fn only_ids_of_version_7_carry_one() {
        let v7 = RequestId::from_header(b"01890a5d-ac96-774b-bcce-b302099a8057").unwrap();
        assert_eq!(NodeTag::read(v7), Some(NodeTag(0xb302)));
        assert_eq!(NodeTag::read(RequestId::from_uuid(Uuid::new_v4())), None);
    }
}
