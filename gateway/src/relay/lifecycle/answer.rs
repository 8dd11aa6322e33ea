//! What a node answers that is asked for a session by the session's next owner.

use crate::relay::checkpoints::Snapshot;

mod message;

/// The answer of an owner that is asked for a session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has ended.
    Ended,
    /// It is handed over.
    Released {
        /// The number of the last frame.
        seq: u64,
        /// The number up to which frames are not kept.
        confirmed: u64,
        /// The session's state.
        snapshot: Snapshot,
    },
    /// It is held for a later epoch than the one in the call, as happens when the registry went
    /// back to an earlier state. That node writes it again, and then it can be claimed.
    Later,
}
