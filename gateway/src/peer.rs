//! Node to node: what one node forwards to another, and how it is reached.
//!
//! `POST /internal/v1/deliveries` carries a call as [`format`](mod@format) writes it, answered by one
//! verdict for each thing in it. With `Upgrade: roundtrip-peer` the connection carries calls and
//! answers from then on, each behind its length (four bytes, big-endian): a hop costs half of what it
//! does as an HTTP call. One call at a time per peer: so the order between two replies is kept. `POST
//! /internal/v1/sessions/{id}/release` fetches a session. Each of these, and its answer, says in a
//! header which versions of all this its node speaks.

use std::{fmt::Debug, time::Duration};

use ::http::HeaderMap;
use async_trait::async_trait;
use bytes::Bytes;
use registry::{NodeEntry, RequestId, SessionId, Versions};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::wire::Reply;

#[cfg(test)]
pub(crate) mod alone;
pub mod format;
mod health;
pub mod http;

/// The versions of what nodes say to each other, and of what they write for each other into the
/// registry, that this node speaks. A version that changes nothing but by fields and variants which
/// the one before passes over needs no number of its own.
pub const SPOKEN: Versions = Versions { lowest: 1, highest: 1 };

/// What this node says that it speaks: [`SPOKEN`], but where a test has it play another version.
pub fn spoken() -> Versions {
    #[cfg(feature = "later")]
    if let Some(later) = registry::later::speaks() {
        return later;
    }
    SPOKEN
}

/// The header in which a call and its answer say what their node speaks.
pub const VERSIONS_HEADER: &str = "roundtrip-peer-versions";
/// Where a peer takes calls.
pub const DELIVERIES_PATH: &str = "/internal/v1/deliveries";
/// What a connection that carries many calls is upgraded to.
pub const UPGRADE: &str = "roundtrip-peer";
/// Where a peer hands sessions over, around the session's id.
pub const RELEASE_PATH: (&str, &str) = ("/internal/v1/sessions/", "/release");
/// The media type of a call and of its verdicts.
pub const MEDIA_TYPE: &str = "application/protobuf";
/// Deliveries in one batch.
pub const BATCH_RECORDS_MAX: usize = 256;
/// Bytes of one batch, as [`format::delivery_bytes`] counts them; one delivery always fits.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the largest reply that is handed on, as [`format::reply_bytes`] counts them.
pub const REPLY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Largest call that is read.
pub const CALL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a call with one delivery has around its reply, at most.
const AROUND_REPLY_BYTES: usize = 128;

// Were it otherwise, a peer could be sent what it does not read, again and again.
const _: () = assert!(CALL_BYTES_MAX >= REPLY_BYTES_MAX + AROUND_REPLY_BYTES);
const _: () = assert!(CALL_BYTES_MAX >= BATCH_BYTES_MAX);
/// How long a connection of calls is kept that nothing comes on. The caller gives it up after half
/// of that, so that it is not closed under a call.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a call or an answer says of its node; where it says nothing, that is the first version.
pub fn spoken_by(headers: &HeaderMap) -> Versions {
    let text = headers.get(VERSIONS_HEADER).and_then(|value| value.to_str().ok());
    text.map(Versions::read).unwrap_or_default()
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// What the receiving node did with one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// The peer has not said what became of it, or in no words of this version: as if its answer had
    /// been lost, so a repeat is harmless.
    Unread,
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
    /// An answer that cannot be read, or the word of the peer that it cannot read the call.
    #[error("this node and the peer do not understand each other: {0}")]
    Malformed(String),
    /// It speaks no version that this node speaks.
    #[error("speaks the versions {theirs} of what nodes say to each other, this node {ours}")]
    Incompatible {
        /// Those of this node.
        ours: Versions,
        /// Those of the peer.
        theirs: Versions,
    },
}

impl PeerError {
    /// Whether it may pass within moments, by itself. Anything else takes an operator, or another
    /// version.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Unresolved(_) | Self::Refused(_))
    }
}

/// How a node reaches its peers.
#[async_trait]
pub trait PeerLink: Send + Sync + Debug + 'static {
    /// Hands a batch to a node; one verdict for each delivery, in order. One that speaks no version
    /// that this node speaks is not called at all.
    ///
    /// # Errors
    /// [`PeerError`] after `within` at the latest; nothing is known of the batch then.
    async fn deliver(
        &self,
        peer: &NodeEntry,
        batch: &[Delivery],
        within: Duration,
    ) -> Result<Vec<Verdict>, PeerError>;

    /// What has become of deliveries that the node has kept; one verdict for each, in order.
    ///
    /// # Errors
    /// As [`PeerLink::deliver`].
    async fn settle(
        &self,
        peer: &NodeEntry,
        kept: &[(RequestId, SessionId)],
        within: Duration,
    ) -> Result<Vec<Verdict>, PeerError>;

    /// Asks the node for nothing, to see whether it can be called.
    ///
    /// # Errors
    /// As [`PeerLink::deliver`].
    async fn greet(&self, peer: &NodeEntry, within: Duration) -> Result<(), PeerError> {
        self.settle(peer, &[], within).await.map(drop)
    }

    /// Has the node hand a session over, of which the caller is the holder from `epoch` on: the
    /// session's state as [`crate::relay`] writes it, or none when the node has nothing of it.
    ///
    /// # Errors
    /// As [`PeerLink::deliver`]; the node may have handed the session over all the same, and has
    /// nothing of it then.
    async fn release(
        &self,
        peer: &NodeEntry,
        session: SessionId,
        epoch: u64,
        within: Duration,
    ) -> Result<Option<Bytes>, PeerError>;
}
