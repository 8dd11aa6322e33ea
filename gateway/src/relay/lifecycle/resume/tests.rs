//! Three nodes that take a session from each other, with claims that are carried out and whose
//! answer gets lost.

use registry::{
    CheckpointStep, CheckpointUpdate, Checkpointed, MailboxLimits, MemoryRegistry, NodeEntry,
    NodeId, NodeState, NodeTable, Progress, RequestId, SessionTable, TokenHash, Versions, all,
};

use super::*;
use crate::{
    relay::{
        Relay,
        bed::{self, Ground, Peers},
        checkpoints::format::{self, RequestDetail},
        session::{Digest, Known},
    },
    wire::{ClientId, Frame},
};

const LONG: Duration = Duration::from_secs(60);

/// Three nodes on which nothing runs: they write what a test has them write.
struct Bed {
    registry: Arc<MemoryRegistry>,
    link: Arc<Peers>,
    nodes: Vec<Arc<Relay>>,
}

impl Bed {
    async fn new() -> Self {
        let (registry, link) = (Arc::new(MemoryRegistry::new()), Arc::new(Peers::default()));
        let mut nodes = Vec::new();
        for url in ["gw-1", "gw-2", "gw-3"] {
            let node = NodeRef { id: NodeId::parse(url).unwrap(), incarnation: 1 };
            let (state, speaks) = (NodeState::Ready, Versions::FIRST);
            let entry = NodeEntry { node: node.clone(), url: url.to_owned(), state, speaks };
            registry.announce(&entry, LONG).await.unwrap();
            let ground = Ground {
                registry: Arc::clone(&registry) as _,
                link: Arc::clone(&link) as _,
                ..Ground::default()
            };
            nodes.push(bed::relay_of(node, ground));
        }
        let bed = Self { registry, link, nodes };
        (0..3).for_each(|node| bed.wake(node));
        bed
    }

    fn name(&self, node: usize) -> String {
        self.nodes[node].node.id.to_string()
    }

    fn sleep(&self, node: usize) {
        self.link.sleep(&self.name(node));
    }

    fn wake(&self, node: usize) {
        self.link.wake(&self.name(node), &self.nodes[node]);
    }

    /// A session begins on a node, and is written.
    async fn begin(&self, node: usize) -> (Arc<Session>, ConnectionId) {
        let (session, connection) = self.nodes[node].lifecycle.start(true);
        let record = session.ownership().record(&self.nodes[node].node).unwrap();
        all(self.registry.record(&[record], LONG).await).unwrap();
        (session, connection)
    }

    fn claim(&self, node: usize, token: &Token) -> Claim {
        Claim {
            session: token.session(),
            token: token.hash(),
            user: None,
            node: self.nodes[node].node.clone(),
            next_token: TokenHash([7; 32]),
            ttl: LONG,
        }
    }

    /// A node claims a session, and does not hear that it has.
    async fn claim_unheard(&self, node: usize, token: &Token) {
        let claimed = self.registry.claim(&self.claim(node, token)).await.unwrap();
        assert!(matches!(claimed, Claimed::Taken(_)), "{claimed:?}");
    }

    /// A client comes back to a node.
    async fn resume(&self, node: usize, token: &Token) -> Option<Arc<Session>> {
        let resumed = self.nodes[node].resumption.resume(token, 0, || true).await;
        resumed.unwrap().map(|(session, _)| session)
    }

    /// In what way clients have come back to a node.
    fn ways(&self, node: usize) -> Vec<String> {
        let text = self.nodes[node].telemetry.render();
        let way = |line: &str| {
            let way = line.strip_prefix("roundtrip_resumes_total{result=\"")?;
            way.strip_suffix("\"} 1").map(str::to_owned)
        };
        text.lines().filter_map(way).collect()
    }

    /// Which nodes have something of the session.
    fn owners(&self, id: SessionId) -> Vec<usize> {
        (0..3).filter(|node| self.nodes[*node].sessions.get(id).is_some()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_is_fetched_from_who_has_it_whatever_was_claimed_since() {
    let bed = Bed::new().await;
    let (session, _) = bed.begin(0).await;
    let token = session.token();
    bed.claim_unheard(1, &token).await;
    let resumed = bed.resume(2, &token).await.unwrap();
    assert_eq!((resumed.epoch(), bed.ways(2)), (3, vec!["released".to_owned()]));
    assert_eq!(bed.owners(session.id()), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_node_goes_on_with_its_own_session_after_claims_that_it_has_not_heard_of() {
    let bed = Bed::new().await;
    let (session, _) = bed.begin(0).await;
    let token = session.token();
    bed.claim_unheard(0, &token).await;
    bed.claim_unheard(0, &token).await;
    let resumed = bed.resume(0, &token).await.unwrap();
    assert_eq!((resumed.epoch(), bed.ways(0)), (4, vec!["here".to_owned()]));
    assert!(Arc::ptr_eq(&resumed, &session));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_has_ended_is_not_revived_by_a_claim_of_which_nobody_has_heard() {
    for claimer in [0, 1, 2] {
        let bed = Bed::new().await;
        let (session, connection) = bed.begin(0).await;
        let token = session.token();
        bed.claim_unheard(claimer, &token).await;
        bed.nodes[0].lifecycle.end(&session, connection);
        assert!(bed.resume(2, &token).await.is_none(), "claimed by {claimer}");
        assert_eq!(bed.ways(2), ["incomplete"]);
    }
}

/// The first node sleeps with a session that the second one takes from its copy, and claims it when
/// it wakes up, without hearing the answer: it does not know that it has lost the session.
async fn outdated() -> (Bed, Token) {
    let bed = Bed::new().await;
    let (session, _) = bed.begin(0).await;
    bed.sleep(0);
    let present = bed.resume(1, &session.token()).await.unwrap();
    assert_eq!(bed.ways(1), ["copied"]);
    bed.wake(0);
    bed.claim_unheard(0, &present.token()).await;
    assert_eq!(bed.owners(session.id()), [0, 1]);
    (bed, present.token())
}

#[tokio::test(start_paused = true)]
async fn what_others_have_held_since_is_not_handed_over() {
    let (bed, token) = outdated().await;
    let resumed = bed.resume(2, &token).await.unwrap();
    assert_eq!(bed.ways(2), ["released"], "by the second node");
    assert_eq!(bed.owners(resumed.id()), [2]);
}

#[tokio::test(start_paused = true)]
async fn nor_does_a_node_go_on_with_it() {
    let (bed, token) = outdated().await;
    let resumed = bed.resume(0, &token).await.unwrap();
    assert_eq!(bed.ways(0), ["released"], "by the second node");
    assert_eq!(bed.owners(resumed.id()), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_copy_has_to_do_where_nobody_answers_who_has_more() {
    let (bed, token) = outdated().await;
    bed.sleep(1);
    let resumed = bed.resume(2, &token).await.unwrap();
    assert_eq!(bed.ways(2), ["copied"]);
    assert_eq!(bed.owners(resumed.id()), [1, 2], "the first node has given up what it had");
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_the_copy_gives_way_to_a_claim_that_came_meanwhile() {
    let bed = Bed::new().await;
    let (session, _) = bed.begin(0).await;
    let token = session.token();
    bed.sleep(0);
    bed.link.claim_meanwhile(&bed.registry, bed.claim(2, &token));
    let resumed = bed.nodes[1].resumption.resume(&token, 0, || true).await;
    assert!(matches!(resumed, Err(Undecided::Claimed)), "{resumed:?}");
    assert_eq!(bed.owners(session.id()), [0], "it has not begun to go on with it");
    assert!(bed.resume(2, &token).await.is_some(), "its token stays good");
}

/// A request of a reliable session, of which no position is known.
fn in_flight(id: &ClientId) -> RequestDetail {
    RequestDetail {
        id: id.clone(),
        digest: 7,
        service: "echo".into(),
        age_ms: 0,
        left_ms: 20_000,
        receipt: true,
        position: None,
        parts: None,
        last_part: None,
    }
}

/// A session whose node has written this checkpoint and sleeps, so that another one takes the copy.
async fn resumed_from(steps: Vec<CheckpointStep>) -> (Bed, Arc<Session>) {
    let bed = Bed::new().await;
    let (session, _) = bed.begin(0).await;
    let (of, epoch) = (session.id(), session.epoch());
    let update = CheckpointUpdate { session: of, epoch, orphan: false, steps };
    let limits = MailboxLimits { frames_max: 10, bytes_max: 10_000 };
    assert_eq!(bed.registry.update_checkpoints(&[update], limits).await, [Ok(Checkpointed::Done)]);
    bed.sleep(0);
    let resumed = bed.resume(1, &session.token()).await.unwrap();
    (bed, resumed)
}

#[tokio::test(start_paused = true)]
async fn a_request_with_a_receipt_is_not_produced_again() {
    let (id, request) =
        (ClientId::from_json("1").unwrap(), RequestId::from_header(&[1; 16]).unwrap());
    let topic = "echo".into();
    let (id_of, partition, offset, is_deletable) = (id.clone(), 3, 4, false);
    let receipt = Frame::Receipt { id: id_of, request, topic, partition, offset, is_deletable };
    // Its node died between the two: that it is recorded was to follow.
    let steps = vec![
        CheckpointStep::Request {
            request,
            progress: Progress::Submitted,
            detail: format::encode(&in_flight(&id)),
        },
        CheckpointStep::Park { seq: 1, request: None, frame: format::encode(&receipt) },
    ];
    let (bed, resumed) = resumed_from(steps).await;
    assert!(matches!(resumed.requests().known(&id, Digest(7)), Known::Joins));
    let detail = bed.nodes[1].requests.completion().pending.look(request, |entry| entry.detail());
    let detail = detail.flatten().unwrap();
    assert_eq!((detail.receipt, detail.position), (false, Some((3, 4))));
}

/// A frame that was queued while its session was being written anew is part of that, and is parked
/// for itself a moment later.
#[tokio::test(start_paused = true)]
async fn a_frame_that_was_parked_twice_is_owed_once() {
    let receipt = |n: u8| Frame::Receipt {
        id: ClientId::from_json("1").unwrap(),
        request: RequestId::from_header(&[n; 16]).unwrap(),
        topic: "echo".into(),
        partition: 3,
        offset: n.into(),
        is_deletable: n.is_multiple_of(2),
    };
    let park =
        |seq, n| CheckpointStep::Park { seq, request: None, frame: format::encode(&receipt(n)) };
    let steps = vec![park(1, 1), park(2, 2), park(1, 1), park(3, 3), park(0, 4), park(0, 5)];
    let (_bed, resumed) = resumed_from(steps).await;
    let owed: Vec<_> = resumed.mailbox().all().into_iter().map(|owed| owed.frame).collect();
    assert_eq!(owed, [1, 2, 3, 4, 5].map(receipt));
}
