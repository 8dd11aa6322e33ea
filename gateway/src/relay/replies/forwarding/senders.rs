//! The lines to all peers: one is there from the first stray for its peer until that peer is dead.

use std::{
    collections::{HashMap, hash_map},
    sync::{Arc, Mutex},
};

use registry::NodeRef;

use super::sender::{PeerQueue, PeerSender};
use crate::{
    peer::PeerLink,
    relay::{
        cluster::Membership,
        requests::foreign::{ForeignReply, LookupQueue},
        services::Services,
        surroundings::Surroundings,
    },
    tasks::{Tasks, locked},
    telemetry::Telemetry,
};

/// What all lines share, and their queues.
#[derive(Debug)]
pub(super) struct PeerSenders {
    pub(super) membership: Arc<Membership>,
    pub(super) link: Arc<dyn PeerLink>,
    pub(super) inbox: Arc<LookupQueue>,
    pub(super) services: Arc<Services>,
    pub(super) telemetry: Arc<Telemetry>,
    tasks: Tasks,
    queues: Mutex<HashMap<NodeRef, Arc<PeerQueue>>>,
}

impl PeerSenders {
    /// No line. Those to come hand back to `inbox`.
    pub(super) fn new(
        around: &Surroundings,
        services: &Arc<Services>,
        membership: &Arc<Membership>,
        inbox: &Arc<LookupQueue>,
    ) -> Self {
        Self {
            membership: Arc::clone(membership),
            link: Arc::clone(&around.link),
            inbox: Arc::clone(inbox),
            services: Arc::clone(services),
            telemetry: Arc::clone(&around.telemetry),
            tasks: around.tasks.clone(),
            queues: Mutex::default(),
        }
    }

    /// Queues a stray for a peer, or hands it back when that peer's queue is full.
    pub(super) fn push(
        self: &Arc<Self>,
        node: &NodeRef,
        stray: ForeignReply,
    ) -> Option<ForeignReply> {
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
        refused.inspect(|_| self.telemetry.limit_hit("peer_queue"))
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
            let line = PeerSender { node, queue, lines };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = line.run() => {}
            }
        });
    }
}
