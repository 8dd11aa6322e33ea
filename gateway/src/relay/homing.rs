//! Brings replies home that nobody on this node waits for: asks the registry whose they are, and
//! forwards them, in order, to the node that waits.
//!
//! Every stray holds its partition's offset back until somebody has said what became of it. What
//! cannot be looked up or delivered yet waits; it is never dropped for that reason.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use registry::{NodeEntry, NodeRef, Registry, RequestId, Route};
use tokio::{sync::Notify, time::Instant};

use super::{Relay, membership::Membership, unix_ms, window::Hold};
use crate::{
    peer::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Delivery, PeerError, PeerLink, Verdict},
    tasks::{Tasks, locked},
    wire::Reply,
};

/// Look-ups in one round trip.
const LOOKUPS_MAX: usize = 512;
/// A route may be slower than its reply: "no route" is final only for ids older than this.
const SETTLING_TIME: Duration = Duration::from_secs(2);
/// First and last pause between two look-ups of the same young id.
const LOOKUP_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
/// Between two attempts while the registry cannot be reached.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// How long a peer may take for a batch.
const PEER_TIMEOUT: Duration = Duration::from_secs(2);
/// First and last pause between two attempts to reach a peer.
const PEER_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Replies that wait for one peer; more are looked up again later.
const PEER_QUEUE_MAX: usize = 16 * 1024;

/// A reply that nobody on this node waits for.
#[derive(Debug)]
pub struct Stray {
    /// Whose it is.
    pub request: RequestId,
    /// What it says, with every header that may concern a client.
    pub reply: Reply,
    /// Keeps its offset from being stored.
    pub hold: Hold,
    /// When it was read.
    pub read_at: Instant,
    /// The same in microseconds since the Unix epoch.
    pub read_at_us: u64,
}

/// The way home for strays. Shared by the reader and the tasks that bring them home.
#[derive(Debug)]
pub struct Homing {
    relay: Arc<Relay>,
    registry: Arc<dyn Registry>,
    membership: Arc<Membership>,
    link: Arc<dyn PeerLink>,
    tasks: Tasks,
    /// Bounded by the windows of the partitions that the strays were read from.
    found: Mutex<Vec<Stray>>,
    wake: Notify,
}

/// A stray without a route that may still get one.
#[derive(Debug)]
struct Waiting {
    stray: Stray,
    next: Instant,
    pause: Duration,
}

/// One peer's queue, in the order of reading.
#[derive(Debug, Default)]
struct PeerQueue {
    strays: Mutex<VecDeque<Stray>>,
    wake: Notify,
}

type Peers = HashMap<NodeRef, Arc<PeerQueue>>;

impl Homing {
    /// Nothing on its way. Peers' queues are worked off by tasks of `tasks`.
    pub fn new(
        relay: Arc<Relay>,
        registry: Arc<dyn Registry>,
        membership: Arc<Membership>,
        link: Arc<dyn PeerLink>,
        tasks: Tasks,
    ) -> Self {
        let (found, wake) = (Mutex::default(), Notify::new());
        Self { relay, registry, membership, link, tasks, found, wake }
    }

    /// Takes a stray over.
    pub fn take(&self, stray: Stray) {
        locked(&self.found).push(stray);
        self.wake.notify_one();
    }

    /// Brings strays home for as long as the node lives.
    pub async fn run(self: Arc<Self>) {
        let mut peers = Peers::new();
        let mut waiting: Vec<Waiting> = Vec::new();
        loop {
            let next = waiting.iter().map(|waiting| waiting.next).min();
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = due => {}
            }
            let now = Instant::now();
            let mut batch: Vec<Waiting> = waiting.extract_if(.., |w| w.next <= now).collect();
            let found = std::mem::take(&mut *locked(&self.found));
            batch.extend(found.into_iter().map(|stray| Waiting {
                stray,
                next: now,
                pause: LOOKUP_PAUSE.0,
            }));
            while !batch.is_empty() {
                let rest = batch.split_off(batch.len().min(LOOKUPS_MAX));
                self.look_up(std::mem::replace(&mut batch, rest), &mut waiting, &mut peers).await;
            }
        }
    }

    async fn look_up(&self, batch: Vec<Waiting>, waiting: &mut Vec<Waiting>, peers: &mut Peers) {
        let requests: Vec<RequestId> = batch.iter().map(|w| w.stray.request).collect();
        let routes = self.find_routes(&requests).await;
        // Two answers need a second look at the registry, once for the whole batch: a node not heard
        // of yet may be new, and "no route" may mean that the registry has lost everything.
        let is_doubtful = |(item, route): (&Waiting, &Option<Route>)| match route {
            Some(route) => route.node != *self.relay.node() && !self.is_alive(&route.node),
            None => is_settled(&item.stray),
        };
        if batch.iter().zip(&routes).any(is_doubtful) {
            self.refresh_membership().await;
        }
        let is_complete = !self.membership.is_incomplete();
        self.tend_lines(peers);
        for (mut item, route) in batch.into_iter().zip(routes) {
            match route {
                Some(route) => {
                    if let Err(stray) = self.forward(item.stray, &route, peers) {
                        // The peer's queue is full: ask again later.
                        item.stray = stray;
                        waiting.push(item.later());
                    }
                }
                None if is_complete && is_settled(&item.stray) => {
                    self.relay.unrouted();
                    item.stray.hold.done();
                }
                None => waiting.push(item.later()),
            }
        }
    }

    /// Asks until the registry answers: its absence is no answer.
    async fn find_routes(&self, requests: &[RequestId]) -> Vec<Option<Route>> {
        loop {
            let started = Instant::now();
            match self.registry.find_routes(requests).await {
                Ok(routes) => {
                    self.relay.telemetry().registry_call("find_routes", started.elapsed());
                    return routes;
                }
                Err(error) => {
                    tracing::debug!(%error, "routes not found");
                    self.relay.routes().set_reachable(false);
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    async fn refresh_membership(&self) {
        while let Err(error) = self.membership.refresh().await {
            tracing::debug!(%error, "node table not read");
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    fn is_alive(&self, node: &NodeRef) -> bool {
        self.membership.find(node).is_some()
    }

    fn forward(&self, stray: Stray, route: &Route, peers: &mut Peers) -> Result<(), Stray> {
        if route.node == *self.relay.node() {
            // It waited here and has ended: a late or second reply.
            self.relay.unrouted();
            stray.hold.done();
            return Ok(());
        }
        if !self.is_alive(&route.node) {
            give_up(&self.relay, [stray]);
            return Ok(());
        }
        let queue = peers.entry(route.node.clone()).or_insert_with(|| {
            let queue = Arc::new(PeerQueue::default());
            self.start_line(route.node.clone(), Arc::clone(&queue));
            queue
        });
        let mut strays = locked(&queue.strays);
        if strays.len() >= PEER_QUEUE_MAX {
            self.relay.telemetry().limit_hit("peer_queue");
            return Err(stray);
        }
        strays.push_back(stray);
        drop(strays);
        queue.wake.notify_one();
        Ok(())
    }

    /// Drops the lines that have ended, and starts again one that ended with something queued.
    fn tend_lines(&self, peers: &mut Peers) {
        peers.retain(|node, queue| {
            if Arc::strong_count(queue) > 1 {
                return true;
            }
            let is_needed = !locked(&queue.strays).is_empty();
            if is_needed {
                self.start_line(node.clone(), Arc::clone(queue));
            }
            is_needed
        });
    }

    fn start_line(&self, node: NodeRef, queue: Arc<PeerQueue>) {
        let line = PeerLine {
            node,
            queue,
            relay: Arc::clone(&self.relay),
            membership: Arc::clone(&self.membership),
            link: Arc::clone(&self.link),
        };
        let stop = self.tasks.stop().clone();
        self.tasks.short_lived(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                strays = line.run() => line.give_up(strays),
            }
        });
    }
}

impl Waiting {
    fn later(self) -> Self {
        let pause = (self.pause * 2).min(LOOKUP_PAUSE.1);
        Self { stray: self.stray, next: Instant::now() + self.pause, pause }
    }
}

/// Whether a route that is missing will not come any more, if the registry has lost nothing.
fn is_settled(stray: &Stray) -> bool {
    let settling_ms = SETTLING_TIME.as_millis() as u64;
    stray.request.unix_ms().saturating_add(settling_ms) < unix_ms()
        || stray.read_at.elapsed() >= SETTLING_TIME
}

/// The one ordered stream of batches to one run of one peer.
struct PeerLine {
    node: NodeRef,
    queue: Arc<PeerQueue>,
    relay: Arc<Relay>,
    membership: Arc<Membership>,
    link: Arc<dyn PeerLink>,
}

impl PeerLine {
    /// Forwards until the peer is dead; returns what could not be delivered to it.
    async fn run(&self) -> Vec<Stray> {
        loop {
            let batch = self.next_batch();
            if batch.is_empty() {
                let notified = self.queue.wake.notified();
                if tokio::time::timeout(PEER_TIMEOUT, notified).await.is_err()
                    && self.membership.find(&self.node).is_none()
                {
                    return Vec::new();
                }
                continue;
            }
            if let Err(undelivered) = self.send(batch).await {
                return undelivered;
            }
        }
    }

    /// Sends one batch, as often as it takes while the peer lives.
    async fn send(&self, strays: Vec<Stray>) -> Result<(), Vec<Stray>> {
        let (mut batch, mut holds) = (Vec::new(), Vec::new());
        for Stray { request, reply, hold, read_at, read_at_us } in strays {
            batch.push(Delivery { request, read_at_us, reply });
            holds.push((hold, read_at));
        }
        let mut pause = PEER_PAUSE.0;
        while let Some(NodeEntry { url, .. }) = self.membership.find(&self.node) {
            match self.link.deliver(&url, &batch, PEER_TIMEOUT).await {
                Ok(verdicts) => {
                    self.settle(&verdicts, holds.into_iter().map(|(hold, _)| hold));
                    return Ok(());
                }
                Err(error) => self.failed(&error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PEER_PAUSE.1);
        }
        let stray = |(Delivery { request, read_at_us, reply }, (hold, read_at))| Stray {
            request,
            reply,
            hold,
            read_at,
            read_at_us,
        };
        Err(batch.into_iter().zip(holds).map(stray).collect())
    }

    fn settle(&self, verdicts: &[Verdict], holds: impl Iterator<Item = Hold>) {
        let delivered = verdicts.iter().filter(|verdict| **verdict == Verdict::Delivered).count();
        let unknown = verdicts.len() - delivered;
        let (peer, telemetry) = (self.node.id.as_str(), self.relay.telemetry());
        telemetry.forwarded(peer, "delivered", delivered as u64);
        telemetry.forwarded(peer, "unknown", unknown as u64);
        for _ in 0..unknown {
            self.relay.unrouted();
        }
        holds.for_each(Hold::done);
    }

    fn failed(&self, error: &PeerError) {
        self.relay.telemetry().forwarded(self.node.id.as_str(), "failed", 1);
        tracing::debug!(peer = %self.node, %error, "batch not delivered");
    }

    fn next_batch(&self) -> Vec<Stray> {
        let mut strays = locked(&self.queue.strays);
        let mut bytes = 0;
        let fits = |stray: &&Stray| {
            bytes += stray.reply.payload.len();
            bytes <= BATCH_BYTES_MAX
        };
        let count = strays.iter().take(BATCH_RECORDS_MAX).take_while(fits).count();
        let count = count.max(1).min(strays.len());
        strays.drain(..count).collect()
    }

    fn give_up(&self, undelivered: Vec<Stray>) {
        let queued = std::mem::take(&mut *locked(&self.queue.strays));
        give_up(&self.relay, undelivered.into_iter().chain(queued));
    }
}

/// The node that waited is dead, and its sockets with it.
fn give_up(relay: &Relay, strays: impl IntoIterator<Item = Stray>) {
    let mut count = 0;
    for stray in strays {
        count += 1;
        relay.unrouted();
        stray.hold.done();
    }
    relay.telemetry().frames_abandoned("node_lost", count);
}
