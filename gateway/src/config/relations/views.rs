//! What views must be to services, and their topics to the other topics.

use crate::config::{
    Config, RespondOnConfig,
    findings::Findings,
    keys::{KeyPath, quoted},
    options::RESPOND_ON,
};

/// The topics of all views.
pub(super) fn topics(config: &Config) -> impl Iterator<Item = (KeyPath, &String)> {
    let path = |name: &str| KeyPath::from(["views", name, "topic"]);
    config.views.iter().map(move |(name, view)| (path(name), &view.topic))
}

/// Records every mismatch.
pub(super) fn check(config: &Config, findings: &mut Findings) {
    for (path, topic) in topics(config) {
        if *topic == config.kafka.reply_topic {
            findings.add_mismatch(
                &[path, KeyPath::from(["kafka", "reply_topic"])],
                "must not be kafka.reply_topic: replies are no events".to_owned(),
            );
        }
    }
    for (name, service) in &config.services {
        let Some(RespondOnConfig { view, key, until }) = &service.respond_on else { continue };
        let path = |option: &str| KeyPath::from(["services", name, "respond_on", option]);
        for (option, is_there) in
            RESPOND_ON.into_iter().zip([!view.is_empty(), !key.is_empty(), !until.is_empty()])
        {
            if !is_there {
                let reason = "respond_on needs view, key and until".to_owned();
                findings.add_mismatch(&[path(option)], reason);
            }
        }
        if !view.is_empty() && !config.views.contains_key(view) {
            let reason = format!("there is no [views.{view}]; {} is no view", quoted(view));
            findings.add_mismatch(&[path("view")], reason);
        }
    }
}
