//! The adapters of a node, as its configuration names them: the only place that chooses them for
//! `serve`.

use std::{io, net::SocketAddr, sync::Arc};

use registry::{MemoryRegistry, RedisRegistry, Registry, RegistryError};

use super::{Purpose, Source};
use crate::{
    bus::{
        Consumer, Producer,
        kafka::{
            KafkaSettings, Profile, StartError, consumer::KafkaConsumer, producer::KafkaProducer,
        },
    },
    config::{Config, IsolationLevel},
};

/// The adapters of a node.
#[derive(Debug)]
pub struct Adapters {
    /// Writes requests.
    pub producer: Arc<dyn Producer>,
    /// Read what the node reads: see [`Source::all`].
    pub consumers: Vec<(Source, Box<dyn Consumer>)>,
    /// The registry.
    pub registry: Arc<dyn Registry>,
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartFailure {
    /// A listener's address cannot be bound.
    #[error("{option}: cannot listen on {address}: {source}")]
    Listen {
        /// The option that names the address.
        option: &'static str,
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: io::Error,
    },
    /// A Kafka client cannot be set up.
    #[error(transparent)]
    Kafka(#[from] StartError),
    /// The registry's URL or prefix is no good.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The shared secret does not fit an HTTP header.
    #[error("internal.secret: {0}")]
    Secret(#[from] http::header::InvalidHeaderValue),
}

impl Adapters {
    /// Kafka and the registry as configured. Neither has to be reachable yet.
    ///
    /// # Errors
    /// A setting that no client can be made of.
    pub async fn connect(config: &Config) -> Result<Self, StartFailure> {
        let settings = kafka_settings(config);
        let url = config.registry.url.expose();
        let registry: Arc<dyn Registry> = if url == "memory:" {
            Arc::new(MemoryRegistry::new())
        } else {
            Arc::new(RedisRegistry::connect(url, &config.registry.prefix).await?)
        };
        Self::with(&settings, config, registry)
    }

    /// Kafka as `settings` say, and a registry that is there.
    ///
    /// # Errors
    /// A setting that no client can be made of.
    pub fn with(
        settings: &KafkaSettings,
        config: &Config,
        registry: Arc<dyn Registry>,
    ) -> Result<Self, StartFailure> {
        let start = |source: Source| -> Result<(Source, Box<dyn Consumer>), StartError> {
            let mut settings = settings.clone();
            if matches!(source.purpose, Purpose::View(_)) {
                // So that its reader knows when it has had everything.
                settings.properties.insert("enable.partition.eof".to_owned(), "true".to_owned());
            }
            let consumer = KafkaConsumer::start(&settings, &source.group, &source.topic)?;
            Ok((source, Box::new(consumer)))
        };
        let consumers = Source::all(config).into_iter().map(start).collect::<Result<_, _>>()?;
        let producer = Arc::new(KafkaProducer::start(settings)?);
        Ok(Self { producer, consumers, registry })
    }
}

/// How this node's Kafka clients are set up.
pub fn kafka_settings(config: &Config) -> KafkaSettings {
    KafkaSettings {
        bootstrap_servers: config.kafka.bootstrap_servers.clone(),
        client_id: format!("roundtrip-{}", config.node_id),
        reads_uncommitted: config.kafka.isolation_level == IsolationLevel::ReadUncommitted,
        properties: config.kafka.properties.clone(),
        profile: Profile::Production,
    }
}
