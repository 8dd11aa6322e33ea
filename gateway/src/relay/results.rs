//! Results: what comes of requests whose callers do not wait, kept in the registry for them.
//!
//! Owns what is on its way there, and what is read from there. A reply's offset is let go of only
//! when the registry has the result. Never decides how a request ends, and never reads the log.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use registry::{Arrival, Expectation, NodeRef, Registry, RequestId, SessionId};
use tokio::time::Instant;

use super::{
    cluster::Membership, offsets::OffsetGuard, surroundings::Surroundings, write_behind::Pace,
};
use crate::{
    config::RestConfig,
    error::{ErrorCode, Failure},
    tasks::locked,
    telemetry::Telemetry,
    wire::{ClientId, Frame},
};

pub(in crate::relay) mod format;
mod reading;
mod writer;

pub use reading::{Expected, Polled};
pub use writer::ResultWriter;

use format::{ResultDetail, encode};

/// The results of this node's requests on their way to the registry, and all results in it.
#[derive(Debug)]
pub struct Results {
    node: NodeRef,
    registry: Arc<dyn Registry>,
    membership: Arc<Membership>,
    telemetry: Arc<Telemetry>,
    keep: Duration,
    bytes_max: usize,
    queue: Mutex<Queue>,
    pace: Pace,
}

/// Bounded by what may wait on this node, and by the windows of the partitions from which the
/// replies were read.
#[derive(Debug, Default)]
struct Queue {
    /// What the registry has been told to expect by this node.
    expected: HashMap<RequestId, OfThisNode>,
    unwritten: HashMap<RequestId, Unwritten>,
    /// Those of them that are to be written next.
    fresh: Vec<RequestId>,
    /// Those of them that could not be written.
    failed: Vec<RequestId>,
    /// The registry lacks what it was told to expect.
    rewrite: bool,
}

/// A request of this node whose result is to come.
#[derive(Clone, Debug)]
struct OfThisNode {
    deadline: Instant,
    detail: Bytes,
}

/// A result that the registry has not taken yet.
#[derive(Debug)]
struct Unwritten {
    arrival: Arrival,
    guard: Option<OffsetGuard>,
}

impl Results {
    /// Nothing is on its way.
    pub fn new(config: &RestConfig, around: &Surroundings, membership: &Arc<Membership>) -> Self {
        Self {
            node: around.node.clone(),
            registry: Arc::clone(&around.registry),
            membership: Arc::clone(membership),
            telemetry: Arc::clone(&around.telemetry),
            keep: config.response_retention,
            bytes_max: config.response_bytes_max,
            queue: Mutex::default(),
            pace: Pace::new(Duration::ZERO),
        }
    }

    /// Has the registry expect the result of a request, which may be produced once this has
    /// returned. If the call is dropped before, nothing is owed to anybody.
    ///
    /// # Errors
    /// `unavailable`: the registry cannot be reached.
    pub(in crate::relay) async fn expect(
        &self,
        request: RequestId,
        service: &str,
        timeout: Duration,
    ) -> Result<(), Failure> {
        let detail = encode(&ResultDetail { service: service.to_owned() });
        let of_this_node = OfThisNode { deadline: Instant::now() + timeout, detail };
        let expected = [self.expectation(request, &of_this_node)];
        let started = Instant::now();
        let answers = self.registry.expect_results(&expected).await;
        self.telemetry.registry_call("expect_results", started.elapsed());
        self.membership.health.heard(&answers);
        if let Some(error) = answers.into_iter().find_map(Result::err) {
            tracing::debug!(%request, %error, "result not expected");
            return Err(away());
        }
        locked(&self.queue).expected.insert(request, of_this_node);
        Ok(())
    }

    /// A request has not ended with a result: it was not produced, or it may still be answered.
    pub(in crate::relay) fn forget(&self, request: RequestId) {
        locked(&self.queue).expected.remove(&request);
    }

    /// A request of this node has ended. The guard of its reply is let go of once the registry has
    /// the result.
    pub(in crate::relay) fn arrived(
        &self,
        request: RequestId,
        frame: &Frame,
        guard: Option<OffsetGuard>,
    ) {
        let result = self.write(request, frame);
        let mut queue = locked(&self.queue);
        let expected = queue.expected.remove(&request);
        let expected = expected.map(|of_this_node| self.expectation(request, &of_this_node));
        let arrival = Arrival { request, result, expected };
        queue.unwritten.insert(request, Unwritten { arrival, guard });
        queue.fresh.push(request);
        drop(queue);
        self.pace.soon();
    }

    /// What a peer is told that has read the reply to a request: none where this node has nothing of
    /// its result. A result that only this node's memory has is asked for as if it were a session,
    /// under the request's id, so that peers of any version can ask.
    pub(in crate::relay) fn progress(
        &self,
        request: RequestId,
        asked: Option<SessionId>,
    ) -> Option<Progress> {
        if locked(&self.queue).unwritten.contains_key(&request) {
            return Some(Progress::Unwritten);
        }
        (asked == Some(holder(request))).then_some(Progress::Written)
    }

    /// Whether the registry has every result.
    pub fn is_empty(&self) -> bool {
        locked(&self.queue).unwritten.is_empty()
    }

    /// The registry has lost what it held: what this node's requests are to come to is noted again.
    pub(in crate::relay) fn write_again(&self) {
        locked(&self.queue).rewrite = true;
        self.pace.soon();
    }

    /// The text of a result; of one that is too large, that it is.
    fn write(&self, request: RequestId, frame: &Frame) -> Bytes {
        let bytes = frame.weight() - Frame::ENVELOPE_BYTES;
        if bytes <= self.bytes_max {
            return format::write(frame);
        }
        self.telemetry.limit_hit("response_bytes_max");
        let message = format!(
            "rest.response_bytes_max is {}; the response has {bytes} bytes and is not stored",
            self.bytes_max
        );
        let failure = Failure::new(ErrorCode::TooLarge, message).recorded(true);
        let id = Some(ClientId::from_request(request));
        format::write(&Frame::Error { id, request: Some(request), failure, reply: None })
    }

    fn expectation(&self, request: RequestId, of_this_node: &OfThisNode) -> Expectation {
        let OfThisNode { deadline, detail } = of_this_node;
        Expectation {
            request,
            node: self.node.clone(),
            left: deadline.saturating_duration_since(Instant::now()),
            keep: self.keep,
            detail: detail.clone(),
        }
    }
}

/// How far a result is on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is in this node's memory alone.
    Unwritten,
    /// The registry has it, or nobody expects it.
    Written,
}

/// As what a result is asked for by peers.
pub(in crate::relay) fn holder(request: RequestId) -> SessionId {
    SessionId::from_bytes(request.as_uuid().into_bytes())
}

fn away() -> Failure {
    Failure::new(ErrorCode::Unavailable, "the registry cannot be reached")
}

#[cfg(test)]
mod tests;
