//! Who is in the cluster: announces this node, and knows which peers are alive.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use registry::{Announcement, NodeEntry, NodeId, NodeRef, NodeState, Registry, RegistryError};
use tokio::{sync::Notify, time::Instant};

use super::Relay;
use crate::tasks::locked;

/// How often a node refreshes its entry.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
/// How long an entry lives without a refresh: a node that is silent so long is dead.
const NODE_TTL: Duration = Duration::from_secs(6);
/// Between two attempts while the registry cannot be reached.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// What this node knows of the cluster.
#[derive(Debug)]
pub struct Membership {
    this: NodeRef,
    url: String,
    state: Mutex<NodeState>,
    registry: Arc<dyn Registry>,
    peers: ArcSwap<Peers>,
    changed: Notify,
    announced: AtomicBool,
    /// The table lost what it held: until then the live nodes are writing it again.
    incomplete_until: Mutex<Option<Instant>>,
}

type Peers = HashMap<NodeId, NodeEntry>;

/// Another node runs under this node's name and has started later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another node with the same node_id has started")]
pub struct Superseded;

impl Membership {
    /// A node that has not announced itself. `url` is where its peers reach it.
    pub fn new(this: NodeRef, url: String, registry: Arc<dyn Registry>) -> Self {
        Self {
            this,
            url,
            state: Mutex::new(NodeState::Starting),
            registry,
            peers: ArcSwap::default(),
            changed: Notify::new(),
            announced: AtomicBool::new(false),
            incomplete_until: Mutex::default(),
        }
    }

    /// Changes what the others see of this node, at once.
    pub fn set_state(&self, state: NodeState) {
        if std::mem::replace(&mut *locked(&self.state), state) != state {
            self.changed.notify_one();
        }
    }

    /// Whether the cluster has heard of this node.
    pub fn is_announced(&self) -> bool {
        self.announced.load(Ordering::Relaxed)
    }

    /// A peer's entry, if that very run of it is alive.
    pub fn find(&self, node: &NodeRef) -> Option<NodeEntry> {
        self.peers.load().get(&node.id).filter(|entry| entry.node == *node).cloned()
    }

    /// Asks the registry anew who is alive.
    ///
    /// # Errors
    /// Whatever the registry says; what was known stays.
    pub async fn refresh(&self) -> Result<(), RegistryError> {
        let nodes = self.registry.nodes().await?;
        let mut peers: Peers =
            nodes.into_iter().map(|entry| (entry.node.id.clone(), entry)).collect();
        if self.is_announced() && !peers.contains_key(&self.this.id) {
            self.lost();
        }
        if self.is_incomplete() {
            // Who is missing has not had its turn yet.
            for (id, entry) in self.peers.load().iter() {
                peers.entry(id.clone()).or_insert_with(|| entry.clone());
            }
        }
        self.peers.store(Arc::new(peers));
        Ok(())
    }

    /// Whether the registry may lack what live nodes hold, because it has lost it: then neither a
    /// missing route nor a missing node means anything.
    pub fn is_incomplete(&self) -> bool {
        locked(&self.incomplete_until).is_some_and(|until| Instant::now() < until)
    }

    /// The registry has lost what it held. Every live node announces itself, and writes again what
    /// it holds, within the time after which it would be dead.
    fn lost(&self) {
        *locked(&self.incomplete_until) = Some(Instant::now() + NODE_TTL);
    }

    /// Announces this node for as long as it lives, or until another one takes its name.
    ///
    /// # Errors
    /// [`Superseded`]: this node must stop.
    pub async fn run(&self, relay: &Relay) -> Result<(), Superseded> {
        loop {
            let pause = match self.announce(relay).await {
                Ok(Announcement::Superseded) => return Err(Superseded),
                Ok(_) => ANNOUNCE_INTERVAL,
                Err(error) => {
                    tracing::debug!(%error, "not announced");
                    RETRY_INTERVAL
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Takes this node out of the table.
    pub async fn leave(&self) {
        if let Err(error) = self.registry.leave(&self.this).await {
            tracing::debug!(%error, "not taken out of the node table; the entry will expire");
        }
    }

    async fn announce(&self, relay: &Relay) -> Result<Announcement, RegistryError> {
        let entry = NodeEntry {
            node: self.this.clone(),
            url: self.url.clone(),
            state: *locked(&self.state),
        };
        let started = Instant::now();
        let result = self.registry.announce(&entry, NODE_TTL).await;
        relay.telemetry().registry_call("announce", started.elapsed());
        relay.routes().set_reachable(result.is_ok());
        if result == Ok(Announcement::Fresh) && self.announced.swap(true, Ordering::Relaxed) {
            tracing::warn!("the registry had lost this node; writing again what it holds");
            self.lost();
            relay.routes().rewrite();
        }
        let announcement = result?;
        self.refresh().await?;
        Ok(announcement)
    }
}
