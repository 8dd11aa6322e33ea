//! What is copied to the registry, in which order, and what goes on while the registry is away.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use registry::{
    NodeId, NodeRef, Progress, SessionRecord, SessionTable, all,
    faulty::{FaultyRegistry, part_of},
};
use tokio::time::sleep;
use uuid::Uuid;

use super::*;
use crate::{
    relay::{
        Relay,
        bed::{self, Ground},
        session::{Beginning, Token},
    },
    wire::{ClientId, Reply},
};

struct Bed {
    relay: Arc<Relay>,
    table: Arc<FaultyRegistry>,
    session: Arc<Session>,
    went_on: Arc<AtomicUsize>,
    /// How many checkpoints the registry had been given when something went on the last time.
    went_on_after: Arc<AtomicUsize>,
}

impl Bed {
    /// A reliable session that the registry knows.
    async fn new() -> Self {
        let table = Arc::new(FaultyRegistry::default());
        let relay = bed::relay(Ground { registry: Arc::clone(&table) as _, ..Ground::default() });
        let (session, _) = relay.lifecycle.start(true);
        let (went_on, went_on_after) = (Arc::default(), Arc::default());
        let bed = Self { relay, table, session, went_on, went_on_after };
        bed.idle().await;
        bed
    }

    /// Lets what is queued be written, or fail to be.
    async fn idle(&self) {
        let writing = self.relay.run_checkpoints();
        assert!(
            tokio::time::timeout(Duration::from_millis(20), writing).await.is_err(),
            "it ends with the node"
        );
    }

    /// Writes what is queued, as the node does, while something goes on.
    async fn meanwhile(&self, goes_on: impl Future<Output = ()>) {
        tokio::select! {
            () = self.relay.run_checkpoints() => panic!("it ends with the node"),
            () = goes_on => {}
        }
    }

    /// Which part of the registry has the session.
    fn part(&self) -> usize {
        part_of(self.session.id().as_uuid())
    }

    /// Another session like it, in such a part.
    async fn session_in(&self, is_it: impl Fn(usize) -> bool) -> Arc<Session> {
        let mut sessions = std::iter::repeat_with(|| self.relay.lifecycle.start(true).0);
        let session = sessions.find(|session| is_it(part_of(session.id().as_uuid()))).unwrap();
        self.idle().await;
        session
    }

    fn request(&self, number: u128) {
        self.request_of(&self.session, number);
    }

    fn request_of(&self, session: &Arc<Session>, number: u128) {
        let request = RequestId::from_uuid(Uuid::from_u128(number));
        let (progress, detail) = (Progress::Submitted, Bytes::new());
        let step = CheckpointStep::Request { request, progress, detail };
        let node = bed::node();
        let (of, deadline_ms) = (Some(session.id()), 0);
        let route =
            Arc::new(Route { node, session: of, client_id: None, deadline_ms, may_be_part: false });
        let (went_on, went_on_after) = (Arc::clone(&self.went_on), Arc::clone(&self.went_on_after));
        let table = Arc::clone(&self.table);
        let then = Box::new(move || {
            went_on_after.store(table.checkpoint_count(), Ordering::Relaxed);
            went_on.fetch_add(1, Ordering::Relaxed);
        });
        self.relay.checkpoints.request(session, step, (request, route), then);
    }

    fn push(&self) {
        let request = RequestId::from_uuid(Uuid::from_u128(9));
        let id = ClientId::from_request(request);
        let frame = Frame::Response { id, request, reply: Reply::default() };
        self.relay.completion.owe(&self.session, frame, None, None);
    }

    /// The kinds of all steps that the registry was given since the last time.
    fn seen(&self) -> Vec<&'static str> {
        let seen = self.table.take_checkpoints();
        let kind = |step: &CheckpointStep| match step {
            CheckpointStep::Request { .. } => "request",
            CheckpointStep::Park { .. } => "park",
            CheckpointStep::Trim { .. } => "trim",
            CheckpointStep::Reset => "reset",
            CheckpointStep::Forget { .. } => "forget",
        };
        seen.iter().flat_map(|checkpoint| checkpoint.steps.iter().map(kind)).collect()
    }

    fn went_on(&self) -> usize {
        self.went_on.load(Ordering::Relaxed)
    }

    fn set_away(&self, away: bool) {
        self.table.set_away(away);
    }
}

#[tokio::test(start_paused = true)]
async fn steps_of_a_session_are_one_checkpoint_in_their_order() {
    let bed = Bed::new().await;
    bed.request(1);
    bed.relay.checkpoints.step(&bed.session, CheckpointStep::Trim { seq: 1 });
    bed.request(2);
    assert_eq!(bed.went_on(), 0, "nothing is produced before it is copied");
    bed.idle().await;
    assert_eq!(bed.seen(), ["request", "trim", "request"]);
    assert_eq!(bed.went_on(), 2);
    assert!(bed.relay.checkpoints.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_over_before_it_was_written_is_only_forgotten() {
    let bed = Bed::new().await;
    bed.request(1);
    bed.relay.checkpoints.forget(&bed.session, RequestId::from_uuid(Uuid::from_u128(1)));
    bed.idle().await;
    assert_eq!(bed.seen(), ["forget"]);
}

#[tokio::test(start_paused = true)]
async fn requests_go_on_while_the_registry_is_away_and_all_is_written_anew_after_that() {
    let bed = Bed::new().await;
    bed.set_away(true);
    let goes_on = async {
        bed.request(1);
        sleep(Duration::from_millis(20)).await;
        assert_eq!(bed.went_on(), 1);
        assert!(!bed.relay.is_registry_reachable());
        assert!(!bed.relay.checkpoints.is_empty());
        bed.request(2);
        assert_eq!(bed.went_on(), 2, "it is known that nothing can be written");
        bed.set_away(false);
        sleep(Duration::from_millis(250)).await;
    };
    bed.meanwhile(goes_on).await;
    assert_eq!(bed.seen(), ["reset"], "the session has nothing in flight by itself");
    assert!(bed.relay.is_registry_reachable());
    assert!(bed.relay.checkpoints.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_part_of_the_registry_that_is_away_holds_up_its_own_sessions_alone() {
    let bed = Bed::new().await;
    let there = bed.session_in(|part| part != bed.part()).await;
    bed.table.set_part_away(bed.part());
    let goes_on = async {
        for number in 0..3 {
            bed.request(number);
            bed.request_of(&there, 10 + number);
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(bed.seen(), ["request"; 3], "those of the other one are copied");
        assert_eq!(bed.went_on(), 6);
        assert!(bed.relay.is_registry_reachable());
        bed.relay.lifecycle.end(&bed.session, bed.session.connection());
        sleep(Duration::from_millis(500)).await;
        assert!(!bed.relay.checkpoints.is_empty(), "its end is not written");
        bed.set_away(false);
        sleep(Duration::from_millis(250)).await;
    };
    bed.meanwhile(goes_on).await;
    assert!(bed.relay.checkpoints.is_empty());
    let found = all(bed.table.memory.find_sessions(&[bed.session.id(), there.id()]).await).unwrap();
    assert!(found[0].is_none() && found[1].is_some());
}

#[tokio::test(start_paused = true)]
async fn a_rewrite_takes_the_place_of_the_steps_before_it() {
    let bed = Bed::new().await;
    bed.push();
    bed.relay.lifecycle.detach(&bed.session, bed.session.connection());
    bed.relay.checkpoints.step(&bed.session, CheckpointStep::Trim { seq: 1 });
    bed.idle().await;
    assert_eq!(bed.seen(), ["reset", "park"]);
    bed.push();
    bed.idle().await;
    assert_eq!(bed.seen(), ["park"], "what is parked already is not parked again");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_has_lost_a_session_gets_it_anew() {
    let bed = Bed::new().await;
    bed.push();
    bed.relay.lifecycle.detach(&bed.session, bed.session.connection());
    bed.idle().await;
    bed.table.memory.wipe();
    bed.relay.checkpoints.step(&bed.session, CheckpointStep::Trim { seq: 0 });
    bed.idle().await;
    assert_eq!(bed.seen(), ["reset", "park", "trim", "reset", "park"]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_copy_that_is_missing_waits_for_the_next_one() {
    let bed = Bed::new().await;
    bed.table.memory.wipe();
    bed.request(1);
    bed.idle().await;
    assert_eq!(bed.went_on(), 1);
    assert_eq!(bed.went_on_after.load(Ordering::Relaxed), 2, "not before it is written anew");
    assert_eq!(bed.seen(), ["request", "reset"]);
}

/// Gives the session a later epoch, as a client does that comes back to its own node.
fn comes_back(bed: &Bed, epoch: u64) {
    let token = Token::random(bed.session.id());
    let former_token = Some(bed.session.token());
    let beginning = Beginning { epoch, token, former_token, last_seq: 0 };
    bed.session.ownership().resume(0, beginning).unwrap();
    bed.relay.checkpoints.rewrite(&bed.session);
}

#[tokio::test(start_paused = true)]
async fn an_earlier_epoch_gives_way_to_the_owner() {
    let bed = Bed::new().await;
    let before = bed.table.memory.snapshot();
    comes_back(&bed, 2);
    bed.idle().await;
    bed.seen();
    bed.table.memory.restore(&before);
    bed.request(1);
    bed.idle().await;
    assert!(bed.session.is_held(), "nobody else holds it");
    assert_eq!(bed.went_on(), 1);
    assert_eq!(bed.seen(), ["request", "reset"], "all of it is written anew");
    let found = all(bed.table.memory.find_sessions(&[bed.session.id()]).await).unwrap();
    assert_eq!(found[0].as_ref().map(|found| found.epoch), Some(2));
    let hash = bed.session.token().hash();
    let opened = bed.table.memory.try_token(&bed.session.id(), &hash).await.unwrap();
    assert!(opened.is_some(), "with the token that its client has");
}

#[tokio::test(start_paused = true)]
async fn an_epoch_never_falls() {
    let bed = Bed::new().await;
    comes_back(&bed, 5);
    comes_back(&bed, 2);
    assert_eq!(bed.session.epoch(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_copy_says_in_which_generation_all_of_it_was_written() {
    let bed = Bed::new().await;
    let of_copy = async || {
        let found = all(bed.table.memory.find_sessions(&[bed.session.id()]).await).unwrap();
        found[0].as_ref().and_then(|found| found.generation)
    };
    assert_eq!(of_copy().await, None, "nobody has asked yet");
    bed.relay.checkpoints.set_generation(Some(Generation(7)));
    bed.relay.checkpoints.record(&bed.session);
    bed.idle().await;
    assert_eq!(of_copy().await, None, "a refresh copies nothing");
    bed.relay.checkpoints.rewrite(&bed.session);
    bed.idle().await;
    assert_eq!(of_copy().await, Some(Generation(7)));
}

#[tokio::test(start_paused = true)]
async fn another_owner_fences_the_session() {
    let bed = Bed::new().await;
    let node = NodeRef { id: NodeId::parse("gw-2").unwrap(), incarnation: 1 };
    let record = SessionRecord { epoch: 2, ..bed.session.ownership().record(&node).unwrap() };
    all(bed.table.memory.record(&[record], bed.relay.checkpoints.ttl()).await).unwrap();
    bed.request(1);
    bed.idle().await;
    assert!(!bed.session.is_held());
    bed.seen();
    bed.request(2);
    bed.idle().await;
    assert!(bed.seen().is_empty(), "nothing is written for what another node holds");
}

#[tokio::test(start_paused = true)]
async fn an_end_is_written_and_takes_what_was_queued_along() {
    let bed = Bed::new().await;
    bed.request(1);
    bed.relay.lifecycle.end(&bed.session, bed.session.connection());
    bed.idle().await;
    assert!(bed.seen().is_empty());
    let found = all(bed.table.memory.find_sessions(&[bed.session.id()]).await).unwrap();
    assert_eq!(found, [None]);
    assert_eq!(bed.went_on(), 1, "the command stands");
}
