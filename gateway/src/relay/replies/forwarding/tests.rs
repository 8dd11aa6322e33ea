//! Foreign replies with a real table and peers that answer as they are told.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use registry::{
    NodeEntry, NodeId, NodeState, NodeTable, RequestTable, SessionId, SessionRecord, SessionTable,
    TokenHash, Versions, all,
    faulty::{FaultyRegistry, PARTS, part_of},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    peer::{Delivery, PeerError, PeerLink, SPOKEN, Unsettled, Verdict},
    relay::{
        Relay,
        bed::{self, Ground},
        offsets::{OffsetTracker, Record},
        requests::{affinity::Affinity, foreign::Guide},
        unix_ms,
    },
    tasks::locked,
    wire::Reply,
};

/// A node that was silent for so long is dead.
const TTL: Duration = Duration::from_secs(6);

/// Peers that know what waits on them; those that were not set up do not answer.
#[derive(Debug, Default)]
struct Peers {
    waiting: Mutex<HashMap<String, HashSet<RequestId>>>,
    /// Which nodes were asked for what, in order.
    asked: Mutex<Vec<(String, RequestId)>>,
    /// How many calls were begun.
    calls: AtomicUsize,
    /// Whether their verdicts are of an unknown version.
    strange: AtomicBool,
}

#[async_trait]
impl PeerLink for Peers {
    async fn deliver(
        &self,
        peer: &NodeEntry,
        batch: &[Delivery],
        _: Duration,
    ) -> Result<Vec<Verdict>, PeerError> {
        let url = &peer.url;
        self.calls.fetch_add(1, Ordering::Relaxed);
        if !peer.speaks.meet(SPOKEN) {
            return Err(PeerError::Incompatible { ours: SPOKEN, theirs: peer.speaks });
        }
        let mut waiting = locked(&self.waiting);
        let unreachable = || PeerError::Unreachable("silent".to_owned());
        let there = waiting.get_mut(url).ok_or_else(unreachable)?;
        let verdict = |delivery: &Delivery| {
            locked(&self.asked).push((url.to_owned(), delivery.request));
            let found = there.remove(&delivery.request);
            match self.strange.load(Ordering::Relaxed) {
                // It does what it is asked to do, but its verdict is of an unknown version.
                true => Verdict::Unread,
                false if found => Verdict::Delivered,
                false => Verdict::Unknown,
            }
        };
        Ok(batch.iter().map(verdict).collect())
    }

    async fn settle(
        &self,
        _: &NodeEntry,
        kept: &[Unsettled],
        _: Duration,
    ) -> Result<Vec<Verdict>, PeerError> {
        Ok(kept.iter().map(|_| Verdict::Over).collect())
    }

    async fn release(
        &self,
        _: &NodeEntry,
        _: SessionId,
        _: Range<u64>,
        _: Duration,
    ) -> Result<Option<Bytes>, PeerError> {
        Ok(None)
    }
}

/// The node `gw-1`, which reads replies, and the registry.
struct Bed {
    relay: Arc<Relay>,
    registry: Arc<FaultyRegistry>,
    peers: Arc<Peers>,
    window: OffsetTracker,
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
        let (registry, peers) = (Arc::new(FaultyRegistry::default()), Arc::new(Peers::default()));
        let relay = bed::relay(Ground {
            registry: Arc::clone(&registry) as _,
            link: Arc::clone(&peers) as _,
            ..Ground::default()
        });
        relay.start(&CancellationToken::new());
        Self { relay, registry, peers, window: OffsetTracker::default(), read: 0 }
    }

    /// A live node; it answers once something waits there.
    async fn join(&self, node: &NodeRef) {
        self.join_as(node, SPOKEN).await;
    }

    /// The same, for a node that speaks these versions.
    async fn join_as(&self, node: &NodeRef, speaks: Versions) {
        let (node, url) = (node.clone(), url(node.id.as_str()));
        let entry = NodeEntry { node, url, state: NodeState::Ready, speaks };
        self.registry.announce(&entry, TTL).await.unwrap();
        self.relay.membership.refresh().await.unwrap();
    }

    /// A node whose end everybody has noticed.
    async fn bury(&self, node: &NodeRef) {
        self.registry.leave(node).await.unwrap();
        self.relay.membership.refresh().await.unwrap();
    }

    fn answers(&self, node: &NodeRef, waiting: &[RequestId]) {
        let waiting = waiting.iter().copied().collect();
        locked(&self.peers.waiting).insert(url(node.id.as_str()), waiting);
    }

    async fn route(&self, request: RequestId, node: &NodeRef) {
        let deadline_ms = unix_ms() + 60_000;
        let (node, session, client_id) = (node.clone(), None, None);
        let route = Route { node, session, client_id, deadline_ms, may_be_part: false };
        all(self.registry.put_routes(&[(request, Arc::new(route))]).await).unwrap();
    }

    fn read(&mut self, request: RequestId) {
        let reply = Reply::default();
        let guard = self.window.guard(self.read, Record::new(request, reply.clone()));
        let (read_at, guide, guard) = (Instant::now(), Guide::default(), Some(guard));
        let (wants, is_early, unread) = (None, false, 0);
        let foreign =
            ForeignReply { request, reply, guard, read_at, guide, wants, is_early, unread };
        self.relay.forwarding.take(foreign);
        self.read += 1;
    }

    /// Waits until every offset may be stored.
    async fn all_done(&self) {
        for _ in 0..1000 {
            if self.window.committable() == Some(self.read) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("stuck at {:?} of {}", self.window.committable(), self.read);
    }

    fn asked(&self) -> Vec<(String, RequestId)> {
        locked(&self.peers.asked).clone()
    }

    /// The value of the first line that begins so; 0 without one.
    fn metric(&self, line: &str) -> u64 {
        let text = self.relay.telemetry.render();
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
    Affinity::new(NodeTag::of(node)).choose(1, rand::random()).request
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
    // More than one batch holds, so that some are being sent and some wait.
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
    assert_eq!(
        bed.window.committable(),
        Some(0),
        "what is that peer's waits for as long as it lives"
    );
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
    // Long enough for an idle sender to notice.
    tokio::time::sleep(TTL).await;
    bed.join(&peer).await;
    bed.read(second);
    bed.all_done().await;
    assert_eq!((bed.forwards("gw-2", "delivered"), bed.lookups()), (2, 0));
}

/// Nobody but its node can go on with a session whose client acknowledges nothing and is there.
#[tokio::test(start_paused = true)]
async fn a_reply_waits_for_a_node_that_may_be_asleep() {
    for wakes_up in [true, false] {
        let mut bed = Bed::new().await;
        let peer = node("gw-2", 1);
        let request = chosen_by(&peer);
        let session = SessionId::random();
        let client_id = Some("1".into());
        let deadline_ms = unix_ms() + 60_000;
        let (node, of) = (peer.clone(), Some(session));
        let route = Route { node, session: of, client_id, deadline_ms, may_be_part: false };
        all(bed.registry.put_routes(&[(request, Arc::new(route))]).await).unwrap();
        let record = SessionRecord {
            session,
            epoch: 1,
            node: peer.clone(),
            user: None,
            reliable: false,
            attached: true,
            token: TokenHash([1; 32]),
            former_token: None,
            generation: None,
        };
        all(bed.registry.record(&[record], Duration::from_secs(60)).await).unwrap();
        bed.read(request);
        tokio::time::sleep(moved::SLEEP_PATIENCE - Duration::from_secs(2)).await;
        assert_eq!((bed.window.committable(), bed.unrouted()), (Some(0), 0));
        if wakes_up {
            bed.answers(&peer, &[request]);
            bed.join(&peer).await;
        }
        bed.all_done().await;
        let (delivered, unrouted) = (bed.forwards("gw-2", "delivered"), bed.unrouted());
        assert_eq!((delivered, unrouted), if wakes_up { (1, 0) } else { (0, 1) });
        assert!(bed.lookups() < 20, "{}", bed.lookups());
    }
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
    // No peer has that tag: only the route, which comes late, names the node.
    let choice = Affinity::new(NodeTag::of(&node("gw-7", 1)));
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
async fn a_peer_that_is_not_understood_is_asked_again_and_not_for_ever() {
    let mut bed = Bed::new().await;
    let peer = node("gw-2", 1);
    bed.join(&peer).await;
    let (understood, never) = (chosen_by(&peer), chosen_by(&peer));
    bed.answers(&peer, &[understood, never]);
    bed.peers.strange.store(true, Ordering::Relaxed);
    bed.route(understood, &peer).await;
    bed.read(understood);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bed.window.committable(), Some(0), "it is not known to be delivered");
    assert!(bed.asked().len() < 20, "{} times", bed.asked().len());
    // The peer took it the first time, so it does not know of it any more.
    bed.peers.strange.store(false, Ordering::Relaxed);
    bed.all_done().await;
    assert_eq!(bed.forwards("gw-2", "unknown"), 1);

    bed.peers.strange.store(true, Ordering::Relaxed);
    bed.route(never, &peer).await;
    bed.read(never);
    for _ in 0..4 {
        bed.join(&peer).await;
        tokio::time::sleep(TTL / 2).await;
    }
    bed.all_done().await;
    assert!(bed.asked().len() < 100, "{} times", bed.asked().len());
    assert_eq!(bed.forwards("gw-2", "unknown"), 2, "it counts as denied in the end");
}

#[tokio::test(start_paused = true)]
async fn what_is_for_a_peer_of_another_version_waits_and_is_not_circled() {
    let mut bed = Bed::new().await;
    let (peer, far) = (node("gw-2", 1), Versions { lowest: 7, highest: 7 });
    bed.join_as(&peer, far).await;
    let requests: Vec<RequestId> = (0..600).map(|_| chosen_by(&peer)).collect();
    bed.answers(&peer, &requests);
    for &request in &requests {
        bed.route(request, &peer).await;
        bed.read(request);
    }
    for _ in 0..10 {
        bed.join_as(&peer, far).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let calls = bed.peers.calls.load(Ordering::Relaxed);
    assert!((5..=11).contains(&calls), "{calls} times in 20 s");
    assert!(bed.lookups() <= 24, "{} look-ups in 20 s", bed.lookups());
    assert_eq!((bed.asked().len(), bed.window.committable()), (0, Some(0)));
    // It is replaced by a node that can be talked to.
    bed.join(&peer).await;
    bed.all_done().await;
    assert_eq!(bed.forwards("gw-2", "delivered"), 600);
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

/// An old id that no node has chosen, in this part of the registry.
fn foreign_to_all(part: usize) -> RequestId {
    let ids = std::iter::repeat_with(uuid::Uuid::new_v4);
    RequestId::from_uuid(ids.into_iter().find(|id| part_of(id) == part).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_part_of_the_registry_that_is_away_holds_up_its_own_replies_alone() {
    let mut bed = Bed::new().await;
    let peer = node("gw-2", 1);
    bed.join(&peer).await;
    let requests: Vec<RequestId> = (0..PARTS).map(foreign_to_all).collect();
    bed.answers(&peer, &requests);
    for request in &requests {
        bed.route(*request, &peer).await;
    }
    // The node table is in the first one: what is known of the nodes is enough.
    for (count, away) in (1..).zip([0, 1, 2]) {
        bed.registry.set_part_away(away);
        bed.answers(&peer, &requests);
        for request in &requests {
            bed.read(*request);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(bed.forwards("gw-2", "delivered"), 3 * count - 1, "without part {away}");
        bed.registry.set_away(false);
        bed.all_done().await;
        assert_eq!(bed.forwards("gw-2", "delivered"), 3 * count);
    }
    assert_eq!(bed.unrouted(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_given_up_while_the_node_table_is_away() {
    let mut bed = Bed::new().await;
    let (dead, heir) = (node("gw-2", 1), node("gw-3", 1));
    let [routed, unrouted] = [(); 2].map(|()| foreign_to_all(1));
    let known = foreign_to_all(2);
    bed.route(routed, &dead).await;
    bed.join(&heir).await;
    bed.route(known, &heir).await;
    bed.answers(&heir, &[known]);
    bed.registry.set_part_away(0);
    for request in [routed, unrouted, known] {
        bed.read(request);
    }
    tokio::time::sleep(2 * TTL).await;
    assert_eq!((bed.unrouted(), bed.forwards("gw-3", "delivered")), (0, 1));
    bed.registry.set_away(false);
    bed.all_done().await;
    assert_eq!(bed.unrouted(), 2, "nobody waits for them");
}
