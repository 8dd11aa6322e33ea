//! A session's state on its way from one holder to the next.

use registry::{Progress, RequestId};

use crate::relay::{checkpoints::format::RequestDetail, session::Unparked};

mod message;

/// What a session's former holder hands over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Released {
    /// The number of the last frame.
    pub(super) seq: u64,
    /// The number up to which frames are not kept.
    pub(super) confirmed: u64,
    pub(super) state: Inherited,
}

/// What a holder says that is asked for a session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has ended.
    Ended,
    /// Here it is.
    Released(Released),
    /// It is held for a later epoch than the one asked for, as it is when the registry went back to
    /// an earlier state. It is written again there, and can be claimed then.
    Later,
}

/// A session's state, wherever it came from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inherited {
    /// What its client may lack.
    pub(super) frames: Vec<Unparked>,
    pub(super) requests: Vec<(RequestId, RequestDetail, Progress)>,
}
