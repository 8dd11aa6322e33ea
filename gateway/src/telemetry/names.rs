//! Every metric's name, unit and help, and the series that exist from the start. Counts nothing.

use prometheus_client::registry::Unit;
use registry::EntryKind;

use super::{
    Resume, Telemetry,
    labels::{
        CloseLabels, EntryLabels, FRAMES_ABANDONED, LIMITS, LimitLabels, OPERATIONS,
        OperationLabels, RECORDS_SKIPPED, ReasonLabels, ResultLabels,
    },
    log,
};
use crate::error::CloseCode;

impl Telemetry {
    /// Gives each metric its name, its unit and its help.
    pub(super) fn register(&mut self) {
        self.register_requests();
        self.register_cluster();
    }

    fn register_requests(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "requests",
            "Requests that ended, by service (- when unknown), edge (ws, rest) and outcome (ok or \
             an error code)",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "request",
            "Time of a request by stage: total; produce, until the broker has acknowledged it; \
             service, from there until its reply was read; forward, from one node to another",
            Unit::Seconds,
            self.request_seconds.clone(),
        );
        registry.register("in_flight", "Requests waiting for a reply", self.in_flight.clone());
        registry.register("parts", "Parts of streamed replies handed on", self.parts.clone());
        registry.register(
            "replies",
            "Reply records by the way they took: affinity, local, forwarded, parked, stored, unrouted",
            self.replies.clone(),
        );
        registry.register(
            "limit_hits",
            "Times a limit was hit, by the last part of its option's name",
            self.limit_hits.clone(),
        );
        registry.register(
            "http_refusals",
            "HTTP requests of clients that were refused before any route was asked, by status",
            self.http_refusals.family(),
        );
        registry.register(
            "origins_refused",
            "Calls and handshakes of web pages whose origin is not allowed",
            self.origins_refused.clone(),
        );
        registry.register(
            "frames_abandoned",
            "Answers that were given up, by reason",
            self.frames_abandoned.clone(),
        );
        registry.register(
            "registry_unreadable",
            "Entries of the registry that cannot be read and were skipped, by their kinds",
            self.registry_unreadable.clone(),
        );
        registry.register(
            "records_skipped",
            "Records of the reply topic that are no reply, and of dead-letter topics that name no request, by \
             reason",
            self.records_skipped.clone(),
        );
        registry.register(
            "log_lines_lost",
            "PeerSenders of the log that were lost because standard error was not read fast enough",
            log::LINES_LOST.clone(),
        );
    }

    fn register_cluster(&mut self) {
        let registry = &mut self.registry;
        registry.register("connections", "Open WebSocket connections", self.connections.clone());
        registry.register(
            "sessions",
            "Sessions on this node, by state: attached, detached (waiting for their client)",
            self.sessions.clone(),
        );
        registry.register(
            "resumes",
            "Clients that came back, by what came of it: here, released (handed over by another \
             node), copied (from the registry), incomplete, refused",
            self.resumes.clone(),
        );
        registry.register(
            "closes",
            "WebSocket connections closed by this node, by close code",
            self.closes.clone(),
        );
        registry.register(
            "forwards",
            "Replies sent to another node, by node and result: delivered, unknown, failed (each \
             failed attempt of a batch counts once)",
            self.forwards.family(),
        );
        registry.register_with_unit(
            "registry",
            "Time of registry calls, each a pipelined batch, by operation",
            Unit::Seconds,
            self.registry_seconds.clone(),
        );
        registry.register(
            "consumer_lag",
            "Records between this node's position and the end of a partition it reads",
            self.consumer_lag.clone(),
        );
        self.unhandled.register(registry);
        registry.register(
            "consumer_errors",
            "Batches of records that could not be read, by topic, partition and reason: corrupt, \
             too_large, undecodable, unsupported, stalled",
            self.consumer_errors.clone(),
        );
    }

    /// Has every series whose labels are known beforehand exist at zero: a rate over one that
    /// begins with its first event would not see that event.
    pub(super) fn begin(&self) {
        for &limit in LIMITS {
            drop(self.limit_hits.get_or_create(&LimitLabels { limit }));
        }
        for &reason in FRAMES_ABANDONED {
            drop(self.frames_abandoned.get_or_create(&ReasonLabels { reason }));
        }
        for &reason in RECORDS_SKIPPED {
            drop(self.records_skipped.get_or_create(&ReasonLabels { reason }));
        }
        for entry in EntryKind::ALL.map(EntryKind::as_str) {
            drop(self.registry_unreadable.get_or_create(&EntryLabels { entry }));
        }
        for &operation in OPERATIONS {
            drop(self.registry_seconds.get_or_create(&OperationLabels { operation }));
        }
        for result in Resume::ALL.map(Resume::as_str) {
            drop(self.resumes.get_or_create(&ResultLabels { result }));
        }
        for code in CloseCode::ALL.map(CloseCode::number) {
            drop(self.closes.get_or_create(&CloseLabels { code }));
        }
        self.set_sessions(0, 0);
    }
}
