//! What is known of a request's record in the log.

use std::sync::Arc;

use registry::{RequestId, Route};
use tokio::time::Instant;

use crate::bus::Position;

/// What is known of the request's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recording {
    /// Not handed over yet: the registry has to know of it first, or the producer keeps it back.
    Waiting,
    /// Handed to the producer: it may be in the log.
    Unconfirmed,
    /// Acknowledged by the broker.
    Confirmed {
        /// When the acknowledgement came.
        at: Instant,
        /// Where the record is.
        position: Position,
    },
}

impl Recording {
    /// Whether the broker has acknowledged it.
    pub const fn is_confirmed(&self) -> bool {
        matches!(self, Self::Confirmed { .. })
    }
}

/// What is known of an earlier record for the same request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// There was none.
    Nothing,
    /// There was one, and nobody knows whether it is in the log.
    MayBeRecorded,
}

/// A record of a request, on its way into the log.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// The request.
    pub(super) request: RequestId,
    /// The route of the entry for which it is written, by which that is known: see `Entry::has`.
    pub(super) route: Arc<Route>,
    pub(super) before: Before,
    /// When its client stops waiting, in milliseconds since the Unix epoch: the service is told.
    pub(super) deadline_ms: u64,
}
