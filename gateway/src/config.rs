//! What an operator may set. Owns every option's name, default and check; the only file that reads
//! the environment.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::Path, time::Duration};

use registry::NodeId;

mod checks;
mod effective;
mod environment;
mod findings;
mod keys;
mod kinds;
mod load;
mod log;
mod options;
mod places;
mod problems;
mod properties;
mod reader;
mod reference;
mod relations;
mod secret;
mod stored;
mod tree;
mod units;
mod unknown;
mod views;

#[cfg(test)]
mod tests;

use load::{File, kernel_host_name, read};
pub use log::{LogConfig, LogFormat};
pub use problems::{ConfigProblems, Problem, Source};
pub use secret::Secret;
pub use stored::RestConfig;
pub use views::{RespondOnConfig, ViewConfig};

/// Everything one node is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Unique name of the node in its cluster.
    pub node_id: NodeId,
    /// The listener for clients.
    pub public: PublicConfig,
    /// The listener for peers and operators.
    pub internal: InternalConfig,
    /// The broker and our topics.
    pub kafka: KafkaConfig,
    /// The table that all nodes share.
    pub registry: RegistryConfig,
    /// One client's connection.
    pub session: SessionConfig,
    /// What one node takes on.
    pub limits: LimitsConfig,
    /// Results that are kept for callers who come for them later.
    pub rest: RestConfig,
    /// What happens on SIGTERM.
    pub shutdown: ShutdownConfig,
    /// How the log is written.
    pub log: LogConfig,
    /// The backend services by name: 1 to 64 characters out of `A-Z a-z 0-9 . _ -`.
    pub services: BTreeMap<String, ServiceConfig>,
    /// The views by name. A name is as a service's.
    pub views: BTreeMap<String, ViewConfig>,
    /// Keys that were set and have no effect: accepted, and told of.
    pub unused: Vec<Unused>,
}

/// A key that was set and has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unused {
    /// The dotted path of the option.
    pub key: String,
    /// Why it has none.
    pub reason: String,
}

/// What is wrong with a property of librdkafka's, given its name and value, if anything; never shows
/// the value. Only who knows librdkafka can say.
pub type PropertyCheck = fn(&str, &str) -> Option<String>;

/// The listener for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicConfig {
    /// Where to listen; port 0 is any free one.
    pub listen: SocketAddr,
    /// `None`: only callers without an `Origin`, or with one equal to the `Host`. Otherwise these
    /// as well, in the form browsers send them: lower case, without the scheme's usual port. The
    /// entry `*` allows every origin.
    pub allowed_origins: Option<Vec<String>>,
    /// Whether pages of this machine may connect too, from any port. No option: dev mode alone has
    /// users who are known to sit at the machine.
    pub loopback_origins: bool,
}

/// The listener for peers and operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalConfig {
    /// Where to listen; port 0 is any free one.
    pub listen: SocketAddr,
    /// `http://host[:port]` without a final `/`, as peers reach this node. Port 0 stands for the
    /// bound port. `None`: derived from the bound address. See [`InternalConfig::advertised`].
    pub advertise: Option<String>,
    /// Shared by the nodes of a cluster: 16 to 1024 visible ASCII characters, at least 32 where
    /// `listen` is no loopback address.
    pub secret: Secret,
}

impl InternalConfig {
    /// Where peers reach the node that listens on `bound`: the configured URL, else that address.
    /// The host's name, or else `localhost`, stands in for a wildcard address.
    pub fn advertised(&self, bound: SocketAddr) -> String {
        match &self.advertise {
            Some(url) => match url.rsplit_once(':') {
                Some((host, port)) if port.parse() == Ok(0_u16) => {
                    format!("{host}:{}", bound.port())
                }
                _ => url.clone(),
            },
            None if bound.ip().is_unspecified() => {
                let host = kernel_host_name();
                let host = host.as_ref().map_or("localhost", NodeId::as_str);
                format!("http://{host}:{}", bound.port())
            }
            None => format!("http://{bound}"),
        }
    }
}

/// The broker and our topics. `Debug` shows the names of the properties alone: a value may be a
/// password.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// `host[:port]`, several separated by commas without white space.
    pub bootstrap_servers: String,
    /// Topic on which services answer.
    pub reply_topic: String,
    /// Consumer group of the cluster.
    pub group_id: String,
    /// Which replies of transactions are read.
    pub isolation_level: IsolationLevel,
    /// What `topics` creates: 1 to 10,000.
    pub reply_partitions: i32,
    /// What `topics` creates, at least 1. `None`: the broker's default.
    pub replication_factor: Option<i32>,
    /// Handed to librdkafka as they are, over our own settings. None of those on which the
    /// gateway's promises depend is among them.
    pub properties: BTreeMap<String, String>,
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConfig")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("reply_topic", &self.reply_topic)
            .field("group_id", &self.group_id)
            .field("isolation_level", &self.isolation_level)
            .field("reply_partitions", &self.reply_partitions)
            .field("replication_factor", &self.replication_factor)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .finish()
    }
}

/// Which records of transactions are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsolationLevel {
    /// Those of committed transactions, in their order: an open one holds back what follows it.
    ReadCommitted,
    /// All, at once.
    ReadUncommitted,
}

/// The table that all nodes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryConfig {
    /// `redis://…`, `rediss://…`, `redis+cluster://…`, `redis+sentinel://…` or `memory:`. May hold
    /// a password: see [`RegistryConfig::redacted_url`].
    pub url: Secret,
    /// What all keys begin with: 1 to 64 characters, no braces among them.
    pub prefix: String,
}

impl RegistryConfig {
    /// The URL as it may be logged: with `***` for user, password and query.
    pub fn redacted_url(&self) -> String {
        secret::redact_url(self.url.expose())
    }
}

/// One client's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Time between two pings, 100 ms to 1 h.
    pub ping_interval: Duration,
    /// How long a pong may take, 100 ms to 1 h.
    pub pong_timeout: Duration,
    /// Bytes of frames that may wait for a slow client, 1 B to 1 GiB.
    pub outbox_bytes_max: usize,
    /// How long a session lives without a connection, 100 ms to 1 h.
    pub resume_window: Duration,
    /// Bytes of frames that it may gather meanwhile, 1 B to 1 GiB.
    pub mailbox_bytes_max: usize,
    /// Frames that it may gather meanwhile, 1 to 1,000,000.
    pub mailbox_frames_max: usize,
}

/// What one node takes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Bytes of one payload, 1 B to 256 MiB.
    pub message_bytes_max: usize,
    /// Bytes of one WebSocket message, at most 512 MiB and more than `message_bytes_max`.
    pub frame_bytes_max: usize,
    /// Requests per second of one connection, at most 1,000,000. 0: off.
    pub requests_per_second_max: u32,
    /// Requests of one connection that wait for their reply, 1 to 10,000,000.
    pub in_flight_per_connection_max: usize,
    /// Requests of the node that wait for their reply, 1 to 10,000,000.
    pub in_flight_max: usize,
    /// Connections of the node, 1 to 10,000,000.
    pub connections_max: usize,
    /// Bytes of parts of streamed replies that wait for one client, 1 B to 1 GiB.
    pub stream_bytes_max: usize,
}

/// What happens on SIGTERM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutdownConfig {
    /// How long the drain may take in all, 1 ms to 1 h.
    pub grace: Duration,
    /// Connections closed per second while draining, 1 to 1,000,000.
    pub closes_per_second: u32,
}

/// What a service understands beside our headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Nothing else.
    Plain,
    /// Spring Kafka's headers, with a correlation id of 36 characters.
    Spring,
    /// The same with a correlation id of 16 raw bytes.
    SpringBinary,
    /// NestJS's headers.
    Nest,
}

/// A backend service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceConfig {
    /// Topic on which it reads requests; never the reply topic.
    pub request_topic: String,
    /// How long a request waits when the client does not say, 1 ms to `timeout_max`.
    pub timeout: Duration,
    /// The longest wait a client may ask for, at most 24 h.
    pub timeout_max: Duration,
    /// The longest wait for the next part of a streamed reply, 1 ms to 24 h.
    pub stream_idle_timeout: Duration,
    /// Whose headers it wants.
    pub dialect: Dialect,
    /// Lower case, without repeats; headers that pass between client and service, both ways.
    pub allowed_headers: Vec<String>,
    /// Where its framework writes the requests that it gives up; no other topic of ours.
    pub dead_letter_topic: Option<String>,
    /// Whether a single request can be deleted from the topic: the same for all services on it.
    pub deletable: bool,
    /// How soon a deleted one is gone, 10 s to 365 days: the same for all services on the topic.
    pub gone_within: Duration,
    /// Set: its requests are answered by events.
    pub respond_on: Option<RespondOnConfig>,
}

impl ServiceConfig {
    /// How soon what is deleted is gone; `None`: nothing can be deleted.
    pub fn deleted_within(&self) -> Option<Duration> {
        self.deletable.then_some(self.gone_within)
    }
}

impl Config {
    /// Reads the environment's `ROUNDTRIP_…` over the file over the defaults.
    ///
    /// # Errors
    /// Everything that is wrong, all at once. No problem shows a secret.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        check_property: Option<PropertyCheck>,
    ) -> Result<Self, ConfigProblems> {
        read(File::open(file), environment, check_property).map(|(config, _)| config)
    }

    /// As [`Config::load`], with the text of a file that was never one.
    ///
    /// # Errors
    /// Those of [`Config::load`], as of a file called `<text>`.
    pub fn parse(
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigProblems> {
        let file = File { path: Path::new("<text>"), text: Ok(text.to_owned()) };
        read(Some(file), environment, None).map(|(config, _)| config)
    }

    /// The configuration that [`Config::load`] would give, as TOML with `***` for secrets. A
    /// comment says where each value comes from, and which have no effect.
    ///
    /// # Errors
    /// Those of [`Config::load`].
    pub fn explain(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        check_property: Option<PropertyCheck>,
    ) -> Result<String, ConfigProblems> {
        read(File::open(file), environment, check_property)
            .map(|(config, findings)| effective::render(&findings.declared, &config.unused))
    }
}

/// The environment of this process, for [`Config::load`]. What is not UTF-8 comes with U+FFFD in
/// it, which is refused where it is ours.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (lossy(name), lossy(value)))
}

/// An entry of `public.allowed_origins`, in the form browsers send it.
///
/// # Errors
/// Why no page can have this origin.
pub fn origin(text: &str) -> Result<String, String> {
    places::origin(text)
}

/// The reference of every option in Markdown, which is `gateway/CONFIG.md`.
pub fn reference() -> String {
    reference::render()
}
