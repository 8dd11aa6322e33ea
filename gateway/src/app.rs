//! One node: joins its parts, runs them, and drains them in order.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use registry::{NodeId, NodeRef, NodeState};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::drain::{Drain, Stops};
use crate::{
    bus::Producer,
    config::Config,
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

mod adapters;
pub mod drain;
mod health;
mod readers;
mod steps;

pub use adapters::{Adapters, StartFailure, kafka_settings};
pub(crate) use health::kafka_health;
use health::readiness;
use readers::Readers;
pub use readers::{Purpose, Source};

/// TCP connections of the public listener beyond `limits.connections_max` sockets: HTTP callers,
/// and those that are told that the node is full.
const SPARE_CONNECTIONS: usize = 4096;
/// The limit that is hit by clients for whom no file descriptor is left.
const DESCRIPTORS: &str = "descriptors";
/// How often lag and readiness are looked at.
const UPKEEP_INTERVAL: Duration = Duration::from_millis(500);
/// The same while the node starts, because clients wait for it.
const READINESS_INTERVAL: Duration = Duration::from_millis(20);

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

/// How many connections the public listener may have.
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

    /// The address at which clients connect.
    pub fn public_address(&self) -> SocketAddr {
        self.public_address
    }

    /// The address at which peers and operators connect.
    pub fn internal_address(&self) -> SocketAddr {
        self.internal_address
    }

    /// Starts all parts.
    ///
    /// # Errors
    /// A secret that no HTTP header can carry.
    pub fn start(self) -> Result<Node, StartFailure> {
        let Self { config, adapters, public, internal, internal_address, .. } = self;
        let Adapters { producer, consumers, registry } = adapters;
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
        let stops = Stops::default();
        let readers = Readers::start(consumers, &relay, &tasks, &stops.reading);
        let readiness = readers.checks(readiness(&relay));
        let readiness = Arc::new(readiness.with(Component::Peers, move || match link.troubles() {
            troubles if troubles.is_empty() => Health::Well,
            troubles => Health::Degraded(troubles.join("; ")),
        }));
        let superseded = CancellationToken::new();
        relay.start(&superseded);
        let node =
            Node { config, relay, producer, tasks, lost, stops, superseded, readers, readiness };
        node.start_upkeep();
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
    readers: Readers,
    readiness: Arc<Readiness>,
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
        let Self { config, relay, producer, tasks, stops, readers, .. } = self;
        Drain {
            config: config.shutdown,
            relay,
            producer,
            tasks,
            stops,
            readers: readers.into_tasks(),
        }
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

    fn start_upkeep(&self) {
        let (relay, membership) = (Arc::clone(&self.relay), Arc::clone(&self.relay.membership));
        let readiness = Arc::clone(&self.readiness);
        let readers = self.readers.seen();
        let node = self.config.node_id.to_string();
        self.tasks.long_lived("upkeep", async move {
            let mut announcer = Announcer::new(Instant::now());
            loop {
                readers::tell_lag(&readers, &relay.telemetry);
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
                // A component that is not ready may become so at any moment, and others wait for
                // it.
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
