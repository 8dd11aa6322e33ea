//! A session's state on its way from one owner to the next.

use registry::{Progress, RequestId};

use crate::relay::{checkpoints::format::RequestDetail, session::Unparked};

mod message;

/// What a session's former owner hands over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Released {
    /// The number of the last frame.
    pub(super) seq: u64,
    /// The number up to which frames are not kept.
    pub(super) confirmed: u64,
    pub(super) state: Inherited,
}

/// The answer of an owner that is asked for a session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has ended.
    Ended,
    /// The session's state.
    Released(Released),
    /// It is held for a later epoch than the one in the call, as happens when the registry went
    /// back to an earlier state. That node writes it again, and then it can be claimed.
    Later,
}

/// A session's state, from its owner or from its checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inherited {
    /// The frames that its client may lack.
    pub(super) frames: Vec<Unparked>,
    pub(super) requests: Vec<(RequestId, RequestDetail, Progress)>,
}
