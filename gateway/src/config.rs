//! What an operator may set. Owns every option's name, default and check; the only file that reads
//! the environment.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use registry::NodeId;

/// A secret text, which no log and no `Debug` output ever shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Everything one node is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Unique name of the node in its cluster.
    pub node_id: NodeId,
    pub public: PublicConfig,
    pub internal: InternalConfig,
    pub kafka: KafkaConfig,
    pub registry: RegistryConfig,
    pub session: SessionConfig,
    pub limits: LimitsConfig,
    pub shutdown: ShutdownConfig,
    pub log: LogConfig,
    /// By service name.
    pub services: BTreeMap<String, ServiceConfig>,
}

/// The listener for clients.
#[derive(Clone, Debug)]
pub struct PublicConfig {
    pub listen: SocketAddr,
    /// `None`: only callers without an `Origin`, or with one equal to the `Host`.
    pub allowed_origins: Option<Vec<String>>,
}

/// The listener for peers and operators.
#[derive(Clone, Debug)]
pub struct InternalConfig {
    pub listen: SocketAddr,
    /// `None`: derived from the bound address.
    pub advertise: Option<String>,
    pub secret: Secret,
}

#[derive(Clone, Debug)]
pub struct KafkaConfig {
    pub bootstrap_servers: String,
    pub reply_topic: String,
    pub group_id: String,
    /// What `topics` creates.
    pub reply_partitions: i32,
    /// `None`: the broker's default.
    pub replication_factor: Option<i32>,
    /// Handed to librdkafka as they are, over our own settings.
    pub properties: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// May hold a password: shown redacted.
    pub url: Secret,
    pub prefix: String,
}

#[derive(Clone, Debug)]
pub struct SessionConfig {
    pub ping_interval: Duration,
    pub pong_timeout: Duration,
    pub outbox_bytes_max: usize,
}

#[derive(Clone, Debug)]
pub struct LimitsConfig {
    pub message_bytes_max: usize,
    pub frame_bytes_max: usize,
    /// 0: off.
    pub requests_per_second_max: u32,
    pub in_flight_per_connection_max: usize,
    pub in_flight_max: usize,
    pub connections_max: usize,
}

#[derive(Clone, Debug)]
pub struct ShutdownConfig {
    pub grace: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug)]
pub struct LogConfig {
    pub format: LogFormat,
}

/// What a service understands beside our own headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Plain,
    Spring,
    SpringBinary,
    Nest,
}

#[derive(Clone, Debug)]
pub struct ServiceConfig {
    pub request_topic: String,
    pub timeout: Duration,
    pub timeout_max: Duration,
    pub dialect: Dialect,
    /// Lower case; the client's headers that are handed to the service, and the service's that are
    /// handed to the client.
    pub allowed_headers: Vec<String>,
}
