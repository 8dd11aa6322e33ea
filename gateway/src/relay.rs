//! The relay: takes requests from the edge, brings replies home. Everything between a socket and
//! the bus.
//!
//! The edge calls the verbs of [`Relay`]; answers come back as data, through a [`Session`]'s queue
//! or a parked call's channel. Never names a socket, Kafka or Redis.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use registry::NodeRef;
use tokio::time::Instant;

use crate::{
    bus::Producer,
    config::{Config, LimitsConfig},
    telemetry::{ServiceMetrics, Telemetry},
};

pub mod affinity;
pub mod backup;
pub mod dispatch;
mod ending;
mod greetings;
pub mod handover;
pub mod homing;
pub mod hub;
pub mod mark;
pub mod membership;
mod nature;
pub mod parts;
pub mod pending;
mod produce;
pub mod reply;
pub mod routes;
pub mod service;
pub mod session;
mod sessions;
mod stored;
pub mod submit;
pub mod token;
pub mod window;

pub use ending::Delivery;
pub use nature::Nature;
pub use session::Session;

use affinity::Affinity;
use backup::Backups;
use homing::Inbox;
use hub::Hub;
use mark::NodeMark;
use pending::Pending;
use routes::Routes;
use service::Service;
use session::SessionLimits;

/// Between two looks at deadlines: a request may end this much late.
const DEADLINE_TICK: Duration = Duration::from_millis(10);

/// One node's relay. Shared by all of the node's tasks.
#[derive(Debug)]
pub struct Relay {
    node: NodeRef,
    reply_topic: String,
    limits: LimitsConfig,
    session_limits: SessionLimits,
    resume_window: Duration,
    services: HashMap<String, Arc<Service>>,
    /// Counts what names no configured service.
    unknown: ServiceMetrics,
    affinity: Affinity,
    pending: Pending,
    hub: Hub,
    /// Sockets that are open, or about to be.
    connections: AtomicUsize,
    routes: Routes,
    backups: Backups,
    /// Replies that have to find their way.
    strays: Arc<Inbox>,
    producer: Arc<dyn Producer>,
    telemetry: Arc<Telemetry>,
    nature: Nature,
    open: AtomicBool,
    draining: AtomicBool,
}

impl Relay {
    /// A relay in which nothing waits.
    pub fn new(
        config: &Config,
        node: NodeRef,
        producer: Arc<dyn Producer>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let service = |(name, config): (&String, _)| {
            (name.clone(), Arc::new(Service::new(name, config, &telemetry)))
        };
        let affinity = Affinity::new(NodeMark::of(&node));
        Self {
            node,
            reply_topic: config.kafka.reply_topic.clone(),
            limits: config.limits.clone(),
            session_limits: sessions::limits(&config.session),
            resume_window: config.session.resume_window,
            services: config.services.iter().map(service).collect(),
            unknown: telemetry.service("-"),
            affinity,
            pending: Pending::new(),
            hub: Hub::default(),
            connections: AtomicUsize::new(0),
            routes: Routes::new(),
            backups: sessions::backups(&config.session),
            strays: Arc::default(),
            producer,
            telemetry,
            nature: Nature::default(),
            open: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        }
    }

    /// The same with another time and chance than the world's.
    pub fn with_nature(self, nature: Nature) -> Self {
        Self { nature, ..self }
    }

    /// Which run of which node this is.
    pub fn node(&self) -> &NodeRef {
        &self.node
    }

    /// The metrics of the node.
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// The limits that the edge enforces.
    pub fn limits(&self) -> &LimitsConfig {
        &self.limits
    }

    /// What this node wants the registry to know.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// The requests that wait here.
    pub fn pending(&self) -> &Pending {
        &self.pending
    }

    /// Which replies come home by themselves.
    pub fn affinity(&self) -> &Affinity {
        &self.affinity
    }

    /// Whether Kafka can be reached, as far as is known.
    pub fn is_bus_available(&self) -> bool {
        self.producer.is_available()
    }

    /// How many records the producer has that are not acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.producer.outstanding()
    }

    /// What the registry has to know of this node's sessions.
    pub fn backups(&self) -> &Backups {
        &self.backups
    }

    /// Where replies go that nobody on this node waits for.
    pub fn strays(&self) -> &Arc<Inbox> {
        &self.strays
    }

    /// From now on clients are let in: the node can serve them. It stays so, because clients that
    /// are turned away when Kafka is away for a while are worse off than those that are told so.
    pub fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    /// Whether clients are let in.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    /// From now on no new request is taken.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether the node is about to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// The sessions on this node.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Ends what waits too long, for as long as the node lives.
    pub async fn run_deadlines(&self) {
        loop {
            self.pending.due().await;
            let now = Instant::now();
            for (request, entry) in self.pending.take_expired(now) {
                self.time_out(request, entry, now);
            }
            tokio::time::sleep(DEADLINE_TICK).await;
        }
    }
}

/// Milliseconds since the Unix epoch by this node's clock; 0 before it.
pub fn unix_ms() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Logs the same kind of trouble once per burst: the first at once, then one line per interval
/// that says how many there were.
#[derive(Debug, Default)]
pub(crate) struct Burst {
    since: Option<Instant>,
    muted: u64,
}

impl Burst {
    const INTERVAL: Duration = Duration::from_secs(10);

    /// Whether to log now, and how many were not logged since the last time.
    pub(crate) fn tick(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_some_and(|since| now < since + Self::INTERVAL) {
            self.muted += 1;
            return None;
        }
        self.since = Some(now);
        Some(std::mem::take(&mut self.muted))
    }
}
