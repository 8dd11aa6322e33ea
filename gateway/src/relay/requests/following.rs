//! What follows from a record, or from the broker's word, for a request that waits.

use std::sync::Arc;

use registry::SessionId;

use super::pending::Early;
use crate::{
    error::Failure,
    relay::{
        offsets::OffsetGuard,
        session::{Pushed, Session},
    },
};

/// What follows from a record once the table of waiting requests is not locked any more.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// What became of frames.
    pub(super) pushed: Vec<(Arc<Session>, Pushed)>,
    /// How the request ends.
    pub(super) end: Option<Result<Early, Failure>>,
    /// The offset of a part that its client will not get.
    pub(super) refused: Option<OffsetGuard>,
}

/// What became of a reply on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reception {
    /// Delivered to whoever waited.
    Delivered,
    /// Queued for the session that waited, and only this node's memory has it: its offset is kept
    /// back until the client or the mailbox has it.
    Kept(SessionId),
    /// Delivered, or kept for a session; but its client reads a streamed reply too slowly, so whoever
    /// reads more of it should wait for `Streams::room`.
    Crowded(Option<SessionId>),
    /// Nobody wants it any more.
    Over,
    /// Nobody waits for it here.
    Unknown,
}
