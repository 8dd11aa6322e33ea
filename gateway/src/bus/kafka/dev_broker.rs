//! A Kafka broker inside this process, for development and tests: librdkafka's mock cluster.
//!
//! Not for data anybody wants to keep: all is in memory, and a partition keeps its latest 5 MiB.
//! Its ports are ephemeral ones on the loopback interface, and the first member of a classic group
//! waits for three seconds.

use std::{fmt, time::Duration};

use rdkafka::{
    ClientConfig, ClientContext, bindings,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError, RDKafkaErrorCode},
    mocking::MockCluster,
    producer::{Producer as _, ProducerContext, ThreadedProducer},
};

use super::{KafkaSettings, Profile, StartError, log::ClientLog};

/// The one broker's id.
const BROKER: i32 = 1;
const HEARTBEAT: Duration = Duration::from_millis(100);

/// A broker that lives as long as this value. Stop its clients first: what they wait for dies with
/// it.
pub struct DevBroker {
    /// The mock cluster can only be reached through its owner, which is a client; as a producer it
    /// may be shared between threads.
    owner: ThreadedProducer<Owner>,
    bootstrap_servers: String,
}

impl DevBroker {
    /// Starts a broker with these topics and their numbers of partitions.
    ///
    /// # Errors
    /// No port is to be had on the loopback interface, or a topic's name or number of partitions is
    /// not allowed.
    pub fn start(topics: &[(&str, i32)]) -> Result<Self, StartError> {
        let mut config = ClientConfig::new();
        config.set("test.mock.num.brokers", "1").set_log_level(RDKafkaLogLevel::Warning);
        let log = ClientLog::new("dev broker".to_owned());
        let owner = ThreadedProducer::from_config_and_context(&config, Owner { log })?;
        let bootstrap_servers = mock_cluster(&owner)?.bootstrap_servers();
        let broker = Self { owner, bootstrap_servers };
        broker.set_heartbeat(HEARTBEAT);
        for (topic, partitions) in topics {
            broker.create_topic(topic, *partitions)?;
        }
        Ok(broker)
    }

    /// `host:port`, for clients inside and outside of this process.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// Settings for a client of this broker.
    pub fn settings(&self) -> KafkaSettings {
        KafkaSettings {
            bootstrap_servers: self.bootstrap_servers.clone(),
            profile: Profile::Dev,
            ..KafkaSettings::default()
        }
    }

    /// Creates one more topic.
    ///
    /// # Errors
    /// The topic exists, or its number of partitions is not positive.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<(), StartError> {
        Ok(mock_cluster(&self.owner)?.create_topic(topic, partitions, 1)?)
    }

    /// How often members of groups of the next generation (KIP-848) hear of a rebalance. A partition
    /// that moves is read by nobody from its former reader's next heartbeat to its new reader's: for
    /// three seconds by default.
    #[expect(unsafe_code, reason = "rdkafka's safe interface does not have it")]
    fn set_heartbeat(&self, interval: Duration) {
        let interval_ms = i32::try_from(interval.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the owner is a live client, its mock cluster lives as long as it does, and the setter
        // takes the cluster's lock. A client without a mock cluster, which this is not, has none.
        unsafe {
            let cluster = bindings::rd_kafka_handle_mock_cluster(self.owner.client().native_ptr());
            if !cluster.is_null() {
                bindings::rd_kafka_mock_set_group_consumer_heartbeat_interval_ms(
                    cluster,
                    interval_ms,
                );
            }
        }
    }

    /// Takes the broker off the network, or puts it back. Its records stay.
    ///
    /// # Errors
    /// The mock cluster refuses, which it is not known to do.
    pub fn set_reachable(&self, reachable: bool) -> Result<(), StartError> {
        let cluster = mock_cluster(&self.owner)?;
        Ok(if reachable { cluster.broker_up(BROKER) } else { cluster.broker_down(BROKER) }?)
    }
}

impl fmt::Debug for DevBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = &self.bootstrap_servers;
        f.debug_struct("DevBroker").field("bootstrap_servers", servers).finish_non_exhaustive()
    }
}

fn mock_cluster(owner: &ThreadedProducer<Owner>) -> Result<MockCluster<'_, Owner>, StartError> {
    let missing = KafkaError::MockCluster(RDKafkaErrorCode::State);
    Ok(owner.client().mock_cluster().ok_or(missing)?)
}

/// The owner produces nothing: only its log is of interest.
struct Owner {
    log: ClientLog,
}

impl ClientContext for Owner {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.line(level, facility, message);
    }
}

impl ProducerContext for Owner {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &rdkafka::message::DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
mod tests;
