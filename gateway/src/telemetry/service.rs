//! The metrics of one service, as handles: hot paths look nothing up.

use prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram};

use super::{
    Telemetry,
    labels::{ReplyLabels, RequestLabels, ServiceLabels, StageLabels},
};
use crate::error::{ErrorCode, Failure};

/// Through which edge a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// A WebSocket frame.
    Ws,
    /// An HTTP call.
    Rest,
}

impl Edge {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Rest => "rest",
        }
    }
}

/// The path of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyPath {
    /// Read by the node that waits for it, because its id was chosen so.
    Affinity,
    /// Read by the node that waits for it, by chance.
    Local,
    /// Read by another node, and forwarded to this one.
    Forwarded,
    /// Put into the mailbox of a session whose node is dead.
    Parked,
    /// Stored for a caller who comes for it later, whose node has ended the request, or is dead.
    Stored,
    /// Nobody waits for it (any more).
    Unrouted,
}

/// The label values of [`ReplyPath`], in its order.
const REPLY_PATHS: [&str; 6] = ["affinity", "local", "forwarded", "parked", "stored", "unrouted"];

#[derive(Debug)]
struct EdgeCounters {
    ok: Counter,
    errors: [Counter; ErrorCode::ALL.len()],
}

/// The handles of one service's metrics.
#[derive(Debug)]
pub struct ServiceMetrics {
    ws: EdgeCounters,
    rest: EdgeCounters,
    /// Seconds from the submission of a request to its end.
    pub total: Histogram,
    /// Seconds until the broker has acknowledged a request.
    pub produce: Histogram,
    /// Seconds from there until the reply was read.
    pub service: Histogram,
    /// Seconds that a reply took from the node that read it to the one that waits.
    pub forward: Histogram,
    /// Requests waiting for a reply.
    pub in_flight: Gauge,
    /// Parts of streamed replies that were handed on.
    pub parts: Counter,
    replies: [Counter; REPLY_PATHS.len()],
}

impl ServiceMetrics {
    /// A request has ended.
    pub fn ended(&self, edge: Edge, outcome: Result<(), &Failure>) {
        let counters = match edge {
            Edge::Ws => &self.ws,
            Edge::Rest => &self.rest,
        };
        match outcome {
            Ok(()) => counters.ok.inc(),
            Err(failure) => counters.errors[failure.code as usize].inc(),
        };
    }

    /// Counts a reply by its path.
    pub fn replied(&self, path: ReplyPath) {
        self.replies[path as usize].inc();
    }
}

impl Telemetry {
    /// The handles of one service. For what is not configured the service is `-`.
    pub fn service(&self, service: &str) -> ServiceMetrics {
        let requests = |edge: Edge| {
            let outcome = |outcome: &'static str| {
                let service = service.to_owned();
                let labels = RequestLabels { service, edge: edge.as_str(), outcome };
                self.requests.get_or_create_owned(&labels)
            };
            EdgeCounters { ok: outcome("ok"), errors: ErrorCode::ALL.map(|c| outcome(c.as_str())) }
        };
        let seconds = |stage: &'static str| {
            let labels = StageLabels { service: service.to_owned(), stage };
            self.request_seconds.get_or_create_owned(&labels)
        };
        let replies = |way: &'static str| {
            let labels = ReplyLabels { service: service.to_owned(), way };
            self.replies.get_or_create_owned(&labels)
        };
        ServiceMetrics {
            ws: requests(Edge::Ws),
            rest: requests(Edge::Rest),
            total: seconds("total"),
            produce: seconds("produce"),
            service: seconds("service"),
            forward: seconds("forward"),
            in_flight: self
                .in_flight
                .get_or_create_owned(&ServiceLabels { service: service.to_owned() }),
            parts: self.parts.get_or_create_owned(&ServiceLabels { service: service.to_owned() }),
            replies: REPLY_PATHS.map(replies),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_counter() {
        for (at, code) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(*code as usize, at);
        }
    }
}
