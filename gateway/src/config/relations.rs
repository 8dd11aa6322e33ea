//! What options must be to each other. Owns the checks that need more than one of them.

use super::{
    Config,
    reader::Findings,
    tree::KeyPath,
    units::{format_duration, format_size},
};

/// Records every mismatch. An option that has a problem of its own is left out.
pub(super) fn check(config: &Config, findings: &mut Findings) {
    check_listeners(config, findings);
    check_limits(config, findings);
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
