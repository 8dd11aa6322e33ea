//! The relay: takes requests from the edge, and brings their replies back. Everything between a
//! socket and the bus.
//!
//! It consists of rooms. Each may use those above it in this list, and none below; what has to go
//! in the other direction is returned, or asked for through a small trait:
//!
//! | room | owns |
//! |---|---|
//! | [`offsets`] | which records have been handled, per partition |
//! | [`cluster`] | who is alive, and whether the registry answers |
//! | [`reading`] | one topic as it is read, whatever for |
//! | [`dialects`], [`services`] | what services and their frameworks understand |
//! | [`session`] | one client: the frames it is owed; all sessions of the node |
//! | [`checkpoints`] | what the registry has to know of sessions |
//! | [`views`] | the latest event per key, and who waits for which state |
//! | [`results`] | what comes of requests whose callers do not wait |
//! | [`requests`] | one request, from its id to its one end |
//! | [`lifecycle`] | how sessions begin, come, go and end |
//! | [`replies`] | what was read from the log, and to whom it goes |
//!
//! [`Relay`] only joins them. No room names a socket, Kafka or Redis: the edge calls down, and
//! answers come back as data, through a [`Session`]'s queue or an HTTP call's channel.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use registry::{NodeRef, Registry};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{ConsumerControl, Producer},
    config::Config,
    peer::PeerLink,
    tasks::Tasks,
    telemetry::Telemetry,
};

#[cfg(test)]
pub(crate) mod bed;
pub mod checkpoints;
pub mod cluster;
pub mod dialects;
mod environment;
mod gate;
pub mod lifecycle;
pub mod offsets;
pub mod reading;
pub mod replies;
pub mod requests;
pub mod results;
pub mod services;
pub mod session;
mod surroundings;
pub mod views;
pub mod write_behind;

pub use environment::Environment;
pub use gate::Gate;
pub use session::Session;
pub use surroundings::Surroundings;

use checkpoints::{Checkpoints, Writer};
use cluster::{
    Greetings, Membership,
    membership::{Superseded, TableState},
};
use lifecycle::{Lifecycle, leaving::Leaving, resume::Resumption};
use reading::{Reader, Role};
use replies::{DeadLetters, Dispatch, EventWriter, Events, Forwarding};
use requests::{Completion, Requests, awaiting::answer_with, routes::RouteWriter};
use results::{ResultWriter, Results};
use session::Sessions;
use views::{Views, waits::WaitWriter};

/// One node's relay: its rooms, joined. Shared by all of the node's tasks.
#[derive(Debug)]
pub struct Relay {
    /// Which run of which node this is.
    pub node: NodeRef,
    /// Whether clients and requests are taken.
    pub gate: Arc<Gate>,
    /// The other nodes of the cluster.
    pub membership: Arc<Membership>,
    /// The sessions on this node.
    pub sessions: Arc<Sessions>,
    /// The checkpoints of these sessions.
    pub checkpoints: Arc<Checkpoints>,
    /// How requests are taken.
    pub requests: Arc<Requests>,
    /// Where requests wait and end.
    pub completion: Arc<Completion>,
    /// How sessions begin and end.
    pub lifecycle: Arc<Lifecycle>,
    /// How sessions leave for other nodes.
    pub leaving: Arc<Leaving>,
    /// How sessions come from other nodes.
    pub resumption: Resumption,
    /// Forwards replies to other nodes, and takes those that they forward.
    pub forwarding: Arc<Forwarding>,
    event_writer: Arc<EventWriter>,
    /// The metrics of the node.
    pub telemetry: Arc<Telemetry>,
    registry: Arc<dyn Registry>,
    link: Arc<dyn PeerLink>,
    producer: Arc<dyn Producer>,
    tasks: Tasks,
}

impl Relay {
    /// A relay in which nothing waits and nothing runs.
    pub fn new(config: &Config, around: Surroundings) -> Self {
        let membership = Arc::new(Membership::new(&around));
        let results = Arc::new(Results::new(&config.rest, &around, &membership));
        let completion = Arc::new(Completion::new(config, &around, results));
        let views = Arc::new(Views::new(config, &around, &membership));
        let requests = Arc::new(Requests::new(config, &around, &completion, &membership, &views));
        let leaving = Arc::new(Leaving::new(&completion));
        let lifecycle = Arc::new(Lifecycle::new(config, &around, &requests.gate, &leaving));
        let resumption = Resumption::new(config, &around, &requests, &leaving, &membership);
        let forwarding = Arc::new(Forwarding::new(&around, &requests, &membership));
        let Surroundings { node, registry, producer, link, telemetry, tasks, .. } = around;
        let (waits, health) = (&completion.waits, &membership.health);
        let event_writer =
            Arc::new(EventWriter::new(&forwarding, waits, &registry, health, &telemetry));
        Self {
            node,
            gate: Arc::clone(&requests.gate),
            sessions: Arc::clone(&completion.sessions),
            checkpoints: Arc::clone(&completion.checkpoints),
            membership,
            requests,
            completion,
            lifecycle,
            leaving,
            resumption,
            forwarding,
            event_writer,
            telemetry,
            registry,
            link,
            producer,
            tasks,
        }
    }

    /// What is done with replies.
    pub fn replies(&self) -> Dispatch {
        Dispatch::new(&self.requests, &self.forwarding, &self.telemetry)
    }

    /// What is done with dead letters.
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters::new(&self.forwarding, &self.telemetry)
    }

    /// What is done with the events of a view.
    ///
    /// # Panics
    /// Where none is called so.
    pub fn events(&self, view: &str, control: &Arc<dyn ConsumerControl>) -> Events {
        let view = self.requests.views.find(view).expect("it is configured");
        Events::new(view, &self.event_writer, &self.forwarding, control, &self.telemetry)
    }

    /// The reader of a topic, for a role of this relay's; and a signal for its first assignment.
    pub fn reader<R: Role>(
        &self,
        topic: &str,
        role: R,
        control: Arc<dyn ConsumerControl>,
    ) -> (Reader<R>, watch::Receiver<bool>) {
        Reader::new(topic, role, &self.telemetry, control)
    }

    /// Starts everything but the readers. `superseded` is cancelled when another run of this node has
    /// taken its name.
    pub fn start(self: &Arc<Self>, superseded: &CancellationToken) {
        let completion = Arc::clone(&self.completion);
        self.tasks.long_lived("deadlines", async move { completion.run_deadlines().await });
        let relay = Arc::clone(self);
        self.tasks.long_lived("routes", async move { relay.run_routes().await });
        let relay = Arc::clone(self);
        self.tasks.long_lived("waits", async move { relay.run_waits().await });
        let (views, writer) = (Arc::clone(&self.requests.views), Arc::clone(&self.event_writer));
        self.tasks.long_lived("views", async move { views.run().await });
        self.tasks.long_lived("event writer", async move { writer.run().await });
        let relay = Arc::clone(self);
        self.tasks.long_lived("checkpoints", async move { relay.run_checkpoints().await });
        self.tasks.long_lived("rolling", self.requests.rolling().run());
        let results = Arc::clone(&self.completion.results);
        let written = async move { write_behind::run(&ResultWriter(&results)).await };
        self.tasks.long_lived("results", written);
        self.tasks.long_lived("forwarding", Arc::clone(&self.forwarding).run());
        let greetings = Greetings::new(&self.membership, Arc::clone(&self.link), &self.telemetry);
        self.tasks.long_lived("greetings", greetings.run());
        let lifecycle = Arc::clone(&self.lifecycle);
        self.tasks.long_lived("sessions", async move { lifecycle.run().await });
        let (relay, superseded) = (Arc::clone(self), superseded.clone());
        let stop = self.tasks.stop().clone();
        let watched = self.tasks.until("membership", &superseded.clone(), async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => superseded.cancel(),
                () = relay.run_membership() => superseded.cancel(),
            }
        });
        drop(watched);
    }

    async fn run_routes(&self) {
        let Completion { pending, routes, .. } = &*self.completion;
        let (registry, telemetry) = (&*self.registry, &*self.telemetry);
        let health = &*self.membership.health;
        write_behind::run(&RouteWriter { routes, pending, registry, health, telemetry }).await;
    }

    async fn run_waits(&self) {
        let (waits, completion) = (&*self.completion.waits, &*self.completion);
        let (registry, telemetry) = (&*self.registry, &*self.telemetry);
        let health = &*self.membership.health;
        let over = |request, latest| answer_with(completion, request, &latest);
        write_behind::run(&WaitWriter { waits, registry, health, telemetry, over }).await;
    }

    /// Copies sessions to the registry for as long as the node lives.
    pub(crate) async fn run_checkpoints(&self) {
        let writer = Writer {
            queue: &self.checkpoints,
            registry: &*self.registry,
            health: &self.membership.health,
            owner: &*self.lifecycle,
            node: &self.node,
            telemetry: &self.telemetry,
        };
        write_behind::run(&writer).await;
    }

    /// Cancelled when this node has to stop.
    async fn run_membership(&self) {
        let heard = |table: TableState| {
            self.checkpoints.set_generation(table.generation);
            if table.lacks_ours {
                self.lifecycle.write_again();
                self.completion.waits.write_again();
                self.completion.results.write_again();
            }
        };
        let Err(Superseded) = self.membership.run(heard).await else { return };
    }

    /// Whether the latest call of the registry succeeded.
    pub fn is_registry_reachable(&self) -> bool {
        self.membership.health.is_reachable()
    }

    /// Whether Kafka can be reached, as far as is known.
    pub fn is_bus_available(&self) -> bool {
        self.producer.is_available()
    }

    /// How many records wait for their acknowledgement.
    pub fn unacknowledged(&self) -> usize {
        self.producer.outstanding()
    }
}

/// Milliseconds since the Unix epoch by this node's clock; 0 before it.
pub fn unix_ms() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
