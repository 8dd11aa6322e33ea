//! The rules between options, and which options have no effect because of others. Owns the checks
//! that need more than one option.

use std::collections::BTreeMap;

use super::{
    Config, InternalConfig, ServiceConfig,
    findings::Findings,
    keys::{KeyPath, quoted},
    options::GONE_WITHIN_DEFAULT,
    units::{format_duration, format_size},
};

mod views;

/// Characters of `internal.secret`, at least, where it can be tried from other machines.
const REMOTE_SECRET_MIN: usize = 32;
/// librdkafka's limit of a record, and its default.
const RECORD_BYTES_PROPERTY: &str = "message.max.bytes";
const RECORD_BYTES_DEFAULT: usize = 1_000_000;

/// Records every mismatch. An option that has a problem of its own is left out.
pub(super) fn check(config: &Config, findings: &mut Findings) {
    check_listeners(config, findings);
    check_secret(config, findings);
    check_limits(config, findings);
    check_topics(config, findings);
    check_dead_letters(config, findings);
    check_deletable(config, findings);
    views::check(config, findings);
    for (name, service) in &config.services {
        let path = |key| KeyPath::from(["services", name, key]);
        if service.timeout > service.timeout_max {
            let reason = format!(
                "timeout must not be over timeout_max: {} against {}",
                format_duration(service.timeout),
                format_duration(service.timeout_max)
            );
            findings.add_mismatch(&[path("timeout"), path("timeout_max")], reason);
        }
        if service.request_topic == config.kafka.reply_topic {
            findings.add_mismatch(
                &[path("request_topic"), KeyPath::from(["kafka", "reply_topic"])],
                "must not be kafka.reply_topic: a request would be read as a reply".to_owned(),
            );
        }
    }
}

/// Readers take all keys of a topic for wire keys, or none, and the topic has one configuration.
fn check_deletable(config: &Config, findings: &mut Findings) {
    let mut first = BTreeMap::<&str, (&str, &ServiceConfig)>::new();
    for (name, service) in &config.services {
        let (former, other) = first.entry(&service.request_topic).or_insert((name, service));
        let path = |service, key| KeyPath::from(["services", service, key]);
        if service.deletable != other.deletable {
            let reason = format!(
                "must be {} as for services.{former}, which has the same topic",
                other.deletable
            );
            let paths = [path(name.as_str(), "deletable"), path(former, "deletable")];
            findings.add_mismatch(&paths, reason);
        } else if service.deletable && service.gone_within != other.gone_within {
            let reason = format!(
                "must be {} as for services.{former}, which has the same topic",
                format_duration(other.gone_within)
            );
            let paths = [path(name.as_str(), "gone_within"), path(former, "gone_within")];
            findings.add_mismatch(&paths, reason);
        }
    }
}

/// Kafka names its metrics after topics, with `_` for each `.`, and creates no topic whose metrics
/// would have the name of another one's.
fn check_topics(config: &Config, findings: &mut Findings) {
    let reply = (KeyPath::from(["kafka", "reply_topic"]), &config.kafka.reply_topic);
    let requests = config.services.iter().map(|(name, service)| {
        (KeyPath::from(["services", name, "request_topic"]), &service.request_topic)
    });
    let mut first = BTreeMap::<String, (KeyPath, &String)>::new();
    let others = dead_letter_topics(config).chain(views::topics(config));
    for (path, topic) in std::iter::once(reply).chain(requests).chain(others) {
        let (former, other) =
            first.entry(topic.replace('.', "_")).or_insert_with(|| (path.clone(), topic));
        if *other != topic {
            let reason = format!(
                "{} and {}, which {former} is, are one name to Kafka, which takes . and _ for the \
                 same: it refuses to create the second",
                quoted(topic),
                quoted(other)
            );
            findings.add_mismatch(&[path, former.clone()], reason);
        }
    }
}

fn dead_letter_topics(config: &Config) -> impl Iterator<Item = (KeyPath, &String)> {
    config.services.iter().filter_map(|(name, service)| {
        let topic = service.dead_letter_topic.as_ref()?;
        Some((KeyPath::from(["services", name, "dead_letter_topic"]), topic))
    })
}

/// A dead letter ends its request, so no request and no reply may be read as one.
fn check_dead_letters(config: &Config, findings: &mut Findings) {
    for (path, topic) in dead_letter_topics(config) {
        if *topic == config.kafka.reply_topic {
            findings.add_mismatch(
                &[path.clone(), KeyPath::from(["kafka", "reply_topic"])],
                "must not be kafka.reply_topic: a reply would be read as a dead letter".to_owned(),
            );
        }
        let asked = config.services.iter().find(|(_, service)| service.request_topic == *topic);
        if let Some((name, _)) = asked {
            let requests = KeyPath::from(["services", name, "request_topic"]);
            let reason =
                format!("must not be {requests}: each request would be read as a dead letter");
            findings.add_mismatch(&[path, requests], reason);
        }
    }
}

fn check_listeners(config: &Config, findings: &mut Findings) {
    let (public, internal) = (config.public.listen, config.internal.listen);
    let overlaps = public.ip() == internal.ip()
        || public.is_ipv4() == internal.is_ipv4()
            && (public.ip().is_unspecified() || internal.ip().is_unspecified());
    if public.port() != 0 && public.port() == internal.port() && overlaps {
        findings.add_mismatch(
            &[KeyPath::from(["internal", "listen"]), KeyPath::from(["public", "listen"])],
            format!("public.listen and internal.listen overlap: {public} and {internal}"),
        );
    }
}

/// From other machines, anybody who reaches a listener may try one secret after the other.
fn check_secret(config: &Config, findings: &mut Findings) {
    let InternalConfig { listen, secret, .. } = &config.internal;
    let length = secret.expose().len();
    if !listen.ip().is_loopback() && length < REMOTE_SECRET_MIN {
        let path = |key| KeyPath::from(["internal", key]);
        let reason = format!(
            "must be at least {REMOTE_SECRET_MIN} characters where internal.listen, {listen}, is no \
             loopback address, is {length}; openssl rand -hex 32 makes one"
        );
        findings.add_mismatch(&[path("secret"), path("listen")], reason);
    }
}

/// Records what is set, is right by itself, and has no effect beside other options.
pub(super) fn find_unused(config: &Config, findings: &mut Findings) {
    if config.registry.url.expose() == "memory:" {
        let reason = "nothing is stored outside of the process with registry.url = \"memory:\"";
        findings.add_unused(&KeyPath::from(["registry", "prefix"]), reason);
        let reason = "a node with registry.url = \"memory:\" has no peers";
        findings.add_unused(&KeyPath::from(["internal", "advertise"]), reason);
    }
    for (name, service) in &config.services {
        if !service.deletable && service.gone_within != GONE_WITHIN_DEFAULT {
            let reason = "nothing of this service can be deleted: deletable is false";
            findings.add_unused(&KeyPath::from(["services", name, "gone_within"]), reason);
        }
    }
    let origins = config.public.allowed_origins.as_deref().unwrap_or_default();
    if origins.len() > 1 && origins.iter().any(|origin| origin == "*") {
        let reason = "of the list only \"*\" has: it allows every origin";
        findings.add_unused(&KeyPath::from(["public", "allowed_origins"]), reason);
    }
    let limits = &config.limits;
    if limits.in_flight_per_connection_max > limits.in_flight_max {
        let reason = format!("limits.in_flight_max, {}, is lower", limits.in_flight_max);
        findings.add_unused(&KeyPath::from(["limits", "in_flight_per_connection_max"]), &reason);
    }
    let set = config.kafka.properties.get(RECORD_BYTES_PROPERTY);
    let record_bytes_max = set.map_or(Some(RECORD_BYTES_DEFAULT), |set| set.parse().ok());
    if let Some(max) = record_bytes_max.filter(|max| limits.message_bytes_max > *max) {
        let reason = format!(
            "the producer takes records of at most {max} bytes: set \
             kafka.properties.\"{RECORD_BYTES_PROPERTY}\" as well"
        );
        findings.add_unused(&KeyPath::from(["limits", "message_bytes_max"]), &reason);
    }
}

fn check_limits(config: &Config, findings: &mut Findings) {
    let limits = &config.limits;
    if limits.frame_bytes_max <= limits.message_bytes_max {
        let path = |key| KeyPath::from(["limits", key]);
        let reason = format!(
            "limits.frame_bytes_max must be over limits.message_bytes_max: {} against {}",
            format_size(limits.frame_bytes_max as u64),
            format_size(limits.message_bytes_max as u64)
        );
        findings.add_mismatch(&[path("frame_bytes_max"), path("message_bytes_max")], reason);
    }
}
