//! What a node writes of a session for its next owner: requests in flight and frames.

use std::time::Duration;

use bytes::Bytes;
use registry::RequestId;
use tokio::time::Instant;

use crate::{
    peer::format as fields,
    relay::session::InFlight,
    wire::{ClientId, Frame, Reply},
};

pub(in crate::relay) mod message;

/// What is written for another node, as a message.
pub(in crate::relay) trait Stored: Sized {
    /// The message that is written.
    type Message: prost::Message + Default;

    /// The message for this value.
    fn write(&self) -> Self::Message;

    /// The value of a message; `None` if this version does not know what the message means.
    fn read(message: Self::Message) -> Option<Self>;
}

/// What is in a mailbox.
#[derive(Debug, PartialEq, Eq)]
pub enum Letter {
    /// A frame.
    Frame(Frame),
    /// A reply to a request in flight, or a part of one, as it was read.
    Reply(RequestId, Reply),
}

/// A request in flight, with what its session's next owner has to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestDetail {
    /// The client's id.
    pub id: ClientId,
    /// The request's fingerprint.
    pub digest: u128,
    /// The service that answers.
    pub service: Box<str>,
    /// For how long it had waited when this was written, in milliseconds: no time of day, because
    /// the reader's clock may differ.
    pub age_ms: u64,
    /// What was left of its time then.
    pub left_ms: u64,
    /// Whether its client has asked for a receipt.
    pub receipt: bool,
    /// Where the broker has recorded it, once it has: partition and offset.
    pub position: Option<(i32, i64)>,
    /// How many parts of its streamed reply its client has, once one has come: more may be in the
    /// mailbox.
    pub parts: Option<u32>,
    /// Where the last part was read of a reply whose service numbers none: partition and offset.
    pub last_part: Option<(i32, i64)>,
}

impl RequestDetail {
    /// The same request some time later.
    pub fn later(self, passed: Duration) -> Self {
        let passed_ms = millis(passed);
        let age_ms = self.age_ms.saturating_add(passed_ms);
        Self { age_ms, left_ms: self.left_ms.saturating_sub(passed_ms), ..self }
    }

    /// What is left to say of a request that has ended: its client may send it again. Where its
    /// reply is lost with this node, whoever has the session next waits for it once more, for as
    /// long as this one would have.
    pub fn ended(id: ClientId, known: &InFlight) -> Self {
        Self {
            id,
            digest: known.digest.0,
            service: (&*known.service).into(),
            age_ms: 0,
            left_ms: millis(known.deadline.saturating_duration_since(Instant::now())),
            receipt: false,
            // For those who read it, the broker has it.
            position: Some((0, 0)),
            parts: None,
            last_part: None,
        }
    }
}

/// Whole milliseconds.
pub(in crate::relay) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Writes a detail, a frame, or the answer to a release.
pub(in crate::relay) fn encode(value: &impl Stored) -> Bytes {
    fields::encode(&value.write())
}

/// Reads one; `None` if it is damaged, or if this version does not know what it means.
pub(in crate::relay) fn decode<T: Stored>(bytes: &Bytes) -> Option<T> {
    T::read(fields::decode(bytes).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_requests_time_shrinks_by_what_has_passed() {
        let detail = RequestDetail {
            id: ClientId::from_json("7").unwrap(),
            digest: 0,
            service: "echo".into(),
            age_ms: 1_000,
            left_ms: 4_000,
            receipt: false,
            position: None,
            parts: None,
            last_part: None,
        };
        let later = detail.clone().later(Duration::from_millis(1_500));
        assert_eq!((later.age_ms, later.left_ms), (2_500, 2_500));
        let over = detail.later(Duration::MAX);
        assert_eq!((over.age_ms, over.left_ms), (u64::MAX, 0));
    }
}
