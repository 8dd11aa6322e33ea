//! One node: joins its parts, runs them, and drains them in order.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use registry::{
    MemoryRegistry, NodeId, NodeRef, NodeState, RedisRegistry, Registry, RegistryError,
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use self::drain::{Drain, FAREWELL, Stops};
use crate::{
    bus::{
        Consumer, ConsumerControl, Producer, Trouble,
        kafka::{
            KafkaSettings, Profile, StartError, consumer::KafkaConsumer, producer::KafkaProducer,
        },
    },
    config::{Config, IsolationLevel},
    descriptors::Budget,
    edge::{
        Edge,
        internal::{self, Internal},
        public,
        server::{Capacity, Server, Site, Voice},
    },
    peer::http::HttpPeers,
    readiness::{Announcement, Announcer, Component, Health, Readiness},
    relay::{Environment, Relay, Surroundings, unix_ms},
    tasks::{LostTasks, Tasks},
    telemetry::Telemetry,
};

pub mod drain;
mod steps;

/// TCP connections of the public listener beyond `limits.connections_max` sockets: HTTP callers,
/// and those that are told that the node is full.
const SPARE_CONNECTIONS: usize = 4096;
/// The limit that clients hit who cannot have a file descriptor.
const DESCRIPTORS: &str = "descriptors";
/// How often lag and readiness are looked at.
const UPKEEP_INTERVAL: Duration = Duration::from_millis(500);
/// The same while the node starts: clients wait for it.
const READINESS_INTERVAL: Duration = Duration::from_millis(20);

/// What a node stands on.
#[derive(Debug)]
pub struct Adapters {
    /// Writes requests.
    pub producer: Arc<dyn Producer>,
    /// Reads replies.
    pub consumer: Box<dyn Consumer>,
    /// The shared table.
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
        /// Why not.
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

/// Why a node stopped without being asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// One of its tasks ended.
    #[error("the task {0} was lost")]
    LostTask(&'static str),
    /// Its name has been taken.
    #[error("another node with the same node_id has started")]
    Superseded,
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
        let kafka = &config.kafka;
        let consumer = KafkaConsumer::start(settings, &kafka.group_id, &kafka.reply_topic)?;
        let producer = Arc::new(KafkaProducer::start(settings)?);
        Ok(Self { producer, consumer: Box::new(consumer), registry })
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

/// What the public listener may hold.
fn for_clients(config: &Config, budget: Budget) -> Capacity {
    let connections_max = config.limits.connections_max;
    let wanted = connections_max.saturating_add(SPARE_CONNECTIONS);
    let (connections, limit) = match budget.clients < wanted {
        true => (budget.clients, DESCRIPTORS),
        false => (wanted, "connections_max"),
    };
    if connections < connections_max {
        tracing::warn!(
            clients = connections,
            connections_max,
            "there are file descriptors for fewer clients than limits.connections_max (ulimit -n)"
        );
    }
    Capacity { connections, refusals: budget.refusals, limit }
}

/// A node that has bound its ports and runs nothing yet.
#[derive(Debug)]
pub struct App {
    config: Config,
    adapters: Adapters,
    public: Server,
    internal: Server,
    public_address: SocketAddr,
    internal_address: SocketAddr,
}

impl App {
    /// Binds both listeners. `budget` is what they may use of the process's descriptors.
    ///
    /// # Errors
    /// An address that cannot be bound.
    pub fn build(config: Config, adapters: Adapters, budget: Budget) -> Result<Self, StartFailure> {
        let bind = |option: &'static str, address: SocketAddr, capacity: Capacity| {
            Server::bind(address, capacity)
                .and_then(|server| Ok((server.address()?, server)))
                .map_err(|source| StartFailure::Listen { option, address, source })
        };
        let for_clients = for_clients(&config, budget);
        let (public_address, public) = bind("public.listen", config.public.listen, for_clients)?;
        let for_peers = Capacity {
            connections: budget.internal,
            refusals: budget.refusals,
            limit: DESCRIPTORS,
        };
        let (internal_address, internal) =
            bind("internal.listen", config.internal.listen, for_peers)?;
        Ok(Self { config, adapters, public, internal, public_address, internal_address })
    }

    /// Where clients connect.
    pub fn public_address(&self) -> SocketAddr {
        self.public_address
    }

    /// Where peers and operators connect.
    pub fn internal_address(&self) -> SocketAddr {
        self.internal_address
    }

    /// Starts all parts.
    ///
    /// # Errors
    /// A secret that no HTTP header can carry.
    pub fn start(self) -> Result<Node, StartFailure> {
        let Self { config, adapters, public, internal, internal_address, .. } = self;
        let Adapters { producer, consumer, registry } = adapters;
        let telemetry = Arc::new(Telemetry::new());
        let (tasks, lost) = Tasks::new();
        let node = NodeRef { id: config.node_id.clone(), incarnation: unix_ms() };
        let link = Arc::new(HttpPeers::new(&config.internal.secret)?);
        let surroundings = Surroundings {
            node,
            url: config.internal.advertised(internal_address),
            producer: Arc::clone(&producer),
            registry,
            link: Arc::clone(&link) as _,
            environment: Arc::new(Environment::default()),
            telemetry,
            tasks: tasks.clone(),
        };
        let relay = Arc::new(Relay::new(&config, surroundings));
        let control = consumer.control();
        let (dispatch, assigned) = relay.reader(Arc::clone(&control));
        let stops = Stops::default();
        let reading = stops.reading.clone();
        let reader =
            tasks.until("dispatch", &stops.reading, dispatch.run(consumer, reading, FAREWELL));
        let readiness = readiness(&relay, assigned, Arc::clone(&control));
        let readiness = Arc::new(readiness.with(Component::Peers, move || match link.troubles() {
            troubles if troubles.is_empty() => Health::Well,
            troubles => Health::Degraded(troubles.join("; ")),
        }));
        let superseded = CancellationToken::new();
        relay.start(&superseded);
        let node =
            Node { config, relay, producer, tasks, lost, stops, superseded, reader, readiness };
        node.start_upkeep(control);
        node.start_edges(public, internal);
        Ok(node)
    }
}

/// A node at work.
#[derive(Debug)]
pub struct Node {
    config: Config,
    relay: Arc<Relay>,
    producer: Arc<dyn Producer>,
    tasks: Tasks,
    lost: LostTasks,
    stops: Stops,
    superseded: CancellationToken,
    reader: JoinHandle<()>,
    readiness: Arc<Readiness>,
}

/// What a node needs to take requests, and what it promises beside that: one line for each way to
/// look at it.
fn readiness(
    relay: &Arc<Relay>,
    assigned: watch::Receiver<bool>,
    control: Arc<dyn ConsumerControl>,
) -> Readiness {
    let (draining, bus, membership) =
        (Arc::clone(relay), Arc::clone(relay), Arc::clone(&relay.membership));
    Readiness::default()
        .with(Component::Node, move || Health::unready_if(draining.gate.is_draining(), "draining"))
        .with(Component::Registry, move || {
            match (membership.is_announced(), membership.trouble()) {
                (true, None) => Health::Well,
                // What this node holds is served on without a registry.
                (true, Some(error)) => Health::Degraded(error.to_string()),
                (false, None) => Health::Unready("not announced in the registry yet".to_owned()),
                (false, Some(error)) => {
                    Health::Unready(format!("not announced in the registry yet: {error}"))
                }
            }
        })
        .with(Component::Assignment, move || {
            Health::unready_if(!*assigned.borrow(), "no assignment of reply partitions yet")
        })
        .with(Component::Kafka, move || kafka_health(bus.is_bus_available(), &control.troubles()))
}

/// Requests cannot be recorded, or their replies not be read. A broker that cannot be reached matters
/// where there is no other: else it only says why there is none.
pub(crate) fn kafka_health(is_available: bool, troubles: &[Trouble]) -> Health {
    let is_connection = |trouble: &&Trouble| matches!(trouble, Trouble::Unreachable(_));
    let reading = troubles.iter().filter(|trouble| !is_connection(trouble));
    let mut reasons: Vec<String> = reading.map(ToString::to_string).collect();
    if !is_available {
        let why = troubles.iter().find(is_connection);
        reasons.insert(
            0,
            match why {
                Some(why) => format!("kafka cannot be reached: {why}"),
                None => "kafka cannot be reached".to_owned(),
            },
        );
    }
    if reasons.is_empty() { Health::Well } else { Health::Unready(reasons.join("; ")) }
}

impl Node {
    /// Works until `shutdown` is ready, then drains. `begins` is called when that begins, whatever the
    /// cause, with the time that it may take.
    ///
    /// # Errors
    /// [`Stopped`] when it ends before. What it holds is drained all the same.
    pub async fn run(
        mut self,
        shutdown: impl Future<Output = ()>,
        begins: impl FnOnce(Duration),
    ) -> Result<(), Stopped> {
        let result = tokio::select! {
            () = shutdown => Ok(()),
            () = self.superseded.cancelled() => Err(Stopped::Superseded),
            name = self.lost.next() => Err(Stopped::LostTask(name)),
        };
        if let Err(stopped) = result {
            tracing::error!(%stopped, "stopping");
        }
        begins(self.config.shutdown.grace);
        self.drain().run().await;
        result
    }

    fn drain(self) -> Drain {
        let Self { config, relay, producer, tasks, stops, reader, .. } = self;
        Drain { config: config.shutdown, relay, producer, tasks, stops, reader }
    }

    /// Waits until the node takes requests, and clients are let in.
    pub fn ready(&self) -> impl Future<Output = ()> + use<> {
        let (readiness, relay) = (Arc::clone(&self.readiness), Arc::clone(&self.relay));
        async move {
            let mut tick = tokio::time::interval(READINESS_INTERVAL);
            while !readiness.is_ready() {
                tick.tick().await;
            }
            relay.gate.open();
        }
    }

    fn start_upkeep(&self, control: Arc<dyn ConsumerControl>) {
        let (relay, membership) = (Arc::clone(&self.relay), Arc::clone(&self.relay.membership));
        let readiness = Arc::clone(&self.readiness);
        let topic = self.config.kafka.reply_topic.clone();
        let node = self.config.node_id.to_string();
        self.tasks.long_lived("upkeep", async move {
            let mut announcer = Announcer::new(Instant::now());
            loop {
                let lag = control.lag().into_iter().map(|lag| (lag.partition, lag.records));
                relay.telemetry.set_lag(&topic, lag);
                let peers = membership.peers();
                relay.telemetry.set_peers(peers.iter().map(NodeId::as_str));
                let report = readiness.report();
                let is_draining = relay.gate.is_draining();
                membership.set_state(match report.ready {
                    _ if is_draining => NodeState::Draining,
                    true => NodeState::Ready,
                    false => NodeState::Starting,
                });
                if report.ready {
                    relay.gate.open();
                }
                if !is_draining {
                    match announcer.look(&report, Instant::now()) {
                        Some(Announcement::Ready) => tracing::info!(node, "ready: takes requests"),
                        Some(Announcement::Unready) => {
                            tracing::warn!(node, reasons = report.reasons.join("; "), "not ready");
                        }
                        None => {}
                    }
                }
                // What is not ready may become so at any moment, and others wait for it.
                let pause = if report.ready { UPKEEP_INTERVAL } else { READINESS_INTERVAL };
                tokio::time::sleep(pause).await;
            }
        });
    }

    fn start_edges(&self, public: Server, internal: Server) {
        let (relay, tasks) = (Arc::clone(&self.relay), self.tasks.clone());
        let edge = Arc::new(Edge::new(&self.config, relay, tasks));
        let (tasks, stop) = (self.tasks.clone(), self.stops.accepting.clone());
        let routes = public::routes(&edge);
        let site = Site {
            routes,
            voice: public::voice(&edge),
            rate: Box::new(move || edge.rate()),
            relay: Arc::clone(&self.relay),
        };
        drop(self.tasks.until("public listener", &self.stops.accepting, async move {
            public.run(site, &tasks, stop).await;
        }));
        let internal_edge = Arc::new(Internal {
            relay: Arc::clone(&self.relay),
            secret: self.config.internal.secret.clone(),
            readiness: Arc::clone(&self.readiness),
            tasks: self.tasks.clone(),
            stop: self.stops.internal.clone(),
        });
        let routes = internal::routes(internal_edge);
        let (tasks, stop) = (self.tasks.clone(), self.stops.internal.clone());
        let site = Site {
            routes,
            voice: Voice::Plain,
            rate: Box::new(crate::edge::Rate::unlimited),
            relay: Arc::clone(&self.relay),
        };
        drop(self.tasks.until("internal listener", &self.stops.internal, async move {
            internal.run(site, &tasks, stop).await;
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_is_away_matters_where_there_is_no_other() {
        let away = Trouble::Unreachable("kafka-1:9092 cannot be resolved: no such host".to_owned());
        let missing = Trouble::MissingTopic("replies".to_owned());
        assert_eq!(kafka_health(true, &[]), Health::Well);
        assert_eq!(kafka_health(true, std::slice::from_ref(&away)), Health::Well);
        let unready = |reason: &str| Health::Unready(reason.to_owned());
        assert_eq!(kafka_health(false, &[]), unready("kafka cannot be reached"));
        assert_eq!(
            kafka_health(false, std::slice::from_ref(&away)),
            unready("kafka cannot be reached: kafka-1:9092 cannot be resolved: no such host")
        );
        assert_eq!(
            kafka_health(true, &[away, missing]),
            unready("topic replies does not exist: `roundtrip topics` creates it")
        );
    }
}
