//! Node to node: what one node forwards to another, and how it looks on the wire.
//!
//! `POST /internal/v1/deliveries` carries a batch in postcard encoding, answered by one verdict per
//! delivery. One batch at a time per peer: so the order between two replies is kept. What the peer
//! has kept is asked about by `POST /internal/v1/settlements`. `POST
//! /internal/v1/sessions/{id}/release` fetches a session.

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use registry::{RequestId, SessionId};
use serde::{Deserialize, Serialize};

use crate::wire::Reply;

pub mod http;

/// Where a peer takes deliveries.
pub const DELIVERIES_PATH: &str = "/internal/v1/deliveries";
/// Where a peer says what became of deliveries that it had kept.
pub const SETTLEMENTS_PATH: &str = "/internal/v1/settlements";
/// Where a peer hands sessions over, around the session's id.
pub const RELEASE_PATH: (&str, &str) = ("/internal/v1/sessions/", "/release");
/// The media type of a batch and of its verdicts.
pub const MEDIA_TYPE: &str = "application/vnd.roundtrip.postcard";
/// Deliveries in one batch.
pub const BATCH_RECORDS_MAX: usize = 256;
/// Payload bytes in one batch; one delivery always fits.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// A reply on its way to the node that waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Whose reply it is.
    pub request: RequestId,
    /// The session that waits for it, where the sender knows.
    pub session: Option<SessionId>,
    /// When it was read from Kafka, in microseconds since the Unix epoch, by the sender's clock.
    pub read_at_us: u64,
    /// What the service said, with all the headers a client might be allowed to see.
    pub reply: Reply,
}

/// What the receiving node did with one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Whoever waited has it.
    Delivered,
    /// It is owed to a session, and only the peer's memory has it: the sender keeps it too, and asks
    /// later.
    Kept(SessionId),
    /// The session is just arriving there: ask again.
    Later,
    /// Its session is there, and the request has ended.
    Over,
    /// Nobody waits for it there (any more).
    Unknown,
}

/// Why a batch was not delivered; it may have been all the same, and a repeat is harmless.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// No connection, or no answer in time.
    #[error("peer unreachable: {0}")]
    Unreachable(String),
    /// An answer that is none: a wrong secret, another version, an error.
    #[error("peer answered with status {0}")]
    Refused(u16),
    /// An answer that cannot be read.
    #[error("peer answered with {0}")]
    Malformed(String),
}

/// How a node reaches its peers.
#[async_trait]
pub trait PeerLink: Send + Sync + Debug + 'static {
    /// Hands a batch to the node whose internal listener is at `url`; one verdict for each
    /// delivery, in order.
    ///
    /// # Errors
    /// [`PeerError`] after `within` at the latest; nothing is known of the batch then.
    async fn deliver(
        &self,
        url: &str,
        batch: &[Delivery],
        within: Duration,
    ) -> Result<Vec<Verdict>, PeerError>;

    /// What has become of deliveries that the node has kept; one verdict for each, in order.
    ///
    /// # Errors
    /// As [`PeerLink::deliver`].
    async fn settle(
        &self,
        url: &str,
        kept: &[(RequestId, SessionId)],
        within: Duration,
    ) -> Result<Vec<Verdict>, PeerError>;

    /// Has the node hand a session over, of which the caller is the holder from `epoch` on: the
    /// session's state as [`crate::relay`] writes it, or none when the node has nothing of it.
    ///
    /// # Errors
    /// As [`PeerLink::deliver`]; the node may have handed the session over all the same, and has
    /// nothing of it then.
    async fn release(
        &self,
        url: &str,
        session: SessionId,
        epoch: u64,
        within: Duration,
    ) -> Result<Option<Bytes>, PeerError>;
}

/// Writes a batch or its verdicts.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Bytes {
    postcard::to_stdvec(value).expect("plain data in memory can be encoded").into()
}

/// Reads a batch or its verdicts.
///
/// # Errors
/// What is wrong with the bytes.
pub fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, String> {
    postcard::from_bytes(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};
    use uuid::Uuid;

    use super::*;

    proptest! {
        #[test]
        fn a_batch_survives(
            payload in any::<Vec<u8>>(),
            status in any::<Option<u16>>(),
            headers in any::<Vec<(String, Vec<u8>)>>(),
            id in any::<u128>(),
        ) {
            let headers = headers.into_iter().map(|(n, v)| (n.into(), Bytes::from(v))).collect();
            let batch = vec![Delivery {
                request: RequestId::from_uuid(Uuid::from_u128(id)),
                session: status.map(|_| SessionId::from_bytes(id.to_be_bytes())),
                read_at_us: 7,
                reply: Reply { status, headers, payload: payload.into() },
            }];
            prop_assert_eq!(decode::<Vec<Delivery>>(&encode(&batch)), Ok(batch));
        }

        #[test]
        fn no_bytes_break_the_reader(bytes in any::<Vec<u8>>()) {
            drop(decode::<Vec<Delivery>>(&bytes));
            drop(decode::<Vec<Verdict>>(&bytes));
        }
    }
}
