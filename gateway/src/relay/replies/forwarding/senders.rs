//! The senders to all peers: each lives from the first foreign reply for its peer until that peer
//! is dead.

use std::{
    collections::{HashMap, hash_map},
    sync::{Arc, Mutex},
};

use registry::NodeRef;

use super::sender::{Means, PeerQueue, PeerSender};
use crate::{
    relay::{
        cluster::Membership,
        requests::foreign::{ForeignReply, LookupQueue},
        services::Services,
        surroundings::Surroundings,
    },
    tasks::{Tasks, locked},
};

/// The senders to all peers.
#[derive(Debug)]
pub(super) struct PeerSenders {
    means: Arc<Means>,
    tasks: Tasks,
    queues: Mutex<HashMap<NodeRef, Arc<PeerQueue>>>,
}

/// When a sender ends, also by a panic, hands back what still waits for it.
struct HandBack {
    senders: Arc<PeerSenders>,
    node: NodeRef,
}

impl PeerSenders {
    /// No sender yet. They hand back to `lookups`.
    pub(super) fn new(
        around: &Surroundings,
        services: &Arc<Services>,
        membership: &Arc<Membership>,
        lookups: &Arc<LookupQueue>,
    ) -> Self {
        let means = Arc::new(Means {
            membership: Arc::clone(membership),
            link: Arc::clone(&around.link),
            lookups: Arc::clone(lookups),
            services: Arc::clone(services),
            telemetry: Arc::clone(&around.telemetry),
        });
        Self { means, tasks: around.tasks.clone(), queues: Mutex::default() }
    }

    /// Queues a foreign reply for a peer, or returns it if that peer's queue is full.
    pub(super) fn push(
        self: &Arc<Self>,
        node: &NodeRef,
        foreign: ForeignReply,
    ) -> Option<ForeignReply> {
        let mut queues = locked(&self.queues);
        let (queue, is_new) = match queues.entry(node.clone()) {
            hash_map::Entry::Occupied(entry) => (entry.into_mut(), false),
            hash_map::Entry::Vacant(entry) => (entry.insert(Arc::default()), true),
        };
        let refused = queue.push(foreign);
        let started = is_new.then(|| Arc::clone(queue));
        drop(queues);
        if let Some(queue) = started {
            self.start(node.clone(), queue);
        }
        refused.inspect(|_| self.means.telemetry.limit_hit("peer_queue"))
    }

    /// A sender has ended. What it has left is looked up again; what comes later starts another
    /// sender.
    fn ended(&self, node: &NodeRef) {
        let queue = locked(&self.queues).remove(node);
        if let Some(queue) = queue {
            self.means.lookups.put(queue.take());
        }
    }

    fn start(self: &Arc<Self>, node: NodeRef, queue: Arc<PeerQueue>) {
        let hand_back = HandBack { senders: Arc::clone(self), node: node.clone() };
        let sender = PeerSender::new(node, queue, Arc::clone(&self.means));
        let stop = self.tasks.stop().clone();
        self.tasks.short_lived(async move {
            let _hand_back = hand_back;
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = sender.run() => {}
            }
        });
    }
}

impl Drop for HandBack {
    fn drop(&mut self) {
        self.senders.ended(&self.node);
    }
}
