//! Node to node: what one node forwards to another, and how it looks on the wire.
//!
//! `POST /internal/v1/deliveries` carries a [`Call`] in postcard encoding, answered by one verdict
//! for each thing in it. With `Upgrade: roundtrip-peer` the connection carries calls and answers
//! from then on, each behind its length (four bytes, big-endian): a hop costs half of what it does
//! as an HTTP call. One call at a time per peer: so the order between two replies is kept. `POST
//! /internal/v1/sessions/{id}/release` fetches a session.

use std::{borrow::Cow, fmt::Debug, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use registry::{RequestId, SessionId};
use serde::{Deserialize, Serialize};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::wire::Reply;

#[cfg(test)]
pub(crate) mod alone;
mod health;
pub mod http;

/// Where a peer takes calls.
pub const DELIVERIES_PATH: &str = "/internal/v1/deliveries";
/// What a connection that carries many calls is upgraded to.
pub const UPGRADE: &str = "roundtrip-peer";
/// Where a peer hands sessions over, around the session's id.
pub const RELEASE_PATH: (&str, &str) = ("/internal/v1/sessions/", "/release");
/// The media type of a call and of its verdicts.
pub const MEDIA_TYPE: &str = "application/vnd.roundtrip.postcard";
/// Deliveries in one batch.
pub const BATCH_RECORDS_MAX: usize = 256;
/// Bytes of one batch, as [`delivery_bytes`] counts them; one delivery always fits.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the largest reply that is handed on, as [`reply_bytes`] counts them.
pub const REPLY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Largest call that is read.
pub const CALL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a delivery takes beside its reply: ids, times and the lengths of what varies. What a call
/// has around its deliveries is less.
const DELIVERY_BYTES: usize = 128;
/// The lengths of a header's name and value.
const HEADER_BYTES: usize = 10;

// Were it otherwise, a peer could be sent what it does not read, again and again.
const _: () = assert!(CALL_BYTES_MAX >= REPLY_BYTES_MAX + 2 * DELIVERY_BYTES);
const _: () = assert!(CALL_BYTES_MAX >= BATCH_BYTES_MAX + 2 * DELIVERY_BYTES);
/// How long a connection of calls is kept that nothing comes on. The caller gives it up after half
/// of that, so that it is not closed under a call.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a peer is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call<'a> {
    /// To deliver replies, in this order.
    Deliveries(Cow<'a, [Delivery]>),
    /// What has become of replies that it had kept.
    Settlements(Cow<'a, [(RequestId, SessionId)]>),
}

/// A connection of calls and answers.
pub type CallStream<S> = Framed<S, LengthDelimitedCodec>;

/// Calls and answers on an upgraded connection.
pub fn call_stream<S>(socket: S) -> CallStream<S>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite,
{
    LengthDelimitedCodec::builder().max_frame_length(CALL_BYTES_MAX).new_framed(socket)
}

/// A reply on its way to the node that waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Whose reply it is.
    pub request: RequestId,
    /// The session that waits for it, where the sender knows.
    pub session: Option<SessionId>,
    /// How long the sender has had it when it sent it, in microseconds: clocks differ.
    pub held_us: u64,
    /// What the service said, with all the headers a client might be allowed to see.
    pub reply: Reply,
}

/// Bytes that a reply takes on its way to a peer, at most, by the sizes of its payload and of each
/// header's name and value. Whoever decides whether a reply can be handed on counts with it, and
/// whoever fills a batch.
pub fn reply_bytes(payload: usize, headers: impl Iterator<Item = (usize, usize)>) -> usize {
    payload + headers.map(|(name, value)| name + value + HEADER_BYTES).sum::<usize>()
}

/// Bytes that the delivery of a reply takes in a call, at most.
pub fn delivery_bytes(reply: &Reply) -> usize {
    let headers = reply.headers.iter().map(|(name, value)| (name.len(), value.len()));
    DELIVERY_BYTES + reply_bytes(reply.payload.len(), headers)
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
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// No address is known for its name.
    #[error("its name cannot be resolved: {0}")]
    Unresolved(String),
    /// It has another `internal.secret`.
    #[error("internal.secret differs")]
    Unauthorized,
    /// An answer that is none: another version, an error.
    #[error("answered with HTTP status {0}")]
    Refused(u16),
    /// An answer that cannot be read.
    #[error("answered with what cannot be read: {0}")]
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

    /// Asks the node for nothing, to see whether it can be called.
    ///
    /// # Errors
    /// As [`PeerLink::deliver`].
    async fn greet(&self, url: &str, within: Duration) -> Result<(), PeerError> {
        self.settle(url, &[], within).await.map(drop)
    }

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

/// Writes a call or its verdicts.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Bytes {
    postcard::to_stdvec(value).expect("plain data in memory can be encoded").into()
}

/// Reads a call or its verdicts.
///
/// # Errors
/// What is wrong with the bytes.
pub fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, String> {
    postcard::from_bytes(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
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
            let batch = Call::Deliveries(Cow::Owned(vec![Delivery {
                request: RequestId::from_uuid(Uuid::from_u128(id)),
                session: status.map(|_| SessionId::from_bytes(id.to_be_bytes())),
                held_us: 7,
                reply: Reply { status, headers, payload: payload.into() },
            }]));
            let Call::Deliveries(deliveries) = &batch else { unreachable!("it is one") };
            prop_assert!(encode(&batch).len() <= delivery_bytes(&deliveries[0].reply));
            prop_assert_eq!(decode::<Call<'_>>(&encode(&batch)), Ok(batch));
        }

        #[test]
        fn no_bytes_break_the_reader(bytes in any::<Vec<u8>>()) {
            drop(decode::<Call<'_>>(&bytes));
            drop(decode::<Vec<Verdict>>(&bytes));
        }
    }
}
