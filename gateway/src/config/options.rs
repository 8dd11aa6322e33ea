//! Every option, declared once: name, kind, default, meaning. Owns nothing else; what two options
//! must be to each other is in `relations`.

use std::{net::SocketAddr, time::Duration};

use registry::NodeId;

use super::{
    Config, Dialect, InternalConfig, IsolationLevel, KafkaConfig, LimitsConfig, LogConfig,
    LogFormat, PublicConfig, RegistryConfig, Secret, ServiceConfig, SessionConfig, ShutdownConfig,
    checks,
    kinds::{Count, Hidden, LISTEN, List, Parsed, Period, Size, Text, Word},
    reader::{Findings, Preset, Section},
    tree::{KeyPath, Table},
};

const SECOND: u64 = 1_000;
const HOUR: u64 = 60 * 60 * SECOND;
const DAY: u64 = 24 * HOUR;
const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;

/// Reads the configuration. Where there are problems the values are stand-ins.
pub(super) fn read(findings: &mut Findings, tree: Table, host_name: Option<NodeId>) -> Config {
    Section::root(findings, tree, |root| {
        root.accept_unused(&["rest"]);
        all(root, host_name)
    })
}

/// The names of the options that every service has.
pub(super) fn of_a_service() -> Vec<String> {
    let mut findings = Findings::for_reference();
    read(&mut findings, Table::new(), None);
    let of_services = |path: &KeyPath| match path.0.as_slice() {
        [table, _, option] if table == "services" => Some(option.clone()),
        _ => None,
    };
    findings.declared.iter().filter_map(|option| of_services(&option.path)).collect()
}

fn all(root: &mut Section<'_>, host_name: Option<NodeId>) -> Config {
    Config {
        unused: Vec::new(),
        node_id: node_id(root, host_name),
        public: root.section("public", "The listener for clients.", public),
        internal: root.section(
            "internal",
            "The listener for other nodes, metrics and probes. Keep it off the internet.",
            internal,
        ),
        kafka: root.section("kafka", "The broker and our topics.", kafka),
        registry: root.section(
            "registry",
            "The table that all nodes share: who holds which request, and which nodes are alive.",
            registry,
        ),
        session: root.section("session", "One client, across its connections.", session),
        limits: root.section(
            "limits",
            "What one node takes on. What is over a limit is counted by \
             `roundtrip_limit_hits_total{limit=\"<key>\"}`, and the client is told the limit's \
             name.",
            limits,
        ),
        shutdown: root.section("shutdown", "What happens on SIGTERM.", shutdown),
        log: root.section("log", "The log.", log),
        services: root.each(
            "services",
            "One table for each backend service that clients may call. `<name>` is what \
             clients say: 1 to 64 characters out of `A-Z a-z 0-9 . _ -`.",
            checks::service_name,
            service,
        ),
    }
}

fn node_id(root: &mut Section<'_>, host_name: Option<NodeId>) -> NodeId {
    let kind = Parsed { name: "string", parse: checks::node_id };
    let help = "Name of the node, unique in its cluster: 1 to 64 characters out of \
                `A-Z a-z 0-9 . _ -`.";
    let found = root.option("node_id", &kind, Preset::Found(host_name, "the host name"), help);
    found.unwrap_or_else(|| {
        root.add_missing("node_id", "the host has no name that a node may have");
        NodeId::parse("unnamed").expect("a node's name")
    })
}

fn public(section: &mut Section<'_>) -> PublicConfig {
    PublicConfig {
        listen: section.defaulted(
            "listen",
            &LISTEN,
            SocketAddr::from(([127, 0, 0, 1], 8080)),
            "Address to listen on: an IP address or `localhost`, and a port. Port 0: any free \
             port, which the log names.",
        ),
        allowed_origins: section.option(
            "allowed_origins",
            &List(Text { name: "`scheme://host[:port]` or `*`", check: checks::origin }),
            Preset::Absent("none"),
            "Web pages that may connect, by their origin. A caller without an `Origin` header and \
             one whose origin is the `Host` may always; any other is refused with HTTP 403. `*` \
             allows every page there is.",
        ),
        loopback_origins: false,
    }
}

fn internal(section: &mut Section<'_>) -> InternalConfig {
    InternalConfig {
        listen: section.defaulted(
            "listen",
            &LISTEN,
            SocketAddr::from(([127, 0, 0, 1], 9080)),
            "Address to listen on, as `public.listen`.",
        ),
        advertise: section.option(
            "advertise",
            &Text { name: "URL, `http://host:port`", check: checks::advertise },
            Preset::Absent("the bound address, or the host name"),
            "Where the other nodes reach this one. With port 0: the bound port. Where it is not \
             set and `internal.listen` is a wildcard such as 0.0.0.0, the others are told the \
             host's name, which they must be able to resolve.",
        ),
        secret: section.required(
            "secret",
            &Hidden {
                name: "string, 16 to 1024 characters",
                check: checks::shared_secret,
                is_url: false,
            },
            "Shared by all nodes of the cluster; a call between nodes without it is answered with \
             HTTP 401. Visible ASCII without spaces; at least 32 characters where `internal.listen` \
             is no loopback address. Make it long and random, as `openssl rand -hex 32` does: \
             whoever guesses it may call the node as its peers do. Never shown.",
        ),
    }
}

fn kafka(section: &mut Section<'_>) -> KafkaConfig {
    section.accept_unused(&["push_topic"]);
    const TOPIC: Text = Text { name: "topic name", check: checks::topic };
    KafkaConfig {
        bootstrap_servers: section.required(
            "bootstrap_servers",
            &Text { name: "`host:port`, several with commas", check: checks::bootstrap_servers },
            "Brokers to begin with; the others are found through them.",
        ),
        reply_topic: section.defaulted(
            "reply_topic",
            &TOPIC,
            "roundtrip.replies".to_owned(),
            "Topic on which services answer. Read by all nodes, which share its partitions.",
        ),
        group_id: section.defaulted(
            "group_id",
            &Text { name: "string", check: checks::group_id },
            "roundtrip".to_owned(),
            "Consumer group of the cluster: the same on all its nodes, and no other cluster's.",
        ),
        isolation_level: section.defaulted(
            "isolation_level",
            &Word(&[
                ("read_committed", IsolationLevel::ReadCommitted),
                ("read_uncommitted", IsolationLevel::ReadUncommitted),
            ]),
            IsolationLevel::ReadCommitted,
            "Which replies of services that answer in transactions are read. `read_committed`: \
             those of committed transactions; while a transaction is open on a partition, all \
             later replies on it wait. `read_uncommitted`: all at once, those of transactions \
             that are aborted later as well.",
        ),
        reply_partitions: section.defaulted(
            "reply_partitions",
            &Count { min: 1, max: 10_000 },
            12,
            "How many partitions `roundtrip topics` gives the reply topic. A good number is four \
             times the nodes there will be. A topic that exists keeps what it has.",
        ),
        replication_factor: section.option(
            "replication_factor",
            &Count { min: 1, max: 32_767 },
            Preset::Absent("the broker's default"),
            "How many replicas `roundtrip topics` gives the topics it creates.",
        ),
        properties: section.properties(
            "properties",
            "Handed to librdkafka as they are, over our own settings; see its `CONFIGURATION.md`. \
             A dot needs no quotes here. Some are refused, see below. Not shown are values whose name has `password`, `secret`, \
             `token` or `key` in it.",
        ),
    }
}

fn registry(section: &mut Section<'_>) -> RegistryConfig {
    let local = Secret::new("redis://127.0.0.1:6379");
    RegistryConfig {
        url: section.defaulted(
            "url",
            &Hidden { name: "URL", check: checks::registry_url, is_url: true },
            local,
            "`redis://`, `rediss://` (TLS), `redis+cluster://`, `redis+sentinel://`, or `memory:` \
             for a single node that needs no Redis: two nodes with `memory:` know nothing of each \
             other. A password in it is never shown.",
        ),
        prefix: section.defaulted(
            "prefix",
            &Text { name: "string", check: checks::prefix },
            "rt:".to_owned(),
            "What all our keys in Redis begin with: the same on all nodes of a cluster, and no \
             other cluster's on the same Redis. 1 to 64 characters out of `A-Z a-z 0-9 . : _ -`.",
        ),
    }
}

fn session(section: &mut Section<'_>) -> SessionConfig {
    SessionConfig {
        ping_interval: section.defaulted(
            "ping_interval",
            &Period { ms_min: 100, ms_max: HOUR },
            Duration::from_secs(25),
            "Time between two WebSocket pings. Keep it under the idle time-out of every proxy on \
             the way.",
        ),
        pong_timeout: section.defaulted(
            "pong_timeout",
            &Period { ms_min: 100, ms_max: HOUR },
            Duration::from_secs(10),
            "How long a pong may take; later, the connection is closed with 4000.",
        ),
        outbox_bytes_max: section.defaulted(
            "outbox_bytes_max",
            &Size { bytes_max: 1024 * MIB },
            MIB as usize,
            "Bytes of frames that wait for a client that reads too slowly. Over it, the \
             connection is closed with 4001, counted by \
             `roundtrip_limit_hits_total{limit=\"outbox_bytes_max\"}`. One frame of any size \
             always fits an empty outbox.",
        ),
        resume_window: section.defaulted(
            "resume_window",
            &Period { ms_min: 100, ms_max: HOUR },
            Duration::from_secs(60),
            "How long a session lives without a connection: for as long its client may come back, \
             to any node, and gets all it has missed.",
        ),
        mailbox_bytes_max: section.defaulted(
            "mailbox_bytes_max",
            &Size { bytes_max: 1024 * MIB },
            MIB as usize,
            "Bytes of frames that a session may gather while it has no connection. Over it, the \
             session ends: its client is told `resumed:false` when it comes back.",
        ),
        mailbox_frames_max: section.defaulted(
            "mailbox_frames_max",
            &Count { min: 1, max: 1_000_000 },
            1000,
            "The same in frames.",
        ),
    }
}

fn limits(section: &mut Section<'_>) -> LimitsConfig {
    const MANY: Count<usize> = Count { min: 1, max: 10_000_000 };
    LimitsConfig {
        message_bytes_max: section.defaulted(
            "message_bytes_max",
            &Size { bytes_max: 256 * MIB },
            (900 * KIB) as usize,
            "Bytes of one request's payload. Over it, the request is answered with `too_large`; \
             the connection stays. The default fits a broker with default settings.",
        ),
        frame_bytes_max: section.defaulted(
            "frame_bytes_max",
            &Size { bytes_max: 512 * MIB },
            (2 * MIB) as usize,
            "Bytes of one WebSocket message, however it is fragmented. Over it, the connection is \
             closed with 1009. Must be over `message_bytes_max`. A payload of that size in base64 \
             takes 4/3 of it, and the rest of the message has to fit as well.",
        ),
        requests_per_second_max: section.defaulted(
            "requests_per_second_max",
            &Count { min: 0, max: 1_000_000 },
            0,
            "Requests per second of one connection, with a burst of twice as many. Over it, a \
             request is answered with `rate_limited` and `retry_after_ms`. 0: no limit.",
        ),
        in_flight_per_connection_max: section.defaulted(
            "in_flight_per_connection_max",
            &MANY,
            256,
            "Requests of one connection that wait for their reply. Over it, a request is answered \
             with `overloaded`.",
        ),
        in_flight_max: section.defaulted(
            "in_flight_max",
            &MANY,
            100_000,
            "Requests of the whole node that wait for their reply. Over it, a request is answered \
             with `overloaded`.",
        ),
        connections_max: section.defaulted(
            "connections_max",
            &MANY,
            100_000,
            "Connections of the node. Over it, a handshake is refused with HTTP 503 and \
             `Retry-After`.",
        ),
    }
}

fn shutdown(section: &mut Section<'_>) -> ShutdownConfig {
    ShutdownConfig {
        grace: section.defaulted(
            "grace",
            &Period { ms_min: 1, ms_max: HOUR },
            Duration::from_secs(30),
            "How long the node may take to drain; then it ends with what is still open. Keep it \
             under Kubernetes' `terminationGracePeriodSeconds`. A second signal ends it at once.",
        ),
        closes_per_second: section.defaulted(
            "closes_per_second",
            &Count { min: 1, max: 1_000_000 },
            1000,
            "How many connections a draining node closes per second, so that the other nodes do \
             not meet all of its clients at once. It closes faster where `grace` would not be \
             enough.",
        ),
    }
}

fn log(section: &mut Section<'_>) -> LogConfig {
    LogConfig {
        format: section.defaulted(
            "format",
            &Word(&[("text", LogFormat::Text), ("json", LogFormat::Json)]),
            LogFormat::Text,
            "Lines for people, or one JSON object a line. The variable `RUST_LOG` sets what is \
             logged.",
        ),
    }
}

fn service(section: &mut Section<'_>) -> ServiceConfig {
    section.accept_unused(&["stream_idle_timeout"]);
    const PERIOD: Period = Period { ms_min: 1, ms_max: DAY };
    ServiceConfig {
        request_topic: section.required(
            "request_topic",
            &Text { name: "topic name", check: checks::topic },
            "Topic on which the service reads requests. Services may share one; it is never the \
             reply topic.",
        ),
        timeout: section.defaulted(
            "timeout",
            &PERIOD,
            Duration::from_secs(5),
            "How long a request waits for its reply when the client does not say. Then it is \
             answered with `timeout`, counted by \
             `roundtrip_requests_total{outcome=\"timeout\"}`.",
        ),
        timeout_max: section.defaulted(
            "timeout_max",
            &PERIOD,
            Duration::from_secs(60),
            "The longest wait a client may ask for; more is cut to this. Not under `timeout`.",
        ),
        dialect: section.defaulted(
            "dialect",
            &Word(&[
                ("plain", Dialect::Plain),
                ("spring", Dialect::Spring),
                ("spring-binary", Dialect::SpringBinary),
                ("nest", Dialect::Nest),
            ]),
            Dialect::Plain,
            "Which framework's headers the service wants beside ours: none, Spring Kafka's \
             (`spring-binary`: with a correlation id of 16 raw bytes) or NestJS's.",
        ),
        allowed_headers: section.defaulted(
            "allowed_headers",
            &List(Text { name: "header name", check: checks::header }),
            Vec::new(),
            "Headers that pass between client and service, both ways; others are dropped. \
             `content-type` passes both ways without being listed, `traceparent` and `tracestate` \
             pass to the service. \
             Names are compared in lower case. \
             Refused are those beginning with `roundtrip-` or `kafka_`, and those that belong to \
             one connection, such as `content-length`.",
        ),
    }
}
