//! The identities of the cluster, parsed once where they come in and typed ever after.
//!
//! Owns their text forms and limits. Never knows where an identity is stored.

use std::{fmt, sync::Arc};

use uuid::Uuid;

/// Why a text is not an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// A request or session id is a UUID in its 36-character form.
    #[error("not a UUID of 36 characters")]
    NotAUuid,
    /// A node id is 1 to 64 characters out of `A-Z a-z 0-9 . _ -`.
    #[error("a node id is 1 to 64 characters out of A-Z a-z 0-9 . _ -")]
    NodeId,
}

/// One request, for as long as anybody waits for it: a UUIDv7 (RFC 9562), so it carries the time
/// at which it was chosen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(Uuid);

impl RequestId {
    /// Wraps a UUID that is known to be a request's.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// Reads the two forms a service may echo: 36 ASCII characters, or the 16 raw bytes that
    /// Spring's own clients send (big-endian).
    ///
    /// # Errors
    /// [`InvalidId::NotAUuid`] for anything else.
    pub fn from_header(bytes: &[u8]) -> Result<Self, InvalidId> {
        match bytes.len() {
            16 => Uuid::from_slice(bytes).map(Self).map_err(|_| InvalidId::NotAUuid),
            36 => Uuid::try_parse_ascii(bytes).map(Self).map_err(|_| InvalidId::NotAUuid),
            _ => Err(InvalidId::NotAUuid),
        }
    }

    /// The id as a UUID.
    pub const fn as_uuid(&self) -> &Uuid {
        &self.0
    }

    /// Milliseconds since the Unix epoch at which the id was chosen, by its node's clock. 0 when
    /// the id is no UUIDv7 (a service made it up).
    pub fn unix_ms(&self) -> u64 {
        if self.0.get_version_num() != 7 {
            return 0;
        }
        let b = self.0.as_bytes();
        u64::from_be_bytes([0, 0, b[0], b[1], b[2], b[3], b[4], b[5]])
    }

    /// The 36 ASCII characters of the id, in a buffer of the caller's.
    pub fn encode<'b>(&self, buffer: &'b mut [u8; 36]) -> &'b str {
        self.0.hyphenated().encode_lower(buffer)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// One client across its connections: a UUIDv4, random but for what its first node puts into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(Uuid);

impl SessionId {
    /// A session nobody else has.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The session with these 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// Reads the 36-character form.
    ///
    /// # Errors
    /// [`InvalidId::NotAUuid`] for anything else.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        match text.len() {
            36 => Uuid::try_parse(text).map(Self).map_err(|_| InvalidId::NotAUuid),
            _ => Err(InvalidId::NotAUuid),
        }
    }

    /// The id as a UUID.
    pub const fn as_uuid(&self) -> &Uuid {
        &self.0
    }

    /// The 36 ASCII characters of the id, in a buffer of the caller's.
    pub fn encode<'b>(&self, buffer: &'b mut [u8; 36]) -> &'b str {
        self.0.hyphenated().encode_lower(buffer)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// The configured name of a node, unique in its cluster. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Reads a node's name.
    ///
    /// # Errors
    /// [`InvalidId::NodeId`] when it is empty, over 64 characters or has others than
    /// `A-Z a-z 0-9 . _ -`.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidId::NodeId)
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One run of a node: a node that was restarted under the same name counts as another one, which
/// knows nothing of what the former run held.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeRef {
    /// The node's name.
    pub id: NodeId,
    /// Larger at each start of the node: milliseconds since the Unix epoch at which it started.
    pub incarnation: u64,
}

impl fmt::Display for NodeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.incarnation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms_of_a_request_id() {
        let uuid = Uuid::now_v7();
        let text = RequestId::from_header(uuid.to_string().as_bytes()).unwrap();
        let raw = RequestId::from_header(uuid.as_bytes()).unwrap();
        assert_eq!(text, raw);
        assert_eq!(text.to_string(), uuid.to_string());
    }

    #[test]
    fn refuses_other_forms_of_a_uuid() {
        let uuid = Uuid::now_v7();
        for bad in [uuid.simple().to_string(), uuid.urn().to_string(), uuid.braced().to_string()] {
            assert_eq!(RequestId::from_header(bad.as_bytes()), Err(InvalidId::NotAUuid), "{bad}");
        }
        assert_eq!(RequestId::from_header(&[b'z'; 36]), Err(InvalidId::NotAUuid));
        assert_eq!(RequestId::from_header(b""), Err(InvalidId::NotAUuid));
    }

    #[test]
    fn tells_the_time_of_a_version_7_id_alone() {
        let id = RequestId::from_header(b"01890a5d-ac96-774b-bcce-b302099a8057").unwrap();
        assert_eq!(id.unix_ms(), 0x0189_0a5d_ac96);
        assert_eq!(RequestId::from_uuid(Uuid::new_v4()).unix_ms(), 0);
    }

    #[test]
    fn limits_node_names() {
        assert!(NodeId::parse("gw-1.eu_west").is_ok());
        for bad in ["", "a b", "a|b", "ü", &"x".repeat(65)] {
            assert_eq!(NodeId::parse(bad), Err(InvalidId::NodeId), "{bad}");
        }
    }
}
