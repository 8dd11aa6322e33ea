//! Every option, declared once: name, kind, default, meaning. Owns nothing else; what two options
//! must be to each other is in `relations`.

use std::time::Duration;

use registry::NodeId;

use super::{
    Config, LogConfig, LogFormat, RegistryConfig, Secret, ShutdownConfig, checks,
    findings::Findings,
    keys::KeyPath,
    kinds::{Count, Hidden, Parsed, Period, Text, Word},
    places,
    reader::{Preset, Section},
    tree::Table,
};

mod kafka;
mod limits;
mod listeners;
mod rest;
mod service;

use kafka::kafka;
use limits::{limits, session};
use listeners::{internal, public};
use rest::rest;
pub(super) use service::{GONE_WITHIN_DEFAULT, RESPOND_ON};
use service::{service, view};

/// Milliseconds.
const HOUR: u64 = 60 * 60 * 1_000;

/// Reads the configuration. Where there are problems the values are stand-ins.
pub(super) fn read(findings: &mut Findings, tree: Table, host_name: Option<NodeId>) -> Config {
    Section::root(findings, tree, |root| all(root, host_name))
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
        rest: root.section(
            "rest",
            "HTTP calls that are answered at once, and whose responses wait for their callers.",
            rest,
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
        views: root.each(
            "views",
            "One table for each view: the latest event of each key of a topic. `<name>` is what \
             clients say, in the form of a service's.",
            checks::service_name,
            view,
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

fn registry(section: &mut Section<'_>) -> RegistryConfig {
    let local = Secret::new("redis://127.0.0.1:6379");
    RegistryConfig {
        url: section.defaulted(
            "url",
            &Hidden { name: "URL", check: places::registry_url, is_url: true },
            local,
            "`redis://`, `rediss://` (TLS), `redis+cluster://`, `redis+sentinel://`, or `memory:` \
             for a single node that needs no Redis: two nodes with `memory:` know nothing of each \
             other. A password in it is never shown. After `redis://` and `rediss://` hosts, `/1` names the \
             database 1; after those of sentinels, `/main/1` the master `main` and its database.",
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
             logged; what libraries print of frames and headers never is, as tokens are in it.",
        ),
    }
}
