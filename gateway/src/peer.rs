//! Node to node: what one node forwards to another, and how it is reached.
//!
//! `POST /internal/v1/deliveries` carries a call as [`format`](mod@format) writes it, answered by one
//! verdict for each thing in it. With `Upgrade: roundtrip-peer` the connection carries calls and
//! answers from then on, each behind its length (four bytes, big-endian): a hop costs half of what it
//! does as an HTTP call. One call at a time per peer: so the order between two replies is kept. `POST
//! /internal/v1/sessions/{id}/release` fetches a session. Each of these, and its answer, says in a
//! header which versions of all this its node speaks.

use std::{fmt::Debug, ops::Range, time::Duration};

use ::http::HeaderMap;
use async_trait::async_trait;
use bytes::Bytes;
use registry::{NodeEntry, RequestId, SessionId, Versions};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::wire::{Item, Reply};

pub mod format;
mod health;
pub mod http;

/// The versions that this node speaks, of what nodes say to each other and write for each other
/// into the registry. A version that only adds fields and variants which the one before ignores
/// needs no number of its own.
pub const SPOKEN: Versions = Versions { lowest: 1, highest: 1 };

/// The versions that this node names: [`SPOKEN`], unless a test makes it play another version.
pub fn spoken() -> Versions {
    #[cfg(feature = "later")]
    if let Some(later) = registry::later::speaks() {
        return later;
    }
    SPOKEN
}

/// The header in which a call and its answer name the versions that their node speaks.
pub const VERSIONS_HEADER: &str = "roundtrip-peer-versions";
/// The path at which a peer takes calls.
pub const DELIVERIES_PATH: &str = "/internal/v1/deliveries";
/// The protocol to which a connection for many calls is upgraded.
pub const UPGRADE: &str = "roundtrip-peer";
/// The path at which a peer hands sessions over, before and after the session's id.
pub const RELEASE_PATH: (&str, &str) = ("/internal/v1/sessions/", "/release");
/// The media type of a call and of its verdicts.
pub const MEDIA_TYPE: &str = "application/protobuf";
/// How many deliveries may be in one batch.
pub const BATCH_RECORDS_MAX: usize = 256;
/// Bytes of one batch, as [`format::delivery_bytes`] counts them; one delivery always fits.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the largest reply that is handed on, as [`format::reply_bytes`] counts them.
pub const REPLY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of the largest call that is read.
pub const CALL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes around the reply in a call with one delivery, at most.
const AROUND_REPLY_BYTES: usize = 128;

// Otherwise a peer could be sent again and again what it does not read.
const _: () = assert!(CALL_BYTES_MAX >= REPLY_BYTES_MAX + AROUND_REPLY_BYTES);
const _: () = assert!(CALL_BYTES_MAX >= BATCH_BYTES_MAX);
/// How long a connection for calls is kept while nothing comes on it. The caller closes it after
/// half of that time, so that it is not closed during a call.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The versions that a call or an answer names; if it names none, it is the first version.
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
    /// The request that it answers.
    pub request: RequestId,
    /// The session that waits for it, if the sender knows.
    pub session: Option<SessionId>,
    /// For how many microseconds the sender had it when it sent it; a duration, because clocks
    /// differ.
    pub held_us: u64,
    /// The reply itself, with all the headers that a client might be allowed to see.
    pub reply: Reply,
}

/// A reply that a peer has kept, of which it is not known yet whether it is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// The request that it answers.
    pub request: RequestId,
    /// The session to which it is owed.
    pub session: SessionId,
    /// Which of the replies to that request it is.
    pub item: Item,
}

/// What the receiving node did with one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Whoever waited for it has it.
    Delivered,
    /// It is owed to a session, and only the peer's memory has it: the sender keeps it too, and
    /// asks again later.
    Kept(SessionId),
    /// The session is just arriving there: send it again.
    Later,
    /// Its session is there, but the request has ended.
    Over,
    /// Nobody waits for it there (any more).
    Unknown,
    /// The peer has not said what became of it, or only in a way that this version does not know.
    /// It counts as an answer that was lost, so the reply may be sent again.
    Unread,
}

/// Why a batch was not delivered. It may have been delivered all the same, and a repeat is
/// harmless.
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
    /// An answer that is not one of these: another version, an error.
    #[error("answered with HTTP status {0}")]
    Refused(u16),
    /// An answer that cannot be read, or the peer's answer that it cannot read the call.
    #[error("this node and the peer do not understand each other: {0}")]
    Malformed(String),
    /// It speaks no version that this node speaks.
    #[error("speaks the versions {theirs} of what nodes say to each other, this node {ours}")]
    Incompatible {
        /// Those that this node speaks.
        ours: Versions,
        /// Those that the peer speaks.
        theirs: Versions,
    },
}

impl PeerError {
    /// Whether it may end within moments, by itself. Anything else needs an operator, or another
    /// version.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Unresolved(_) | Self::Refused(_))
    }
}

/// How a node reaches its peers.
#[async_trait]
pub trait PeerLink: Send + Sync + Debug + 'static {
    /// Hands a batch to a node, and returns one verdict for each delivery, in order. A node that
    /// speaks no version of ours is not called at all.
    ///
    /// # Errors
    /// [`PeerError`] after `within` at the latest; nothing is known about the batch then.
    async fn deliver(
        &self,
        peer: &NodeEntry,
        batch: &[Delivery],
        within: Duration,
    ) -> Result<Vec<Verdict>, PeerError>;

    /// Asks what has become of replies that the node has kept; one verdict for each, in order.
    ///
    /// # Errors
    /// As [`PeerLink::deliver`].
    async fn settle(
        &self,
        peer: &NodeEntry,
        kept: &[Unsettled],
        within: Duration,
    ) -> Result<Vec<Verdict>, PeerError>;

    /// Makes an empty call, to see whether the node can be called.
    ///
    /// # Errors
    /// As [`PeerLink::deliver`].
    async fn greet(&self, peer: &NodeEntry, within: Duration) -> Result<(), PeerError> {
        self.settle(peer, &[], within).await.map(drop)
    }

    /// Asks the node to hand over a session that the caller owns from the end of `epochs` on: the
    /// session's state as [`crate::relay`] writes it, or `None` if the node has nothing of it for
    /// one of `epochs`. What it has owned for an earlier one is outdated.
    ///
    /// # Errors
    /// As [`PeerLink::deliver`]; the node may have handed the session over all the same, and has
    /// nothing of it then.
    async fn release(
        &self,
        peer: &NodeEntry,
        session: SessionId,
        epochs: Range<u64>,
        within: Duration,
    ) -> Result<Option<Bytes>, PeerError>;
}
