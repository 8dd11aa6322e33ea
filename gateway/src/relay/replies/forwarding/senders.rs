//! The lines to all peers: one is there from the first stray for its peer until that peer is dead.

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

/// All lines, by their peers.
#[derive(Debug)]
pub(super) struct PeerSenders {
    means: Arc<Means>,
    tasks: Tasks,
    queues: Mutex<HashMap<NodeRef, Arc<PeerQueue>>>,
}

/// However a line ends, also by a panic, what still waits for it is not forgotten.
struct Ending {
    lines: Arc<PeerSenders>,
    node: NodeRef,
}

impl PeerSenders {
    /// No line. Those to come hand back to `inbox`.
    pub(super) fn new(
        around: &Surroundings,
        services: &Arc<Services>,
        membership: &Arc<Membership>,
        inbox: &Arc<LookupQueue>,
    ) -> Self {
        let means = Arc::new(Means {
            membership: Arc::clone(membership),
            link: Arc::clone(&around.link),
            inbox: Arc::clone(inbox),
            services: Arc::clone(services),
            telemetry: Arc::clone(&around.telemetry),
        });
        Self { means, tasks: around.tasks.clone(), queues: Mutex::default() }
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
        refused.inspect(|_| self.means.telemetry.limit_hit("peer_queue"))
    }

    /// A line has ended. What it has left goes back; what comes later starts another one.
    fn ended(&self, node: &NodeRef) {
        let queue = locked(&self.queues).remove(node);
        if let Some(queue) = queue {
            self.means.inbox.put(queue.take());
        }
    }

    fn start(self: &Arc<Self>, node: NodeRef, queue: Arc<PeerQueue>) {
        let ending = Ending { lines: Arc::clone(self), node: node.clone() };
        let line = PeerSender::new(node, queue, Arc::clone(&self.means));
        let stop = self.tasks.stop().clone();
        self.tasks.short_lived(async move {
            let _ending = ending;
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = line.run() => {}
            }
        });
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.lines.ended(&self.node);
    }
}
