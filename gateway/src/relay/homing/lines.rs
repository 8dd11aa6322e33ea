//! The lines to all peers: one is there from the first stray for its peer until that peer is dead.

use std::{
    collections::{HashMap, hash_map},
    sync::{Arc, Mutex},
};

use registry::NodeRef;

use super::{
    Stray,
    inbox::Inbox,
    line::{PeerLine, PeerQueue},
};
use crate::{
    peer::PeerLink,
    relay::{Relay, membership::Membership},
    tasks::{Tasks, locked},
};

/// What all lines share, and their queues.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) relay: Arc<Relay>,
    pub(super) membership: Arc<Membership>,
    pub(super) link: Arc<dyn PeerLink>,
    pub(super) inbox: Arc<Inbox>,
    tasks: Tasks,
    queues: Mutex<HashMap<NodeRef, Arc<PeerQueue>>>,
}

impl Lines {
    /// No line. Those to come are tasks of `tasks`, and hand back to `inbox`.
    pub(super) fn new(
        relay: Arc<Relay>,
        membership: Arc<Membership>,
        link: Arc<dyn PeerLink>,
        inbox: Arc<Inbox>,
        tasks: Tasks,
    ) -> Self {
        Self { relay, membership, link, inbox, tasks, queues: Mutex::default() }
    }

    /// Queues a stray for a peer, or hands it back when that peer's queue is full.
    pub(super) fn push(self: &Arc<Self>, node: &NodeRef, stray: Stray) -> Option<Stray> {
        let mut queues = locked(&self.queues);
        let (queue, is_new) = match queues.entry(node.clone()) {
            hash_map::Entry::Occupied(entry) => (entry.into_mut(), false),
            hash_map::Entry::Vacant(entry) => (entry.insert(Arc::default()), true),
        };
        let refused = queue.push(stray);
        let started = is_new.then(|| Arc::clone(queue));
        drop(queues);
        if let Some(queue) = started {
            self.start(node.clone(), queue);
        }
        refused.inspect(|_| self.relay.telemetry().limit_hit("peer_queue"))
    }

    /// A line has ended. What it has left goes back; what comes later starts another one.
    pub(super) fn ended(&self, node: &NodeRef) {
        let queue = locked(&self.queues).remove(node);
        if let Some(queue) = queue {
            self.inbox.put(queue.take());
        }
    }

    fn start(self: &Arc<Self>, node: NodeRef, queue: Arc<PeerQueue>) {
        let lines = Arc::clone(self);
        let stop = self.tasks.stop().clone();
        self.tasks.short_lived(async move {
            let line = PeerLine { node, queue, lines };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = line.run() => {}
            }
        });
    }
}
