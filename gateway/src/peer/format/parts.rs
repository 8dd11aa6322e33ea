//! What several messages have in common: ids and replies.

use bytes::Bytes;
use prost::{Message, length_delimiter_len};
use registry::{RequestId, SessionId};
use uuid::Uuid;

use super::field;
use crate::{peer::BATCH_BYTES_MAX, wire};

/// A smaller payload is copied out of the message in which it came. Otherwise it would keep the
/// whole message in memory while somebody waits for it, and would be counted as much less.
const SHARED_BYTES_MIN: usize = BATCH_BYTES_MAX / 4;
/// Stands for a status that is none.
const BAD_GATEWAY: u16 = 502;

/// Sixteen bytes, big-endian: the id of a request or a session, or a fingerprint. The one with only
/// zeros is never used.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Id {
    #[prost(fixed64, tag = "1")]
    high: u64,
    #[prost(fixed64, tag = "2")]
    low: u64,
}

impl Id {
    /// How many bytes it takes, at most.
    pub(super) const BYTES: usize = 18;
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// A service's answer.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Reply {
    #[prost(uint32, optional, tag = "1")]
    status: Option<u32>,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<Header>,
    #[prost(bytes = "bytes", tag = "3")]
    payload: Bytes,
    #[prost(message, optional, tag = "4")]
    item: Option<Item>,
}

/// Which record a reply is, and which part of an answer.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Item {
    #[prost(message, optional, tag = "1")]
    source: Option<Source>,
    #[prost(uint32, optional, tag = "2")]
    part: Option<u32>,
    #[prost(uint32, optional, tag = "3")]
    end: Option<u32>,
    #[prost(bool, tag = "4")]
    is_disposed: bool,
}

/// Where a record was read.
#[derive(Clone, Copy, PartialEq, Message)]
struct Source {
    #[prost(int32, tag = "1")]
    partition: i32,
    #[prost(int64, tag = "2")]
    offset: i64,
}

impl Item {
    /// How many bytes it takes, at most: its own length, that of its source, and two numbers of five
    /// bytes, two of ten and a mark, each behind its number.
    pub(super) const BYTES: usize = 2 + (2 + 11 + 11) + 6 + 6 + 2;
}

impl From<wire::Item> for Item {
    fn from(item: wire::Item) -> Self {
        let wire::Item { source, part, end, is_disposed } = item;
        let source = source.map(|(partition, offset)| Source { partition, offset });
        Self { source, part, end, is_disposed }
    }
}

impl From<Item> for wire::Item {
    fn from(item: Item) -> Self {
        let Item { source, part, end, is_disposed } = item;
        let source = source.map(|Source { partition, offset }| (partition, offset));
        Self { source, part, end, is_disposed }
    }
}

impl From<u128> for Id {
    fn from(number: u128) -> Self {
        Self { high: (number >> 64) as u64, low: number as u64 }
    }
}

impl From<Id> for u128 {
    fn from(Id { high, low }: Id) -> Self {
        Self::from(high) << 64 | Self::from(low)
    }
}

impl From<RequestId> for Id {
    fn from(request: RequestId) -> Self {
        request.as_uuid().as_u128().into()
    }
}

impl From<Id> for RequestId {
    fn from(id: Id) -> Self {
        Self::from_uuid(Uuid::from_u128(id.into()))
    }
}

impl From<SessionId> for Id {
    fn from(session: SessionId) -> Self {
        session.as_uuid().as_u128().into()
    }
}

impl From<Id> for SessionId {
    fn from(id: Id) -> Self {
        Self::from_bytes(u128::from(id).to_be_bytes())
    }
}

impl From<&wire::Reply> for Reply {
    fn from(reply: &wire::Reply) -> Self {
        let header = |(name, value): &(Box<str>, Bytes)| Header {
            name: (&**name).into(),
            value: value.clone(),
        };
        Self {
            status: reply.status.map(u32::from),
            headers: reply.headers.iter().map(header).collect(),
            payload: reply.payload.clone(),
            item: (reply.item != wire::Item::default()).then(|| reply.item.into()),
        }
    }
}

impl From<Reply> for wire::Reply {
    fn from(Reply { status, headers, payload, item }: Reply) -> Self {
        let header = |Header { name, value }: Header| (name.into(), of_its_own(value));
        Self {
            status: status.map(|status| status.try_into().unwrap_or(BAD_GATEWAY)),
            headers: headers.into_iter().map(header).collect(),
            payload: of_its_own(payload),
            item: item.unwrap_or_default().into(),
        }
    }
}

fn of_its_own(bytes: Bytes) -> Bytes {
    if bytes.len() < SHARED_BYTES_MIN { Bytes::copy_from_slice(&bytes) } else { bytes }
}

/// How many bytes a reply takes in a message, apart from the few around its payload, from the sizes
/// of the payload and of each header's name and value. Decides whether a reply can be handed on.
pub fn reply_bytes(payload: usize, headers: impl Iterator<Item = (usize, usize)>) -> usize {
    payload + headers.map(|(name, value)| field(text(name) + text(value))).sum::<usize>()
}

/// Bytes of a reply's message.
pub(super) fn message_bytes(reply: &wire::Reply) -> usize {
    let headers = reply.headers.iter().map(|(name, value)| (name.len(), value.len()));
    let status = reply.status.map_or(0, |status| 1 + length_delimiter_len(status.into()));
    let payload = reply.payload.len();
    status + Item::BYTES + text(payload) - payload + reply_bytes(payload, headers)
}

/// How many bytes a field takes that is left out if it is empty.
fn text(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { field(bytes) }
}
