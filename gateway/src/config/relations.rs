//! What options must be to each other. Owns the checks that need more than one of them.

use super::{
    Config,
    reader::Findings,
    tree::KeyPath,
    units::{format_duration, format_size},
};

/// Bytes a frame may need beside its payload: ids, key, headers, and the names of its fields.
const ENVELOPE_BYTES_MAX: usize = 16 << 10;

/// Records every mismatch. An option that has a problem of its own is left out.
pub(super) fn check(config: &Config, findings: &mut Findings) {
    check_listeners(config, findings);
    check_session(config, findings);
    check_limits(config, findings);
    if config.services.is_empty() {
        findings.add_mismatch(
            &[KeyPath::from(["services"])],
            "at least one service is required, as in [services.orders]".to_owned(),
        );
    }
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

fn check_listeners(config: &Config, findings: &mut Findings) {
    let (public, internal) = (config.public.listen, config.internal.listen);
    let internal_listen = KeyPath::from(["internal", "listen"]);
    let overlaps = public.ip() == internal.ip()
        || public.is_ipv4() == internal.is_ipv4()
            && (public.ip().is_unspecified() || internal.ip().is_unspecified());
    if public.port() != 0 && public.port() == internal.port() && overlaps {
        findings.add_mismatch(
            &[internal_listen.clone(), KeyPath::from(["public", "listen"])],
            format!("public.listen and internal.listen are both {public}"),
        );
    }
    let is_alone = config.registry.url.expose() == "memory:";
    if internal.ip().is_unspecified() && config.internal.advertise.is_none() && !is_alone {
        let advertise = KeyPath::from(["internal", "advertise"]);
        let reason = format!(
            "internal.listen is {internal}, which no other node can call: set \
             internal.advertise, as in \"http://10.0.0.5:{}\"",
            internal.port()
        );
        findings.add_mismatch(&[internal_listen, advertise], reason);
    }
}

fn check_session(config: &Config, findings: &mut Findings) {
    let session = &config.session;
    if session.pong_timeout > session.ping_interval {
        let path = |key| KeyPath::from(["session", key]);
        let reason = format!(
            "session.pong_timeout must not be over session.ping_interval: {} against {}",
            format_duration(session.pong_timeout),
            format_duration(session.ping_interval)
        );
        findings.add_mismatch(&[path("pong_timeout"), path("ping_interval")], reason);
    }
}

fn check_limits(config: &Config, findings: &mut Findings) {
    let limits = &config.limits;
    let base64_bytes = limits.message_bytes_max.div_ceil(3).saturating_mul(4);
    let needed = base64_bytes.saturating_add(ENVELOPE_BYTES_MAX);
    if limits.frame_bytes_max < needed {
        let path = |key| KeyPath::from(["limits", key]);
        let reason = format!(
            "limits.frame_bytes_max must be at least {} for limits.message_bytes_max = {} (4/3 of \
             it and 16KiB), is {}",
            format_size(needed as u64),
            format_size(limits.message_bytes_max as u64),
            format_size(limits.frame_bytes_max as u64)
        );
        findings.add_mismatch(&[path("frame_bytes_max"), path("message_bytes_max")], reason);
    }
}
