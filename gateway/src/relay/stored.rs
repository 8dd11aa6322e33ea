//! What a node writes of a session for the one that may hold it next: requests in flight and
//! frames, as bytes that carry the version of their format.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::session::InFlight;
use crate::wire::ClientId;

/// The first byte of everything stored.
const VERSION: u8 = 1;

/// A request in flight, as its session's next holder has to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestDetail {
    /// The client's id.
    pub id: ClientId,
    /// What it asks for.
    pub digest: u128,
    /// Who answers.
    pub service: Box<str>,
    /// When it ends by itself, in milliseconds since the Unix epoch.
    pub deadline_ms: u64,
    /// Whether its client has asked for a receipt.
    pub receipt: bool,
    /// Where the broker has recorded it, once it has: partition and offset.
    pub position: Option<(i32, i64)>,
}

impl RequestDetail {
    /// What is left to say of a request that has ended: its client may send it again.
    pub fn ended(id: ClientId, known: &InFlight) -> Self {
        Self {
            id,
            digest: known.digest.0,
            service: (&*known.service).into(),
            deadline_ms: known.deadline_ms,
            receipt: false,
            // The broker has it, as far as anybody needs to know.
            position: Some((0, 0)),
        }
    }
}

/// Writes a detail or a frame.
pub(super) fn encode<T: Serialize>(value: &T) -> Bytes {
    let bytes = postcard::to_extend(value, vec![VERSION]);
    bytes.expect("plain data in memory can be encoded").into()
}

/// Reads a detail or a frame; none when it is of another version or damaged.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (&version, rest) = bytes.split_first()?;
    if version != VERSION {
        return None;
    }
    postcard::from_bytes(rest).ok()
}
