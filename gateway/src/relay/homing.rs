//! Brings replies home that nobody on this node waits for: forwards them, in order, to the node
//! that waits. The mark in a reply's id names it; where that leads nowhere, the registry is asked.
//!
//! Every stray holds its partition's offset back until somebody has said what became of it. What
//! cannot be looked up or delivered yet waits; it is never dropped for that reason.

use std::{sync::Arc, time::Duration};

use registry::{NodeRef, Registry, RequestId, Route, SessionId};
use tokio::time::Instant;

use super::{Delivery, Relay, mark::NodeMark, membership::Membership, window::Hold};
use crate::{peer::PeerLink, tasks::Tasks, telemetry::Way, wire::Reply};

mod inbox;
mod line;
mod lines;
mod moved;

pub use inbox::Inbox;
use lines::Lines;

/// Look-ups in one round trip.
const LOOKUPS_MAX: usize = 512;
/// A route may be slower than its reply: "no route" is final only for ids older than this.
const SETTLING_TIME: Duration = Duration::from_secs(2);
/// How long every reply without a route is looked up again, however old its id.
const SECOND_LOOK: Duration = Duration::from_millis(100);
/// How much the clocks of two nodes may differ: an id tells when it was chosen by the clock of the node
/// that chose it, so a younger one than this may be as young as any.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(60);
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
    /// Keeps its offset from being stored, where this node has read it.
    pub hold: Option<Hold>,
    /// When it was read.
    pub read_at: Instant,
    /// Who says where it belongs.
    pub guide: Guide,
    /// Which session wants it, once its route has said so.
    pub wants: Option<Wants>,
    /// Whether its session was still on its way when it came there: it has to wait a little.
    pub is_early: bool,
}

/// What a route says of a session's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wants {
    /// The session.
    pub session: SessionId,
    /// Its client's id of the request, as JSON text.
    pub client_id: Box<str>,
    /// For which epoch of the session the stray was last sent to its holder.
    pub epoch: Option<u64>,
}

/// Who says to which node a stray belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Guide {
    /// The mark in its id, on nobody's word.
    #[default]
    Mark,
    /// The registry.
    Registry {
        /// The peer that has said that nobody waits for it there.
        denied_by: Option<NodeRef>,
    },
}

/// The way home for strays. Shared by the reader and the tasks that bring them home.
#[derive(Debug)]
pub struct Homing {
    relay: Arc<Relay>,
    registry: Arc<dyn Registry>,
    membership: Arc<Membership>,
    inbox: Arc<Inbox>,
    lines: Arc<Lines>,
}

/// A stray without a route that may still get one.
#[derive(Debug)]
struct Waiting {
    stray: Stray,
    next: Instant,
    pause: Duration,
}

impl Homing {
    /// Nothing on its way. Peers' queues are worked off by tasks of `tasks`.
    pub fn new(
        relay: Arc<Relay>,
        registry: Arc<dyn Registry>,
        membership: Arc<Membership>,
        link: Arc<dyn PeerLink>,
        tasks: Tasks,
    ) -> Self {
        let inbox = Arc::clone(relay.strays());
        let lines = Arc::new(Lines::new(
            Arc::clone(&relay),
            Arc::clone(&membership),
            link,
            Arc::clone(&inbox),
            tasks,
        ));
        Self { relay, registry, membership, inbox, lines }
    }

    /// Takes a newly found stray over: it goes to the peer that its mark names, at once, or is
    /// looked up.
    pub fn take(&self, stray: Stray) {
        let mark = NodeMark::read(stray.request);
        let left = match mark.and_then(|mark| self.membership.find_marked(mark)) {
            Some(peer) => self.lines.push(&peer, stray),
            None => Some(stray),
        };
        if let Some(stray) = left {
            self.inbox.put([stray]);
        }
    }

    /// Asks whose strays are, and sends them there, for as long as the node lives.
    pub async fn run(self: Arc<Self>) {
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
                biased;
                () = self.inbox.filled() => {}
                () = due => {}
            }
            let now = Instant::now();
            let mut batch: Vec<Waiting> = waiting.extract_if(.., |w| w.next <= now).collect();
            for mut stray in self.inbox.take() {
                let is_early = std::mem::take(&mut stray.is_early);
                let item = Waiting { stray, next: now, pause: LOOKUP_PAUSE.0 };
                match is_early {
                    true => waiting.push(item.later()),
                    false => batch.push(item),
                }
            }
            while !batch.is_empty() {
                let rest = batch.split_off(batch.len().min(LOOKUPS_MAX));
                self.look_up(std::mem::replace(&mut batch, rest), &mut waiting).await;
            }
        }
    }

    async fn look_up(&self, batch: Vec<Waiting>, waiting: &mut Vec<Waiting>) {
        // What it waits for may have come here meanwhile, with its session.
        let batch: Vec<Waiting> =
            batch.into_iter().filter_map(|item| self.deliver_here(item)).collect();
        if batch.is_empty() {
            return;
        }
        let requests: Vec<RequestId> = batch.iter().map(|w| w.stray.request).collect();
        let routes = self.find_routes(&requests).await;
        // Two answers need a second look at the registry, once for the whole batch: a node not heard
        // of yet may be new, and "no route" may mean that the registry has lost everything.
        let is_doubtful = |(item, route): (&Waiting, &Option<Route>)| match route {
            Some(route) => route.node != *self.relay.node() && !self.is_alive(&route.node),
            None => self.is_settled(&item.stray),
        };
        if batch.iter().zip(&routes).any(is_doubtful) {
            self.refresh_membership().await;
        }
        let is_complete = !self.membership.is_incomplete();
        let mut moved = Vec::new();
        for (mut item, route) in batch.into_iter().zip(routes) {
            let Some(route) = route else {
                match is_complete && self.is_settled(&item.stray) {
                    true => self.unrouted(item.stray),
                    false => waiting.push(item.later()),
                }
                continue;
            };
            item.stray.wants = wants(&route, item.stray.wants.as_ref());
            let is_there = route.node != *self.relay.node()
                && !item.stray.is_denied_by(&route.node)
                && self.is_alive(&route.node);
            if is_there {
                waiting.extend(self.forward(item, &route.node));
                continue;
            }
            // Its session may have come here since it was read.
            let Some(item) = self.deliver_here(item) else { continue };
            let is_lost = route.node == *self.relay.node() || item.stray.is_denied_by(&route.node);
            match &item.stray.wants {
                Some(_) => moved.push(item),
                None if is_complete || is_lost => self.give_up(item.stray, &route.node),
                None => waiting.push(item.later()),
            }
        }
        if !moved.is_empty() {
            self.follow(moved, waiting).await;
        }
    }

    /// Delivers a stray for which somebody waits here after all; else it comes back.
    fn deliver_here(&self, mut item: Waiting) -> Option<Waiting> {
        let stray = &mut item.stray;
        let hold = &mut stray.hold;
        let reply = &stray.reply;
        let delivery = self.relay.deliver(
            stray.request,
            |_| Way::Local,
            None,
            |_| hold.take(),
            |service| reply.passing(|name| service.passes_to_client(name)),
        );
        match delivery {
            Delivery::Unknown => return Some(item),
            // It holds its offset itself.
            Delivery::Kept(_) => {}
            Delivery::Delivered => item.stray.done(),
        }
        None
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

    /// Sends a stray to a node; it comes back for now when that node's queue is full.
    fn forward(&self, item: Waiting, node: &NodeRef) -> Option<Waiting> {
        let Waiting { stray, next, pause } = item;
        let stray = self.lines.push(node, stray)?;
        Some(Waiting { stray, next, pause }.later())
    }

    /// The HTTP call that it answers is over: it has ended on its node, or with it.
    fn give_up(&self, stray: Stray, node: &NodeRef) {
        if *node != *self.relay.node() && !self.is_alive(node) {
            self.relay.telemetry().frames_abandoned("node_lost", 1);
        }
        self.unrouted(stray);
    }

    /// Whether a route that is missing will not come any more, if the registry has lost nothing.
    fn is_settled(&self, stray: &Stray) -> bool {
        let young_ms = (SETTLING_TIME + CLOCKS_APART_MAX).as_millis() as u64;
        let now_ms = self.relay.nature.unix_ms();
        let is_old = stray.request.unix_ms().saturating_add(young_ms) < now_ms;
        stray.read_at.elapsed() >= if is_old { SECOND_LOOK } else { SETTLING_TIME }
    }

    /// Nobody waits for it any more.
    fn unrouted(&self, stray: Stray) {
        tracing::debug!(request = %stray.request, "nobody waits for the reply");
        self.relay.reply_went(Way::Unrouted);
        stray.done();
    }
}

fn wants(route: &Route, before: Option<&Wants>) -> Option<Wants> {
    let client_id = route.client_id.clone().unwrap_or_default();
    let epoch = before.and_then(|before| before.epoch);
    route.session.map(|session| Wants { session, client_id, epoch })
}

impl Stray {
    /// It needs nothing more: its offset may be stored.
    fn done(self) {
        if let Some(hold) = self.hold {
            hold.done();
        }
    }

    fn is_denied_by(&self, node: &NodeRef) -> bool {
        matches!(&self.guide, Guide::Registry { denied_by: Some(peer) } if peer == node)
    }
}

impl Waiting {
    fn later(self) -> Self {
        let pause = (self.pause * 2).min(LOOKUP_PAUSE.1);
        Self { stray: self.stray, next: Instant::now() + self.pause, pause }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{HashMap, HashSet},
        sync::Mutex,
    };

    use async_trait::async_trait;
    use bytes::Bytes;
    use registry::{MemoryRegistry, NodeEntry, NodeId, NodeState, NodeTable, RequestTable};

    use super::*;
    use crate::{
        bus::memory::MemoryBus,
        config::Config,
        peer::{Delivery, PeerError, Verdict},
        relay::{
            affinity::Affinity,
            unix_ms,
            window::{Record, Window},
        },
        tasks::locked,
        telemetry::Telemetry,
    };

    const CONFIG: &str = r#"
        node_id = "gw-1"
        internal.secret = "a-secret-of-the-tests"
        kafka = { bootstrap_servers = "memory", reply_topic = "replies" }
        registry.url = "memory:"
        [services.echo]
        request_topic = "echo"
        "#;
    /// A node that was silent for so long is dead.
    const TTL: Duration = Duration::from_secs(6);

    /// Peers that know what waits there; those that nobody has set up do not answer.
    #[derive(Debug, Default)]
    struct Peers {
        waiting: Mutex<HashMap<String, HashSet<RequestId>>>,
        /// Who was asked for what, in order.
        asked: Mutex<Vec<(String, RequestId)>>,
    }

    #[async_trait]
    impl PeerLink for Peers {
        async fn deliver(
            &self,
            url: &str,
            batch: &[Delivery],
            _: Duration,
        ) -> Result<Vec<Verdict>, PeerError> {
            let mut waiting = locked(&self.waiting);
            let unreachable = || PeerError::Unreachable("silent".to_owned());
            let there = waiting.get_mut(url).ok_or_else(unreachable)?;
            let verdict = |delivery: &Delivery| {
                locked(&self.asked).push((url.to_owned(), delivery.request));
                let found = there.remove(&delivery.request);
                if found { Verdict::Delivered } else { Verdict::Unknown }
            };
            Ok(batch.iter().map(verdict).collect())
        }

        async fn settle(
            &self,
            _: &str,
            kept: &[(RequestId, SessionId)],
            _: Duration,
        ) -> Result<Vec<Verdict>, PeerError> {
            Ok(kept.iter().map(|_| Verdict::Over).collect())
        }

        async fn release(
            &self,
            _: &str,
            _: SessionId,
            _: u64,
            _: Duration,
        ) -> Result<Option<Bytes>, PeerError> {
            Ok(None)
        }
    }

    /// The node `gw-1`, which reads replies, and the table.
    struct Bed {
        relay: Arc<Relay>,
        registry: Arc<MemoryRegistry>,
        membership: Arc<Membership>,
        homing: Arc<Homing>,
        peers: Arc<Peers>,
        window: Window,
        read: i64,
    }

    impl Bed {
        /// A node that has been there for long enough to know the table.
        async fn new() -> Self {
            let bed = Self::young();
            tokio::time::sleep(2 * TTL).await;
            bed
        }

        /// A node that starts now.
        fn young() -> Self {
            let config = Config::parse(CONFIG, std::iter::empty()).unwrap();
            let producer = Arc::new(MemoryBus::new(&[]).producer());
            let telemetry = Arc::new(Telemetry::new());
            let relay = Arc::new(Relay::new(&config, node("gw-1", 1), producer, telemetry));
            let registry = Arc::new(MemoryRegistry::new());
            let table: Arc<dyn Registry> = Arc::clone(&registry) as _;
            let membership =
                Arc::new(Membership::new(node("gw-1", 1), url("gw-1"), Arc::clone(&table)));
            let peers = Arc::new(Peers::default());
            let (tasks, _) = Tasks::new();
            let homing = Arc::new(Homing::new(
                Arc::clone(&relay),
                table,
                Arc::clone(&membership),
                Arc::clone(&peers) as _,
                tasks.clone(),
            ));
            tasks.long_lived("homing", Arc::clone(&homing).run());
            let (announced, announcing) = (Arc::clone(&membership), Arc::clone(&relay));
            let run =
                async move { announced.run(&announcing).await.expect("nobody takes its name") };
            tasks.long_lived("membership", run);
            Self { relay, registry, membership, homing, peers, window: Window::default(), read: 0 }
        }

        /// A live node; it answers once something waits there.
        async fn join(&self, node: &NodeRef) {
            let url = url(node.id.as_str());
            let entry = NodeEntry { node: node.clone(), url, state: NodeState::Ready };
            self.registry.announce(&entry, TTL).await.unwrap();
            self.membership.refresh().await.unwrap();
        }

        /// A node whose end everybody has noticed.
        async fn bury(&self, node: &NodeRef) {
            self.registry.leave(node).await.unwrap();
            self.membership.refresh().await.unwrap();
        }

        fn answers(&self, node: &NodeRef, waiting: &[RequestId]) {
            let waiting = waiting.iter().copied().collect();
            locked(&self.peers.waiting).insert(url(node.id.as_str()), waiting);
        }

        async fn route(&self, request: RequestId, node: &NodeRef) {
            let deadline_ms = unix_ms() + 60_000;
            let (node, session, client_id) = (node.clone(), None, None);
            let route = Route { node, session, client_id, deadline_ms };
            self.registry.put_routes(&[(request, Arc::new(route))]).await.unwrap();
        }

        fn read(&mut self, request: RequestId) {
            let reply = Reply { status: None, headers: Vec::new(), payload: Bytes::new() };
            let hold = self.window.hold(self.read, Record::new(request, reply.clone()));
            let (read_at, guide, hold) = (Instant::now(), Guide::default(), Some(hold));
            let (wants, is_early) = (None, false);
            let stray = Stray { request, reply, hold, read_at, guide, wants, is_early };
            self.homing.take(stray);
            self.read += 1;
        }

        /// Waits until every offset may be stored.
        async fn all_done(&self) {
            for _ in 0..1000 {
                if self.window.mark() == Some(self.read) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("stuck at {:?} of {}", self.window.mark(), self.read);
        }

        fn asked(&self) -> Vec<(String, RequestId)> {
            locked(&self.peers.asked).clone()
        }

        /// The value of the first line that begins so; 0 without one.
        fn metric(&self, line: &str) -> u64 {
            let text = self.relay.telemetry().render();
            let found = text.lines().find_map(|found| found.strip_prefix(line));
            found.map_or(0, |value| value.trim().parse().unwrap())
        }

        fn lookups(&self) -> u64 {
            self.metric(r#"roundtrip_registry_seconds_count{operation="find_routes"}"#)
        }

        fn forwards(&self, peer: &str, result: &str) -> u64 {
            let labels = format!(r#"{{peer="{peer}",result="{result}"}}"#);
            self.metric(&format!("roundtrip_forwards_total{labels}"))
        }

        fn unrouted(&self) -> u64 {
            self.metric(r#"roundtrip_replies_total{service="-",way="unrouted"}"#)
        }
    }

    fn node(id: &str, incarnation: u64) -> NodeRef {
        NodeRef { id: NodeId::parse(id).unwrap(), incarnation }
    }

    fn url(node: &str) -> String {
        format!("http://{node}")
    }

    /// An old id that this node has chosen.
    fn chosen_by(node: &NodeRef) -> RequestId {
        Affinity::new(NodeMark::of(node)).choose(1, rand::random()).request
    }

    #[tokio::test(start_paused = true)]
    async fn a_marked_reply_goes_straight_home_and_in_order() {
        let mut bed = Bed::new().await;
        let peer = node("gw-2", 1);
        bed.join(&peer).await;
        let requests: Vec<RequestId> = (0..1000).map(|_| chosen_by(&peer)).collect();
        bed.answers(&peer, &requests);
        for &request in &requests {
            bed.read(request);
        }
        bed.all_done().await;
        let asked: Vec<RequestId> = bed.asked().into_iter().map(|(_, request)| request).collect();
        assert_eq!(asked, requests);
        assert_eq!(bed.forwards("gw-2", "delivered"), 1000);
        assert_eq!((bed.lookups(), bed.unrouted()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_whose_mark_misleads_is_looked_up() {
        let mut bed = Bed::new().await;
        let (guessed, peer) = (node("gw-2", 1), node("gw-3", 1));
        bed.join(&guessed).await;
        bed.join(&peer).await;
        let request = chosen_by(&guessed);
        bed.answers(&guessed, &[]);
        bed.answers(&peer, &[request]);
        bed.route(request, &peer).await;
        bed.read(request);
        bed.all_done().await;
        assert_eq!(bed.asked(), [(url("gw-2"), request), (url("gw-3"), request)]);
        assert_eq!(bed.forwards("gw-2", "unknown"), 1);
        assert_eq!(bed.forwards("gw-3", "delivered"), 1);
        assert_eq!((bed.lookups(), bed.unrouted()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_asked_once_for_one_reply() {
        let mut bed = Bed::new().await;
        let peer = node("gw-2", 1);
        bed.join(&peer).await;
        bed.answers(&peer, &[]);
        let (routed, forgotten) = (chosen_by(&peer), chosen_by(&peer));
        bed.route(routed, &peer).await;
        bed.read(routed);
        bed.read(forgotten);
        bed.all_done().await;
        assert_eq!(bed.asked(), [(url("gw-2"), routed), (url("gw-2"), forgotten)]);
        assert_eq!((bed.forwards("gw-2", "unknown"), bed.unrouted()), (2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_peer_leaves_behind_is_looked_up() {
        let mut bed = Bed::new().await;
        let (dying, heir) = (node("gw-2", 1), node("gw-3", 1));
        bed.join(&dying).await;
        bed.join(&heir).await;
        // More than a batch has: some are being sent, some wait.
        let moved: Vec<RequestId> = (0..300).map(|_| chosen_by(&dying)).collect();
        let lost = chosen_by(&dying);
        bed.route(lost, &dying).await;
        bed.read(lost);
        for &request in &moved {
            bed.route(request, &heir).await;
            bed.read(request);
        }
        bed.answers(&heir, &moved);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(bed.forwards("gw-3", "delivered"), 300, "nothing waits for a silent peer alone");
        assert_eq!(bed.window.mark(), Some(0), "what is that peer's waits for as long as it lives");
        bed.bury(&dying).await;
        bed.all_done().await;
        assert_eq!(bed.forwards("gw-3", "delivered"), 300);
        assert_eq!(bed.unrouted(), 1, "only what belonged to the dead node");
        assert_eq!(bed.metric(r#"roundtrip_frames_abandoned_total{reason="node_lost"}"#), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_starts_again_for_a_peer_that_is_back() {
        let mut bed = Bed::new().await;
        let peer = node("gw-2", 1);
        let (first, second) = (chosen_by(&peer), chosen_by(&peer));
        bed.answers(&peer, &[first, second]);
        bed.join(&peer).await;
        bed.read(first);
        bed.all_done().await;
        bed.bury(&peer).await;
        // Long enough for an idle line to notice.
        tokio::time::sleep(TTL).await;
        bed.join(&peer).await;
        bed.read(second);
        bed.all_done().await;
        assert_eq!((bed.forwards("gw-2", "delivered"), bed.lookups()), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_young_node_gives_nothing_up_that_the_table_may_have_lost() {
        let mut bed = Bed::young();
        let silent = node("gw-2", 1);
        let (routed, unrouted) = (chosen_by(&silent), chosen_by(&silent));
        bed.answers(&silent, &[routed, unrouted]);
        bed.route(routed, &silent).await;
        bed.read(routed);
        bed.read(unrouted);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(bed.unrouted(), 0, "that node may live, and write again what it holds");
        bed.join(&silent).await;
        bed.route(unrouted, &silent).await;
        bed.all_done().await;
        assert_eq!((bed.forwards("gw-2", "delivered"), bed.unrouted()), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_of_a_clock_that_is_behind_is_as_young_as_any() {
        let mut bed = Bed::new().await;
        let peer = node("gw-2", 1);
        bed.join(&peer).await;
        // No peer has that mark: only the route, which is slow to come, leads home.
        let choice = Affinity::new(NodeMark::of(&node("gw-7", 1)));
        let request = choice.choose(unix_ms() - 30_000, rand::random()).request;
        bed.answers(&peer, &[request]);
        bed.read(request);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(bed.unrouted(), 0, "its route may still come");
        bed.route(request, &peer).await;
        bed.all_done().await;
        assert_eq!((bed.forwards("gw-2", "delivered"), bed.unrouted()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_that_nobody_marked_is_looked_up() {
        let mut bed = Bed::new().await;
        let peer = node("gw-2", 1);
        bed.join(&peer).await;
        let request = RequestId::from_uuid(uuid::Uuid::new_v4());
        bed.answers(&peer, &[request]);
        bed.route(request, &peer).await;
        bed.read(request);
        bed.all_done().await;
        assert_eq!(bed.forwards("gw-2", "delivered"), 1);
        assert_eq!((bed.lookups(), bed.unrouted()), (1, 0));
    }
}
