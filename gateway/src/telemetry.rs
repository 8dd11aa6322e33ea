//! What an operator sees: what is counted and measured, and the log.
//!
//! Every counter exists from the start, at zero; hot paths hold a [`ServiceMetrics`], whose handles
//! need no look-up.

use std::{fmt::Write, time::Duration};

use prometheus_client::{
    encoding::text,
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::Registry,
};
use registry::EntryKind;
use tokio::time::Instant;

use self::{
    forwards::Forwards,
    labels::{
        CONSUMER_ERRORS, CloseLabels, ConsumerErrorLabels, EntryLabels, FRAMES_ABANDONED, LIMITS,
        LimitLabels, OPERATIONS, OperationLabels, PartitionLabels, RECORDS_SKIPPED, ReasonLabels,
        ReplyLabels, RequestLabels, ResultLabels, ServiceLabels, StageLabels, StateLabels,
    },
};

mod forwards;
mod http_refusals;
mod labels;
mod log;
mod names;
mod service;
mod throttle;
mod unhandled;

pub use http_refusals::HttpRefusals;
pub use log::{flush_log, init_logs, last_words};
pub use service::{Edge, ReplyPath, ServiceMetrics};
pub use throttle::LogThrottle;
pub use unhandled::{Unhandled, UnhandledGauge};

/// What became of a client's wish to resume its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// It goes on, on the node that held it.
    Here,
    /// It goes on here: its former owner has handed it over.
    Released,
    /// It goes on here, from its checkpoint in the registry.
    Copied,
    /// It is known, but something of it is missing.
    Incomplete,
    /// It is not known, or the token is not valid.
    Refused,
}

impl Resume {
    const ALL: [Self; 5] =
        [Self::Here, Self::Released, Self::Copied, Self::Incomplete, Self::Refused];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Released => "released",
            Self::Copied => "copied",
            Self::Incomplete => "incomplete",
            Self::Refused => "refused",
        }
    }
}

/// Buckets from 0.5 ms to 60 s: the range of a request's life.
#[derive(Clone, Copy, Debug)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new([
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
            30.0, 60.0,
        ])
    }
}

type Seconds<L> = Family<L, Histogram, Buckets>;

/// Every metric of a node.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Seconds<StageLabels>,
    in_flight: Family<ServiceLabels, Gauge>,
    parts: Family<ServiceLabels, Counter>,
    replies: Family<ReplyLabels, Counter>,
    forwards: Forwards,
    /// Open WebSocket connections.
    pub connections: Gauge,
    sessions: Family<StateLabels, Gauge>,
    resumes: Family<ResultLabels, Counter>,
    closes: Family<CloseLabels, Counter>,
    limit_hits: Family<LimitLabels, Counter>,
    /// The requests that the HTTP servers for clients refuse by themselves.
    pub http_refusals: HttpRefusals,
    origins_refused: Counter,
    frames_abandoned: Family<ReasonLabels, Counter>,
    records_skipped: Family<ReasonLabels, Counter>,
    registry_seconds: Seconds<OperationLabels>,
    registry_unreadable: Family<EntryLabels, Counter>,
    consumer_lag: Family<PartitionLabels, Gauge>,
    /// Replies that are read and not handled.
    pub unhandled: Unhandled,
    consumer_errors: Family<ConsumerErrorLabels, Counter>,
}

impl Telemetry {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let seconds = Family::new_with_constructor;
        let mut this = Self {
            registry: Registry::with_prefix("roundtrip"),
            requests: Family::default(),
            request_seconds: seconds(Buckets),
            in_flight: Family::default(),
            parts: Family::default(),
            replies: Family::default(),
            forwards: Forwards::default(),
            connections: Gauge::default(),
            sessions: Family::default(),
            resumes: Family::default(),
            closes: Family::default(),
            limit_hits: Family::default(),
            http_refusals: HttpRefusals::default(),
            origins_refused: Counter::default(),
            frames_abandoned: Family::default(),
            records_skipped: Family::default(),
            registry_seconds: Family::new_with_constructor(Buckets),
            registry_unreadable: Family::default(),
            consumer_lag: Family::default(),
            unhandled: Unhandled::default(),
            consumer_errors: Family::default(),
        };
        this.register();
        this.begin();
        this
    }

    /// Replies were sent to a peer, or were not.
    pub fn forwarded(&self, peer: &str, result: &'static str, count: u64) {
        self.forwards.count(peer, result, count, Instant::now());
    }

    /// Tells which peers there are now. The series of others are dropped after a while.
    pub fn set_peers<'p>(&self, peers: impl Iterator<Item = &'p str>) {
        self.forwards.keep(peers, Instant::now());
    }

    /// A client came back.
    pub fn resumed(&self, resume: Resume) {
        self.resumes.get_or_create(&ResultLabels { result: resume.as_str() }).inc();
    }

    /// How many sessions there are.
    pub fn set_sessions(&self, attached: usize, detached: usize) {
        for (state, count) in [("attached", attached), ("detached", detached)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.sessions.get_or_create(&StateLabels { state }).set(count);
        }
    }

    /// A limit was hit; `limit` is the last part of its option's name.
    pub fn limit_hit(&self, limit: &'static str) {
        debug_assert!(LIMITS.contains(&limit), "{limit} is not in labels::LIMITS");
        self.limit_hits.get_or_create(&LimitLabels { limit }).inc();
    }

    /// A web page was turned away.
    pub fn origin_refused(&self) {
        self.origins_refused.inc();
    }

    /// So many more entries of the registry could not be read.
    pub fn registry_unreadable(&self, kind: EntryKind, count: u64) {
        let entry = kind.as_str();
        self.registry_unreadable.get_or_create(&EntryLabels { entry }).inc_by(count);
    }

    /// An answer was given up.
    pub fn frames_abandoned(&self, reason: &'static str, count: u64) {
        debug_assert!(
            FRAMES_ABANDONED.contains(&reason),
            "{reason} is not in labels::FRAMES_ABANDONED"
        );
        if count > 0 {
            self.frames_abandoned.get_or_create(&ReasonLabels { reason }).inc_by(count);
        }
    }

    /// A record of the reply topic was no reply.
    pub fn record_skipped(&self, reason: &'static str) {
        debug_assert!(
            RECORDS_SKIPPED.contains(&reason),
            "{reason} is not in labels::RECORDS_SKIPPED"
        );
        self.records_skipped.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// This node closed a connection.
    pub fn closed(&self, code: u16) {
        self.closes.get_or_create(&CloseLabels { code }).inc();
    }

    /// A registry call took this long.
    pub fn registry_call(&self, operation: &'static str, took: Duration) {
        debug_assert!(OPERATIONS.contains(&operation), "{operation} is not in labels::OPERATIONS");
        let labels = OperationLabels { operation };
        self.registry_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Replaces what is known of the lag: on each topic, in each partition, so many records.
    pub fn set_lag<'t>(&self, lag: impl IntoIterator<Item = (&'t str, i32, i64)>) {
        self.consumer_lag.clear();
        for (topic, partition, records) in lag {
            let labels = PartitionLabels { topic: topic.to_owned(), partition };
            self.consumer_lag.get_or_create(&labels).set(records);
        }
    }

    /// A partition is read from now on.
    pub fn reads(&self, topic: &str, partition: i32) {
        for reason in CONSUMER_ERRORS {
            let labels = ConsumerErrorLabels { topic: topic.to_owned(), partition, reason };
            drop(self.consumer_errors.get_or_create(&labels));
        }
    }

    /// A batch of records cannot be read.
    pub fn consumer_error(&self, topic: &str, partition: i32, reason: &'static str) {
        debug_assert!(
            CONSUMER_ERRORS.contains(&reason),
            "{reason} is not in labels::CONSUMER_ERRORS"
        );
        let labels = ConsumerErrorLabels { topic: topic.to_owned(), partition, reason };
        self.consumer_errors.get_or_create(&labels).inc();
    }

    /// All metrics in the OpenMetrics text format, which Prometheus reads.
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        if let Err(error) = text::encode(&mut out, &self.registry) {
            // Writing to a String cannot fail; a broken metric must not break the others.
            tracing::error!(%error, "metrics could not be rendered");
            write!(out, "# EOF").expect("writing to a String cannot fail");
        }
        out
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ErrorCode, Failure};

    #[test]
    fn names_are_those_of_the_contract() {
        let telemetry = Telemetry::new();
        let echo = telemetry.service("echo");
        echo.ended(Edge::Ws, Ok(()));
        echo.ended(Edge::Rest, Err(&Failure::new(ErrorCode::Timeout, "")));
        echo.total.observe(0.1);
        echo.replied(ReplyPath::Forwarded);
        telemetry.forwarded("gw-2", "delivered", 2);
        telemetry.limit_hit("in_flight_max");
        telemetry.registry_call("put_routes", Duration::from_millis(1));
        telemetry.set_lag([("replies", 3, 7)]);
        telemetry.connections.inc();
        let text = telemetry.render();
        for line in [
            r#"roundtrip_requests_total{service="echo",edge="ws",outcome="ok"} 1"#,
            r#"roundtrip_requests_total{service="echo",edge="rest",outcome="timeout"} 1"#,
            r#"roundtrip_request_seconds_count{service="echo",stage="total"} 1"#,
            r#"roundtrip_in_flight{service="echo"} 0"#,
            r#"roundtrip_replies_total{service="echo",way="forwarded"} 1"#,
            r#"roundtrip_forwards_total{peer="gw-2",result="delivered"} 2"#,
            r#"roundtrip_limit_hits_total{limit="in_flight_max"} 1"#,
            r#"roundtrip_registry_seconds_count{operation="put_routes"} 1"#,
            r#"roundtrip_consumer_lag{topic="replies",partition="3"} 7"#,
            "roundtrip_connections 1",
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
        let count = |prefix| text.lines().filter(|line| line.starts_with(prefix)).count();
        assert_eq!(count("# HELP"), count("# TYPE"), "each metric has a help");
    }
}
