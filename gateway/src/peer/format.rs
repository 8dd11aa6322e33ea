//! How nodes write what they say to each other: messages of numbered fields, in protobuf encoding.
//!
//! Owns the numbers, and the only conversions between messages and what they mean. A field that is
//! not known is passed over, and one that is not there has its default, so two successive versions
//! understand each other. A number is never given another meaning, nor another type, and a field is
//! never left out that an earlier version needs. CONTRIBUTING.md says how to change anything here,
//! and the files under `tests/formats` show it.

use std::ops::Range;

use bytes::Bytes;
use prost::{Message, length_delimiter_len};
use registry::SessionId;

use super::{Delivery, Unsettled, Verdict};
use crate::wire;

mod parts;

pub use parts::reply_bytes;
pub(crate) use parts::{Id, Item, Reply};

/// A call to a peer. One of the lists is filled. A question of a later version has a list of its
/// own, and a node that does not know it answers without verdicts.
#[derive(Clone, PartialEq, Message)]
struct Call {
    #[prost(message, repeated, tag = "1")]
    deliveries: Vec<DeliveryPart>,
    #[prost(message, repeated, tag = "2")]
    settlements: Vec<Settlement>,
}

#[derive(Clone, PartialEq, Message)]
struct DeliveryPart {
    #[prost(message, optional, tag = "1")]
    request: Option<Id>,
    #[prost(message, optional, tag = "2")]
    session: Option<Id>,
    #[prost(uint64, tag = "3")]
    held_us: u64,
    #[prost(message, optional, tag = "4")]
    reply: Option<Reply>,
}

#[derive(Clone, PartialEq, Message)]
struct Settlement {
    #[prost(message, optional, tag = "1")]
    request: Option<Id>,
    #[prost(message, optional, tag = "2")]
    session: Option<Id>,
    #[prost(message, optional, tag = "3")]
    item: Option<Item>,
}

/// A peer's answer: a verdict on each thing in the call, or why the call cannot be read.
#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(message, repeated, tag = "1")]
    verdicts: Vec<VerdictPart>,
    #[prost(string, tag = "2")]
    trouble: String,
}

#[derive(Clone, PartialEq, Message)]
struct VerdictPart {
    #[prost(enumeration = "VerdictKind", tag = "1")]
    kind: i32,
    /// The session that keeps it.
    #[prost(message, optional, tag = "2")]
    session: Option<Id>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
enum VerdictKind {
    Unspecified = 0,
    Delivered = 1,
    Kept = 2,
    Later = 3,
    Over = 4,
    Unknown = 5,
}

/// A node that has claimed a session asks its former owner for it.
#[derive(Clone, PartialEq, Message)]
struct Release {
    /// From which epoch on the session is the asking node's.
    #[prost(uint64, tag = "1")]
    epoch: u64,
    /// The first epoch since which nobody else can have had it; 0 for the one before.
    #[prost(uint64, tag = "2")]
    since: u64,
}

/// A call to a peer, as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Replies to be delivered, in this order.
    pub deliveries: Vec<Delivery>,
    /// Replies that were kept, to learn what has become of them.
    pub settlements: Vec<Unsettled>,
}

/// Writes a message.
pub(crate) fn encode<M: Message>(message: &M) -> Bytes {
    let bytes = message.encode_to_vec();
    #[cfg(feature = "later")]
    let bytes = registry::later::written(std::any::type_name::<M>(), bytes);
    bytes.into()
}

/// Reads a message, whose bytes it shares.
///
/// # Errors
/// What is wrong with the bytes.
pub(crate) fn decode<M: Message + Default>(bytes: &Bytes) -> Result<M, String> {
    M::decode(bytes.clone()).map_err(|error| error.to_string())
}

/// Writes a call to deliver replies.
pub fn write_deliveries(batch: &[Delivery]) -> Bytes {
    let part = |delivery: &Delivery| DeliveryPart {
        request: Some(delivery.request.into()),
        session: delivery.session.map(Id::from),
        held_us: delivery.held_us,
        reply: Some(Reply::from(&delivery.reply)),
    };
    encode(&Call { deliveries: batch.iter().map(part).collect(), settlements: Vec::new() })
}

/// Writes a question of what has become of replies.
pub fn write_settlements(kept: &[Unsettled]) -> Bytes {
    let part = |&Unsettled { request, session, item }: &Unsettled| Settlement {
        request: Some(request.into()),
        session: Some(session.into()),
        item: (item != wire::Item::default()).then(|| item.into()),
    };
    encode(&Call { deliveries: Vec::new(), settlements: kept.iter().map(part).collect() })
}

/// Reads a call. If a part names no request, it counts as one for which nobody waits.
///
/// # Errors
/// What is wrong with the bytes.
pub fn read_call(bytes: &Bytes) -> Result<Asked, String> {
    let Call { deliveries, settlements } = decode(bytes)?;
    let delivery = |part: DeliveryPart| Delivery {
        request: part.request.unwrap_or_default().into(),
        session: part.session.map(SessionId::from),
        held_us: part.held_us,
        reply: part.reply.unwrap_or_default().into(),
    };
    let settlement = |part: Settlement| Unsettled {
        request: part.request.unwrap_or_default().into(),
        session: part.session.unwrap_or_default().into(),
        item: part.item.unwrap_or_default().into(),
    };
    Ok(Asked {
        deliveries: deliveries.into_iter().map(delivery).collect(),
        settlements: settlements.into_iter().map(settlement).collect(),
    })
}

/// Writes the verdicts on the parts of a call.
pub fn write_verdicts(verdicts: impl IntoIterator<Item = Verdict>) -> Bytes {
    let part = |verdict| {
        let (kind, session) = match verdict {
            Verdict::Delivered => (VerdictKind::Delivered, None),
            Verdict::Kept(session) => (VerdictKind::Kept, Some(session.into())),
            Verdict::Later => (VerdictKind::Later, None),
            Verdict::Over => (VerdictKind::Over, None),
            Verdict::Unknown => (VerdictKind::Unknown, None),
            Verdict::Unread => (VerdictKind::Unspecified, None),
        };
        VerdictPart { kind: kind.into(), session }
    };
    let verdicts = verdicts.into_iter().map(part).collect();
    encode(&Answer { verdicts, trouble: String::new() })
}

/// Writes that a call cannot be read.
pub fn write_trouble(trouble: String) -> Bytes {
    encode(&Answer { verdicts: Vec::new(), trouble })
}

/// Reads the verdicts on `count` things. Missing ones count as unread.
///
/// # Errors
/// What is wrong with the bytes, or was with those of the call.
pub fn read_verdicts(bytes: &Bytes, count: usize) -> Result<Vec<Verdict>, String> {
    let Answer { verdicts, trouble } = decode(bytes)?;
    if !trouble.is_empty() {
        return Err(trouble);
    }
    let verdict = |part: VerdictPart| match (VerdictKind::try_from(part.kind), part.session) {
        (Ok(VerdictKind::Delivered), _) => Verdict::Delivered,
        (Ok(VerdictKind::Kept), Some(session)) => Verdict::Kept(session.into()),
        (Ok(VerdictKind::Later), _) => Verdict::Later,
        (Ok(VerdictKind::Over), _) => Verdict::Over,
        (Ok(VerdictKind::Unknown), _) => Verdict::Unknown,
        (Ok(VerdictKind::Kept | VerdictKind::Unspecified) | Err(_), _) => Verdict::Unread,
    };
    let mut verdicts: Vec<Verdict> = verdicts.into_iter().map(verdict).collect();
    verdicts.resize(count, Verdict::Unread);
    Ok(verdicts)
}

/// Writes a call to hand a session over, where it is held for one of these epochs.
pub fn write_release(epochs: &Range<u64>) -> Bytes {
    let since = Some(epochs.start).filter(|since| since.saturating_add(1) != epochs.end);
    encode(&Release { epoch: epochs.end, since: since.unwrap_or_default() })
}

/// Reads for which epochs a session has to be held to be handed over.
///
/// # Errors
/// What is wrong with the bytes.
pub fn read_release(bytes: &Bytes) -> Result<Range<u64>, String> {
    let Release { epoch, since } = decode(bytes)?;
    Ok(match since {
        0 => epoch.saturating_sub(1)..epoch,
        _ => since..epoch,
    })
}

/// How many bytes the delivery of a reply takes in a call, at most: with a session, and with the
/// longest time that it can have been held.
pub fn delivery_bytes(reply: &wire::Reply) -> usize {
    // The largest number, and the byte before it.
    const HELD_BYTES: usize = 11;
    let delivery = 2 * field(Id::BYTES) + HELD_BYTES + field(parts::message_bytes(reply));
    field(delivery)
}

/// How many bytes a field of this length takes, if its number is less than 16.
fn field(bytes: usize) -> usize {
    1 + length_delimiter_len(bytes) + bytes
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
