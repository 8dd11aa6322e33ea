//! The message bus on Apache Kafka, through librdkafka.
//!
//! Owns what every client of the cluster has in common: how it is configured, and where its log
//! goes. Each client keeps its own threads, so that a broker that hangs never holds up the caller.

use std::{collections::BTreeMap, fmt};

use rdkafka::{
    ClientConfig,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    types::RDKafkaConfRes,
};

pub mod admin;
pub mod bootstrap;
pub mod consumer;
pub mod dev_broker;
pub mod producer;

mod connection;
mod log;
mod observed;
mod offsets;
mod rebalance;
mod topic_id;
mod unreadable;

/// How the clients reach a cluster and what they are tuned for.
#[derive(Clone, Default)]
pub struct KafkaSettings {
    /// Comma-separated `host:port` list, `bootstrap.servers`.
    pub bootstrap_servers: String,
    /// `client.id`, seen in the broker's logs and quotas. Empty: librdkafka's default.
    pub client_id: String,
    /// Whether a consumer hands over what may yet be aborted; otherwise it waits for open
    /// transactions, and skips aborted ones.
    pub reads_uncommitted: bool,
    /// librdkafka properties, handed over as they are. They win over all of ours but the few that
    /// the guarantees of the traits rest on.
    pub properties: BTreeMap<String, String>,
    /// Which defaults to begin with.
    pub profile: Profile,
}

impl fmt::Debug for KafkaSettings {
    /// Names the properties without their values: passwords are among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("client_id", &self.client_id)
            .field("properties", &self.properties.keys())
            .field("profile", &self.profile)
            .finish()
    }
}

/// What the defaults are tuned for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// A real cluster, which answers a waiting fetch as soon as a record arrives.
    #[default]
    Production,
    /// The broker of [`dev_broker::DevBroker`]: it leaves waiting fetches asleep and rebalances a
    /// group only after the session time-out, so both are short.
    Dev,
}

/// A client could not be set up: a property is unknown or has a bad value.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot set up the kafka client: {}", without_value(.0))]
pub struct StartError(#[from] KafkaError);

/// What went wrong. A property's value may be a secret, and is in all that librdkafka says of it.
fn without_value(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, _, key, _) => {
            format!("librdkafka refuses kafka.properties.\"{key}\"")
        }
        other => other.to_string(),
    }
}

/// Properties of every client, for any profile.
const COMMON: &[(&str, &str)] = &[
    // Small requests must not wait for the acknowledgement of the one before.
    ("socket.nagle.disable", "true"),
    ("socket.keepalive.enable", "true"),
    // The default of a minute is how long a broker that hangs, or a network that swallows, would
    // go unnoticed.
    ("socket.timeout.ms", "10000"),
    // The default of ten seconds adds up to as much to every outage.
    ("reconnect.backoff.max.ms", "1000"),
    // How soon a new topic or a new partition is seen; the default is five minutes.
    ("topic.metadata.refresh.interval.ms", "5000"),
    // Else a producer that asks for a topic creates it, where brokers let it: with whatever number of
    // partitions, and again while somebody is about to create it anew.
    ("allow.auto.create.topics", "false"),
];

impl KafkaSettings {
    /// Defaults, then the user's properties, then what must hold.
    fn client_config(&self, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        // What the property `debug` asks for is logged at the lowest level.
        let is_debugging = self.properties.get("debug").is_some_and(|what| !what.is_empty());
        config.set_log_level(match is_debugging {
            true => RDKafkaLogLevel::Debug,
            false => RDKafkaLogLevel::Info,
        });
        for (key, value) in COMMON.iter().chain(defaults) {
            config.set(*key, *value);
        }
        if !self.client_id.is_empty() {
            config.set("client.id", &self.client_id);
        }
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        for (key, value) in fixed {
            config.set(*key, *value);
        }
        config.set("bootstrap.servers", &self.bootstrap_servers);
        config
    }
}

/// What librdkafka has against a property, if anything; the value, which may be secret, is not shown.
pub fn refusal_of_property(key: &str, value: &str) -> Option<String> {
    let mut config = ClientConfig::new();
    config.set(key, value);
    match config.create_native_config() {
        Ok(_) => None,
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
            Some("librdkafka has no such property".to_owned())
        }
        Err(_) => Some("librdkafka refuses the value".to_owned()),
    }
}

/// Whether the code says that a broker did not answer, or not in time.
fn is_connectivity(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::MessageTimedOut
            | RDKafkaErrorCode::NetworkException
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::Resolve
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_that_is_refused_is_told_without_its_value() {
        let properties = BTreeMap::from([("linger.ms".to_owned(), "hunter2".to_owned())]);
        let settings = KafkaSettings { properties, ..KafkaSettings::default() };
        let error = settings.client_config(&[], &[]).create_native_config().err().unwrap();
        let told = StartError(error).to_string();
        assert!(told.ends_with("librdkafka refuses kafka.properties.\"linger.ms\""), "{told}");
    }

    #[test]
    fn the_users_properties_win_except_over_what_must_hold() {
        let settings = KafkaSettings {
            bootstrap_servers: "a:1".to_owned(),
            properties: BTreeMap::from([
                ("socket.timeout.ms".to_owned(), "7000".to_owned()),
                ("bootstrap.servers".to_owned(), "b:2".to_owned()),
                ("acks".to_owned(), "1".to_owned()),
            ]),
            ..KafkaSettings::default()
        };
        let config = settings.client_config(&[("linger.ms", "0")], &[("acks", "all")]);
        assert_eq!(config.get("socket.timeout.ms"), Some("7000"));
        assert_eq!(config.get("bootstrap.servers"), Some("a:1"));
        assert_eq!(config.get("acks"), Some("all"));
        assert_eq!(config.get("linger.ms"), Some("0"));
        assert_eq!(config.get("client.id"), None);
    }

    #[test]
    fn what_debug_asks_for_is_logged() {
        let level = |properties: &[(&str, &str)]| {
            let owned =
                properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let settings =
                KafkaSettings { properties: owned.collect(), ..KafkaSettings::default() };
            settings.client_config(&[], &[]).log_level as i32
        };
        assert_eq!(level(&[]), RDKafkaLogLevel::Info as i32);
        assert_eq!(level(&[("debug", "")]), RDKafkaLogLevel::Info as i32);
        assert_eq!(level(&[("debug", "broker,metadata")]), RDKafkaLogLevel::Debug as i32);
    }

    #[test]
    fn property_values_are_not_printed() {
        let properties = BTreeMap::from([("sasl.password".to_owned(), "hunter2".to_owned())]);
        let settings = KafkaSettings { properties, ..KafkaSettings::default() };
        let printed = format!("{settings:?}");
        assert!(printed.contains("sasl.password") && !printed.contains("hunter2"), "{printed}");
    }
}
