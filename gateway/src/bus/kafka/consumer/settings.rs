//! What a consumer is configured with.

use rdkafka::ClientConfig;

use super::super::{KafkaSettings, Profile};

/// What a consumer begins with; see `CONFIGURATION.md` of librdkafka for the names.
const DEFAULTS: &[(&str, &str)] = &[
    // A record that is written between the assignment and the first look at the end of the
    // partition would be skipped with "latest".
    ("auto.offset.reset", "earliest"),
    ("auto.commit.interval.ms", "1000"),
    // A batch that is damaged would be handed over as it is, or be fetched for ever without a word.
    ("check.crcs", "true"),
    // Bounds what is fetched ahead; the default is 64 MiB.
    ("queued.max.messages.kbytes", "16384"),
    // How soon a partition that was fetched ahead to that bound is fetched again; the default of a
    // second would stall a consumer that has long caught up.
    ("fetch.queue.backoff.ms", "20"),
];

/// Of the classic group protocol alone. With `group.protocol=consumer` (KIP-848) the broker
/// decides on them, and librdkafka refuses to be told.
const CLASSIC: &[(&str, &str)] = &[("partition.assignment.strategy", "cooperative-sticky")];

/// What the guarantees of [`crate::bus::Consumer`] rest on.
const FIXED: &[(&str, &str)] = &[
    // librdkafka commits what is stored: once a second, at close, and before a partition goes to
    // another member, which it holds back until the commit is through. Committing in the callback
    // as well would only block the runtime.
    ("enable.auto.commit", "true"),
    ("enable.auto.offset.store", "false"),
];

/// Whether the user has chosen the group protocol of KIP-848.
pub(super) fn is_next_generation(settings: &KafkaSettings) -> bool {
    let protocol = settings.properties.get("group.protocol");
    protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case("consumer"))
}

pub(super) fn config(settings: &KafkaSettings, group: &str) -> ClientConfig {
    // The classic protocol's time-outs: a dead member is missed after the first. The others learn of
    // every rebalance by a heartbeat, so a partition that moves is read by nobody for one or two.
    //
    // A member whose coordinator says nothing for that long gives up its id, and joins under another one.
    // Where the coordinator has only stood still, the former id is missed for as long once more. A
    // `group.instance.id` would spare that, but what the member has on its way under its former id then
    // fences it for good.
    let (tuned, timeouts): (&[_], [_; 2]) = match settings.profile {
        Profile::Production => (
            // A broker answers a waiting fetch as soon as there is a record.
            &[("fetch.wait.max.ms", "500"), ("statistics.interval.ms", "5000")],
            [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "200")],
        ),
        Profile::Dev => (
            &[("fetch.wait.max.ms", "5"), ("statistics.interval.ms", "1000")],
            [("session.timeout.ms", "4000"), ("heartbeat.interval.ms", "250")],
        ),
    };
    let mut defaults = [DEFAULTS, tuned].concat();
    if !is_next_generation(settings) {
        defaults.extend(CLASSIC.iter().chain(&timeouts));
    }
    let isolation = if settings.reads_uncommitted { "read_uncommitted" } else { "read_committed" };
    let own = [("group.id", group), ("isolation.level", isolation)];
    settings.client_config(&defaults, &[FIXED, &own].concat())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_classic_protocols_properties_are_left_out_of_the_next_generations() {
        let mut settings = KafkaSettings::default();
        assert_eq!(config(&settings, "g").get("session.timeout.ms"), Some("6000"));
        assert_eq!(config(&settings, "g").get("isolation.level"), Some("read_committed"));
        settings.properties = BTreeMap::from([("group.protocol".into(), "CONSUMER".into())]);
        let config = config(&settings, "g");
        for key in ["session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"]
        {
            assert_eq!(config.get(key), None, "{key}");
        }
        assert_eq!(config.get("group.id"), Some("g"));
    }
}
