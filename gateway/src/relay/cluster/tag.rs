//! The node tag, which every id that a node chooses carries: whoever reads a reply knows from the
//! request's id which node to try first, and whoever does not know a session which node to ask.
//!
//! It is a hint and never a proof: two nodes may have the same tag, and an id that no node has
//! chosen has a random one.

use std::ops::Range;

use registry::{NodeRef, RequestId, SessionId};
use xxhash_rust::xxh3::Xxh3;

/// Where the tag is in a request's id: those bits are random in a UUIDv7, and affinity does not use
/// them.
const IN_ID: Range<usize> = 10..12;
/// Where the tag is in a session's id. It is not at the end, because sessions take turns by their
/// last bytes.
const IN_SESSION: Range<usize> = 0..2;
/// The random bytes of a UUIDv7 are its last ten.
const IN_RANDOM: Range<usize> = IN_ID.start - 6..IN_ID.end - 6;

/// Sixteen bits that tell one run of a node from most others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeTag(u16);

impl NodeTag {
    /// The tag of a node's run. Nodes of different versions run side by side, so all versions must
    /// compute it in the same way.
    pub fn of(node: &NodeRef) -> Self {
        let mut hasher = Xxh3::new();
        hasher.update(&node.incarnation.to_le_bytes());
        hasher.update(node.id.as_str().as_bytes());
        Self(hasher.digest() as u16)
    }

    /// The tag that a request's id carries; `None` if it is no UUIDv7, since no node has chosen it
    /// then.
    pub fn read(request: RequestId) -> Option<Self> {
        let uuid = request.as_uuid();
        let bytes = &uuid.as_bytes()[IN_ID];
        (uuid.get_version_num() == 7).then(|| Self(u16::from_be_bytes([bytes[0], bytes[1]])))
    }

    /// The tag that a session's id carries: that of the node on which the session began.
    pub(in crate::relay) fn read_session(session: SessionId) -> Self {
        let bytes = session.as_uuid().as_bytes();
        Self(u16::from_be_bytes([bytes[IN_SESSION.start], bytes[IN_SESSION.start + 1]]))
    }

    /// This session id with this tag in it.
    pub(in crate::relay) fn write_session(self, session: SessionId) -> SessionId {
        let mut bytes = *session.as_uuid().as_bytes();
        bytes[IN_SESSION].copy_from_slice(&self.0.to_be_bytes());
        SessionId::from_bytes(bytes)
    }

    /// Writes the tag into the random bytes of which an id will be made.
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
    fn a_tag_is_the_same_in_every_version() {
        assert_eq!(NodeTag::of(&node("gw-1", 1_700_000_000_000)), NodeTag(26_421));
    }

    #[test]
    fn another_run_has_another_tag() {
        assert_ne!(NodeTag::of(&node("gw-1", 1)), NodeTag::of(&node("gw-1", 2)));
    }

    #[test]
    fn a_sessions_id_stays_a_uuid_of_version_4() {
        let (tag, session) = (NodeTag(0xb302), SessionId::random());
        let tagged = tag.write_session(session);
        assert_eq!(NodeTag::read_session(tagged), tag);
        assert_eq!(tagged.as_uuid().get_version_num(), 4);
        assert_eq!(tagged.as_uuid().as_bytes()[2..], session.as_uuid().as_bytes()[2..]);
    }

    #[test]
    fn only_ids_of_version_7_carry_one() {
        let v7 = RequestId::from_header(b"01890a5d-ac96-774b-bcce-b302099a8057").unwrap();
        assert_eq!(NodeTag::read(v7), Some(NodeTag(0xb302)));
        assert_eq!(NodeTag::read(RequestId::from_uuid(Uuid::new_v4())), None);
    }
}
