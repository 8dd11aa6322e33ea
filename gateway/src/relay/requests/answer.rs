//! What a request comes to.

use std::time::Duration;

use crate::{error::Failure, wire::Reply};

/// How a request ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// With the service's reply, good or bad.
    Reply(Reply),
    /// Without a reply.
    Failure(Failure),
}

/// How long the stages of a request took, for a caller to whom that is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Until the broker acknowledged it.
    pub produce: Option<Duration>,
    /// From there until its reply was read.
    pub service: Option<Duration>,
    /// From the node that read the reply to this one.
    pub forward: Option<Duration>,
}

/// What a waiting HTTP call gets in the end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// How the request ended.
    pub outcome: Outcome,
    /// How long its stages took.
    pub timing: Timing,
}
