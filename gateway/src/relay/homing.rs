//! Brings replies home that nobody on this node waits for: asks the registry whose they are, and
//! forwards them, in order, to the node that waits.
//!
//! Every stray holds its partition's offset back until somebody has said what became of it. What
//! cannot be looked up or delivered yet waits; it is never dropped for that reason.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use registry::{NodeRef, Registry, RequestId, Route};
use tokio::{sync::Notify, time::Instant};

use super::{Relay, membership::Membership, unix_ms, window::Hold};
use crate::{
    peer::PeerLink,
    tasks::{Tasks, locked},
    wire::Reply,
};

mod line;

use line::{PeerLine, PeerQueue, give_up};

/// Look-ups in one round trip.
const LOOKUPS_MAX: usize = 512;
/// A route may be slower than its reply: "no route" is final only for ids older than this.
const SETTLING_TIME: Duration = Duration::from_secs(2);
/// How long every reply without a route is looked up again, however old its id: the clock of the
/// node that chose it may be slow.
const SECOND_LOOK: Duration = Duration::from_millis(100);
/// First and last pause between two look-ups of the same young id.
const LOOKUP_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
/// Between two attempts while the registry cannot be reached.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
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
        queue.push(stray).inspect_err(|_| self.relay.telemetry().limit_hit("peer_queue"))
    }

    /// Drops the lines that have ended, and starts again one that ended with something queued.
    fn tend_lines(&self, peers: &mut Peers) {
        peers.retain(|node, queue| {
            if Arc::strong_count(queue) > 1 {
                return true;
            }
            let is_needed = !queue.is_empty();
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
    let is_old = stray.request.unix_ms().saturating_add(settling_ms) < unix_ms();
    stray.read_at.elapsed() >= if is_old { SECOND_LOOK } else { SETTLING_TIME }
}
