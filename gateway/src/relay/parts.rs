//! The relay's parts, joined: all of a node that is neither an adapter nor an edge.

use std::sync::Arc;

use registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Relay, dispatch::Dispatch, greetings::Greetings, handover::Handover, homing::Homing,
    membership::Membership,
};
use crate::{bus::ConsumerControl, peer::PeerLink, tasks::Tasks};

/// What works together on one node.
#[derive(Debug)]
pub struct Parts {
    /// What the edges call.
    pub relay: Arc<Relay>,
    /// Who else is there.
    pub membership: Arc<Membership>,
    registry: Arc<dyn Registry>,
    link: Arc<dyn PeerLink>,
    homing: Arc<Homing>,
    tasks: Tasks,
}

impl Parts {
    /// Joins a relay, which peers reach at `url`, with the registry and its peers. Nothing runs yet.
    pub fn join(
        relay: Arc<Relay>,
        url: String,
        registry: Arc<dyn Registry>,
        link: Arc<dyn PeerLink>,
        tasks: Tasks,
    ) -> Self {
        let membership =
            Arc::new(Membership::new(relay.node().clone(), url, Arc::clone(&registry)));
        let homing = Arc::new(Homing::new(
            Arc::clone(&relay),
            Arc::clone(&registry),
            Arc::clone(&membership),
            Arc::clone(&link),
            tasks.clone(),
        ));
        Self { relay, membership, registry, link, homing, tasks }
    }

    /// What brings sessions to this node.
    pub fn handover(&self) -> Handover {
        Handover::new(
            Arc::clone(&self.relay),
            Arc::clone(&self.registry),
            Arc::clone(&self.membership),
            Arc::clone(&self.link),
        )
    }

    /// What reads replies; and what tells when it has its first assignment.
    pub fn reader(&self, control: Arc<dyn ConsumerControl>) -> (Dispatch, watch::Receiver<bool>) {
        Dispatch::new(Arc::clone(&self.relay), Arc::clone(&self.homing), control)
    }

    /// Starts everything but the reader. `superseded` is cancelled when another run of this node has
    /// taken its name.
    pub fn start(&self, superseded: &CancellationToken) {
        let relay = Arc::clone(&self.relay);
        self.tasks.long_lived("deadlines", async move { relay.run_deadlines().await });
        let (relay, table) = (Arc::clone(&self.relay), Arc::clone(&self.registry));
        self.tasks.long_lived("routes", async move {
            relay.routes().run(table, relay.pending(), relay.telemetry()).await;
        });
        let (relay, table) = (Arc::clone(&self.relay), Arc::clone(&self.registry));
        self.tasks.long_lived("backups", async move {
            relay.backups().run(table, &relay).await;
        });
        self.tasks.long_lived("homing", Arc::clone(&self.homing).run());
        let (relay, membership) = (Arc::clone(&self.relay), Arc::clone(&self.membership));
        let greetings = Greetings::new(relay, membership, Arc::clone(&self.link));
        self.tasks.long_lived("greetings", greetings.run());
        let relay = Arc::clone(&self.relay);
        self.tasks.long_lived("sessions", async move { relay.run_sessions().await });
        let (relay, membership) = (Arc::clone(&self.relay), Arc::clone(&self.membership));
        let watched = self.tasks.until("membership", superseded, {
            let (superseded, stop) = (superseded.clone(), self.tasks.stop().clone());
            async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => superseded.cancel(),
                    Err(_) = membership.run(&relay) => superseded.cancel(),
                }
            }
        });
        drop(watched);
    }
}
