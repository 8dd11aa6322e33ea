//! What nodes write of a result for each other: a message of numbered fields, under the rules of
//! [`crate::peer::format`]. The result itself is written as the frame that a session would get.

use bytes::Bytes;
use prost::Message;

use crate::{peer::format as fields, relay::checkpoints::format as frames, wire::Frame};

/// What a node has to know of a request to store its reply.
#[derive(Clone, PartialEq, Eq, Message)]
pub(in crate::relay) struct ResultDetail {
    /// The service that was asked, whose allow-list says which headers are stored.
    #[prost(string, tag = "1")]
    pub(in crate::relay) service: String,
}

/// Writes what is known of a request.
pub(in crate::relay) fn encode(detail: &ResultDetail) -> Bytes {
    fields::encode(detail)
}

/// Reads it; `None` if it is damaged.
pub(in crate::relay) fn decode(bytes: &Bytes) -> Option<ResultDetail> {
    fields::decode(bytes).ok()
}

/// Writes a result.
pub(in crate::relay) fn write(frame: &Frame) -> Bytes {
    frames::encode(frame)
}

/// Reads a result; `None` if it is damaged, or of a kind that this version does not know.
pub(in crate::relay) fn read(bytes: &Bytes) -> Option<Frame> {
    frames::decode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::format::fixture;

    #[test]
    fn details_are_read_as_each_version_wrote_them() {
        let detail = ResultDetail { service: "orders".to_owned() };
        fixture::check("result-detail", &Some(detail.clone()), &encode(&detail), decode);
    }
}
