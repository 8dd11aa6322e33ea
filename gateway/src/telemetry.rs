//! What an operator sees: every metric with its name, unit and help, and how logs look.
//!
//! Owns the names. Hot paths hold a [`ServiceMetrics`], whose handles need no look-up.

use std::{fmt::Write, time::Duration};

use prometheus_client::{
    encoding::text,
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use self::labels::{
    CloseLabels, ForwardLabels, LimitLabels, OperationLabels, PartitionLabels, ReasonLabels,
    ReplyLabels, RequestLabels, ResultLabels, ServiceLabels, StageLabels, StateLabels,
};
use crate::{
    config::LogFormat,
    error::{ErrorCode, Failure},
};

mod labels;
mod unhandled;

pub use unhandled::{Unhandled, UnhandledGauge};

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

/// How a reply found its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Read by the node that waits for it, because its id was chosen so.
    Affinity,
    /// Read by the node that waits for it, by chance.
    Local,
    /// Read by another node, and forwarded to this one.
    Forwarded,
    /// Put into the mailbox of a session whose node is dead.
    Parked,
    /// Nobody waits for it (any more).
    Unrouted,
}

/// What came of a client's wish to resume its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// It goes on, on the node that held it.
    Here,
    /// It goes on, handed over by the node that held it.
    Released,
    /// It goes on from its copy in the registry.
    Copied,
    /// It is known, and something of it is missing.
    Incomplete,
    /// It is not known, or the token is no good.
    Refused,
}

/// The label values of [`Way`], in its order.
const WAYS: [&str; 5] = ["affinity", "local", "forwarded", "parked", "unrouted"];

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
    replies: Family<ReplyLabels, Counter>,
    forwards: Family<ForwardLabels, Counter>,
    /// Open WebSocket connections.
    pub connections: Gauge,
    sessions: Family<StateLabels, Gauge>,
    resumes: Family<ResultLabels, Counter>,
    closes: Family<CloseLabels, Counter>,
    limit_hits: Family<LimitLabels, Counter>,
    frames_abandoned: Family<ReasonLabels, Counter>,
    records_skipped: Family<ReasonLabels, Counter>,
    registry_seconds: Seconds<OperationLabels>,
    consumer_lag: Family<PartitionLabels, Gauge>,
    /// Replies that are read and not handled.
    pub unhandled: Unhandled,
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
            replies: Family::default(),
            forwards: Family::default(),
            connections: Gauge::default(),
            sessions: Family::default(),
            resumes: Family::default(),
            closes: Family::default(),
            limit_hits: Family::default(),
            frames_abandoned: Family::default(),
            records_skipped: Family::default(),
            registry_seconds: Family::new_with_constructor(Buckets),
            consumer_lag: Family::default(),
            unhandled: Unhandled::default(),
        };
        this.register_requests();
        this.register_cluster();
        this
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
        registry.register(
            "replies",
            "Reply records by the way they took: affinity, local, forwarded, parked, unrouted",
            self.replies.clone(),
        );
        registry.register(
            "limit_hits",
            "Times a limit was hit, by the last part of its option's name",
            self.limit_hits.clone(),
        );
        registry.register(
            "frames_abandoned",
            "Answers that were given up, by reason",
            self.frames_abandoned.clone(),
        );
        registry.register(
            "records_skipped",
            "Records of the reply topic that are no reply, by reason",
            self.records_skipped.clone(),
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
            self.forwards.clone(),
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
    }

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
            replies: WAYS.map(replies),
        }
    }

    /// A reply was sent to a peer, or was not.
    pub fn forwarded(&self, peer: &str, result: &'static str, count: u64) {
        if count > 0 {
            let labels = ForwardLabels { peer: peer.to_owned(), result };
            self.forwards.get_or_create(&labels).inc_by(count);
        }
    }

    /// A client came back.
    pub fn resumed(&self, resume: Resume) {
        let result = match resume {
            Resume::Here => "here",
            Resume::Released => "released",
            Resume::Copied => "copied",
            Resume::Incomplete => "incomplete",
            Resume::Refused => "refused",
        };
        self.resumes.get_or_create(&ResultLabels { result }).inc();
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
        self.limit_hits.get_or_create(&LimitLabels { limit }).inc();
    }

    /// An answer was given up.
    pub fn frames_abandoned(&self, reason: &'static str, count: u64) {
        if count > 0 {
            self.frames_abandoned.get_or_create(&ReasonLabels { reason }).inc_by(count);
        }
    }

    /// A record of the reply topic was no reply.
    pub fn record_skipped(&self, reason: &'static str) {
        self.records_skipped.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// This node closed a connection.
    pub fn closed(&self, code: u16) {
        self.closes.get_or_create(&CloseLabels { code }).inc();
    }

    /// A registry call took this long.
    pub fn registry_call(&self, operation: &'static str, took: Duration) {
        let labels = OperationLabels { operation };
        self.registry_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Replaces what is known of the lag on a topic.
    pub fn set_lag(&self, topic: &str, lag: impl IntoIterator<Item = (i32, i64)>) {
        self.consumer_lag.clear();
        for (partition, records) in lag {
            let labels = PartitionLabels { topic: topic.to_owned(), partition };
            self.consumer_lag.get_or_create(&labels).set(records);
        }
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
    replies: [Counter; WAYS.len()],
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

    /// A reply record came, this way.
    pub fn replied(&self, way: Way) {
        self.replies[way as usize].inc();
    }
}

/// Sends logs to standard error, as lines of text or of JSON; `RUST_LOG` sets the filter. Standard
/// output stays free for what `main` prints. A second call has no effect.
pub fn init_logs(format: LogFormat) {
    let filter =
        EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).from_env_lossy();
    let layer = fmt::layer().with_writer(std::io::stderr);
    let subscriber = tracing_subscriber::registry().with(filter);
    let installed = match format {
        LogFormat::Text => subscriber.with(layer.with_ansi(false)).try_init(),
        LogFormat::Json => subscriber.with(layer.json().flatten_event(true)).try_init(),
    };
    drop(installed);
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

    #[test]
    fn names_are_those_of_the_contract() {
        let telemetry = Telemetry::new();
        let echo = telemetry.service("echo");
        echo.ended(Edge::Ws, Ok(()));
        echo.ended(Edge::Rest, Err(&Failure::new(ErrorCode::Timeout, "")));
        echo.total.observe(0.1);
        echo.replied(Way::Forwarded);
        telemetry.forwarded("gw-2", "delivered", 2);
        telemetry.limit_hit("in_flight_max");
        telemetry.registry_call("put_routes", Duration::from_millis(1));
        telemetry.set_lag("replies", [(3, 7)]);
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
