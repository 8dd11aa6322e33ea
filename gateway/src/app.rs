//! One node: joins its parts, runs them, and drains them in order.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use registry::{
    MemoryRegistry, NodeId, NodeRef, NodeState, RedisRegistry, Registry, RegistryError,
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use self::steps::{Steps, holds};
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
    error::CloseCode,
    peer::http::HttpPeers,
    readiness::{Announcement, Announcer, Component, Health, Readiness},
    relay::{Relay, handover::Handover, membership::Membership, parts::Parts, unix_ms},
    tasks::{LostTasks, Tasks},
    telemetry::Telemetry,
};

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
/// The end of `shutdown.grace` that is kept for telling those who could not be answered, and for
/// leaving in order.
const FAREWELL: Duration = Duration::from_secs(2);

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
        let relay = Arc::new(Relay::new(&config, node, Arc::clone(&producer), telemetry));
        let url = config.internal.advertised(internal_address);
        let link = Arc::new(HttpPeers::new(&config.internal.secret)?);
        let parts =
            Parts::join(Arc::clone(&relay), url, registry, Arc::clone(&link) as _, tasks.clone());
        let control = consumer.control();
        let (dispatch, assigned) = parts.reader(Arc::clone(&control));
        let stops = Stops::default();
        let reading = stops.reading.clone();
        let reader =
            tasks.until("dispatch", &stops.reading, dispatch.run(consumer, reading, FAREWELL));
        let membership = Arc::clone(&parts.membership);
        let readiness = readiness(&relay, &membership, assigned, Arc::clone(&control));
        let readiness = Arc::new(readiness.with(Component::Peers, move || match link.troubles() {
            troubles if troubles.is_empty() => Health::Well,
            troubles => Health::Degraded(troubles.join("; ")),
        }));
        let node =
            Node { config, relay, membership, producer, tasks, lost, stops, reader, readiness };
        node.start_upkeep(control);
        parts.start(&node.stops.superseded);
        node.start_edges(public, internal, parts.handover());
        Ok(node)
    }
}

/// When which part stops.
#[derive(Clone, Debug, Default)]
struct Stops {
    accepting: CancellationToken,
    reading: CancellationToken,
    internal: CancellationToken,
    superseded: CancellationToken,
}

/// A node at work.
#[derive(Debug)]
pub struct Node {
    config: Config,
    relay: Arc<Relay>,
    membership: Arc<Membership>,
    producer: Arc<dyn Producer>,
    tasks: Tasks,
    lost: LostTasks,
    stops: Stops,
    reader: JoinHandle<()>,
    readiness: Arc<Readiness>,
}

/// What a node needs to take requests, and what it promises beside that: one line for each way to
/// look at it.
fn readiness(
    relay: &Arc<Relay>,
    membership: &Arc<Membership>,
    assigned: watch::Receiver<bool>,
    control: Arc<dyn ConsumerControl>,
) -> Readiness {
    let (draining, bus, membership) =
        (Arc::clone(relay), Arc::clone(relay), Arc::clone(membership));
    Readiness::default()
        .with(Component::Node, move || Health::unready_if(draining.is_draining(), "draining"))
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
fn kafka_health(is_available: bool, troubles: &[Trouble]) -> Health {
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
    /// Works until `shutdown` is ready, then drains.
    ///
    /// # Errors
    /// [`Stopped`] when it ends before. What it holds is drained all the same.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), Stopped> {
        let result = tokio::select! {
            () = shutdown => Ok(()),
            () = self.stops.superseded.cancelled() => Err(Stopped::Superseded),
            name = self.lost.next() => Err(Stopped::LostTask(name)),
        };
        if let Err(stopped) = result {
            tracing::error!(%stopped, "stopping");
        }
        self.drain().await;
        result
    }

    /// Waits until the node takes requests, and clients are let in.
    pub fn ready(&self) -> impl Future<Output = ()> + use<> {
        let (readiness, relay) = (Arc::clone(&self.readiness), Arc::clone(&self.relay));
        async move {
            let mut tick = tokio::time::interval(READINESS_INTERVAL);
            while !readiness.is_ready() {
                tick.tick().await;
            }
            relay.open();
        }
    }

    fn start_upkeep(&self, control: Arc<dyn ConsumerControl>) {
        let (relay, membership) = (Arc::clone(&self.relay), Arc::clone(&self.membership));
        let readiness = Arc::clone(&self.readiness);
        let topic = self.config.kafka.reply_topic.clone();
        let node = self.config.node_id.to_string();
        self.tasks.long_lived("upkeep", async move {
            let mut announcer = Announcer::new(Instant::now());
            loop {
                let lag = control.lag().into_iter().map(|lag| (lag.partition, lag.records));
                relay.telemetry().set_lag(&topic, lag);
                let peers = membership.peers();
                relay.telemetry().set_peers(peers.iter().map(NodeId::as_str));
                let report = readiness.report();
                let is_draining = relay.is_draining();
                membership.set_state(match report.ready {
                    _ if is_draining => NodeState::Draining,
                    true => NodeState::Ready,
                    false => NodeState::Starting,
                });
                if report.ready {
                    relay.open();
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

    fn start_edges(&self, public: Server, internal: Server, handover: Handover) {
        let (relay, tasks) = (Arc::clone(&self.relay), self.tasks.clone());
        let edge = Arc::new(Edge::new(&self.config, relay, handover, tasks));
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

    /// How many sockets to close per second, so that all have had their turn half-way to the end.
    fn pace(&self, end: Instant) -> u32 {
        let time = end.saturating_duration_since(Instant::now()).as_secs_f64() / 2.0;
        let needed = (self.relay.connections() as f64 / time.max(0.1)).ceil() as u32;
        needed.max(self.config.shutdown.closes_per_second)
    }

    /// The ordered end, within `shutdown.grace`: each step has a bound of its own, and what it cannot
    /// finish is left behind.
    async fn drain(self) {
        let grace = self.config.shutdown.grace;
        let farewell = FAREWELL.min(grace / 2);
        let steps = Steps::new(Instant::now() + grace, &self.relay);
        let end = steps.deadline() - farewell;
        let waits = steps.waits();
        tracing::info!(%waits, sessions = self.relay.hub().len(), "draining");
        // 1. Not ready; peers see it.
        self.relay.drain();
        self.membership.set_state(NodeState::Draining);
        // 2. No new connections. Parked HTTP calls go on.
        self.stops.accepting.cancel();
        // 3. Sockets close one after the other: those of sessions that go on elsewhere without loss
        //    at once, the others when they are owed nothing. Parked HTTP calls are answered, as far
        //    as the services answer in time.
        steps.until(end, "sockets", self.relay.close_sessions(self.pace(end))).await;
        let is_idle = || self.relay.pending().calls() == 0 && self.relay.connections() == 0;
        steps.until(end, "answers", holds(is_idle)).await;
        // 4. HTTP callers are told that they will not be answered; sessions go with what they are
        //    owed and what they wait for, which the registry has now.
        let given_up = self.relay.give_up_calls();
        self.relay.hub().close(CloseCode::Draining);
        let is_gone = || self.relay.connections() == 0 && self.relay.backups().is_empty();
        steps
            .within(steps::COPIES_WITHIN, farewell / 2, "copies of sessions", holds(is_gone))
            .await;
        // 5. Store offsets, leave the group.
        self.stops.reading.cancel();
        steps.within(steps::READER_WITHIN, farewell / 4, "reader", self.reader).await;
        // 6. What is still with the producer.
        let flushed = self.producer.flush(grace);
        steps.within(steps::RECORDS_WITHIN, farewell / 8, "records", flushed).await;
        // 7. Out of the node table; peers may not call any more.
        steps
            .within(steps::TABLE_WITHIN, farewell / 16, "node table", self.membership.leave())
            .await;
        self.stops.internal.cancel();
        // 8. The rest: sockets that are still reading their good-bye.
        steps
            .within(steps::TASKS_WITHIN, Duration::ZERO, "tasks", self.tasks.stop_and_wait())
            .await;
        tracing::info!(given_up, "drained");
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
