//! One server that goes away, comes back, or says nothing.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use registry::{
    Announcement, CheckpointStep, CheckpointUpdate, Checkpointed, MailboxLimits, NodeTable, Nodes,
    Recorded, RedisRegistry, RegistryError, RequestId, RequestTable, SessionId, SessionRecord,
    SessionTable, TokenHash, all,
    conformance::{node_entry, route},
};
use tokio::time::{Instant, sleep};

use crate::{
    LONG, request,
    server::{Server, registry_at, wait},
};

/// No call may take longer, whatever the server does.
pub(crate) const CALL_TIME_MAX: Duration = Duration::from_secs(3);
/// The longest from a server's being back to the first call that succeeds.
pub(crate) const RECOVERY_TIME_MAX: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn comes_up_without_a_server_and_finds_it_later() {
    let mut server = Server::prepared("");
    let begun = Instant::now();
    let registry = server.registry().await;
    for _ in 0..5 {
        unreachable(&registry).await;
    }
    assert!(begun.elapsed() < CALL_TIME_MAX, "a refused connection is soon known");
    server.run();
    recovers(&registry, request()).await;
    all(registry.put_routes(&[(request(), Arc::new(route("gw-1")))]).await).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_a_server_that_was_started_again_and_says_that_it_is_empty() {
    let mut server = Server::start("");
    let registry = server.registry().await;
    let entry = node_entry("gw-1", 1);
    let id = request();
    all(registry.put_routes(&[(id, Arc::new(route("gw-1")))]).await).unwrap();
    assert_eq!(registry.announce(&entry, LONG).await, Ok(Announcement::Fresh));
    assert_eq!(registry.announce(&entry, LONG).await, Ok(Announcement::Refreshed));

    server.stop();
    for _ in 0..10 {
        unreachable(&registry).await;
        let outcome = registry.announce(&entry, LONG).await;
        assert!(matches!(outcome, Err(RegistryError::Unreachable(_))), "{outcome:?}");
    }
    server.run();
    recovers(&registry, request()).await;
    assert_eq!(registry.announce(&entry, LONG).await, Ok(Announcement::Fresh));
    assert_eq!(registry.announce(&entry, LONG).await, Ok(Announcement::Refreshed));
    assert_eq!(all(registry.find_routes(&[id]).await), Ok(vec![None]));
}

#[tokio::test(flavor = "multi_thread")]
async fn does_not_lose_a_call_to_a_connection_that_was_lost_before_it() {
    let mut server = Server::start("");
    let registry = server.registry().await;
    for _ in 0..3 {
        assert_eq!(registry.nodes().await, Ok(Nodes::default()));
        server.ask("CLIENT KILL TYPE normal");
        let id = request();
        assert_eq!(
            all(registry.put_routes(&[(id, Arc::new(route("gw-1")))]).await).map(drop),
            Ok(())
        );
        assert!(all(registry.find_routes(&[id]).await).unwrap()[0].is_some());
        server.stop();
        server.run();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gives_up_on_a_server_that_is_silent_and_comes_back_to_it() {
    let server = Server::start("");
    let registry = server.registry().await;
    let calls = [registry.clone(), registry.clone(), registry.clone()];
    server.signal("STOP");
    for _ in 0..2 {
        let [a, b, c] = &calls;
        tokio::join!(unreachable(a), unreachable(b), unreachable(c));
    }
    // Another process finds it silent from the start.
    let begun = Instant::now();
    let late = registry_at(&server.url()).await;
    assert!(begun.elapsed() < CALL_TIME_MAX, "connecting took {:?}", begun.elapsed());
    unreachable(&late).await;
    server.signal("CONT");
    recovers(&registry, request()).await;
    recovers(&late, request()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_whose_answer_was_lost_is_fresh_when_it_is_repeated() {
    let server = Server::start("");
    let registry = RedisRegistry::connect(&server.url(), "rt:").await.unwrap();
    // The server knows the script from here on.
    registry.announce(&node_entry("gw-1", 1), LONG).await.unwrap();

    let entry = node_entry("gw-2", 1);
    server.signal("STOP");
    let outcome = registry.announce(&entry, LONG).await;
    assert!(matches!(outcome, Err(RegistryError::Unreachable(_))), "{outcome:?}");
    server.signal("CONT");
    wait("the call is carried out, though nobody waits for it", || {
        server.ask("HEXISTS rt:{nodes} gw-2") == "1"
    });
    recovers(&registry, request()).await;
    assert_eq!(registry.announce(&entry, LONG).await, Ok(Announcement::Fresh));
    assert_eq!(registry.announce(&entry, LONG).await, Ok(Announcement::Refreshed));
}

/// A node whose clock is ahead or behind writes routes that live as long as its others': both the
/// deadline and the time of writing are its own. The server's clock decides over nodes alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_routes_life_is_told_by_its_nodes_clock() {
    let server = Server::start("");
    let registry = RedisRegistry::connect(&server.url(), "rt:").await.unwrap();
    let id = request();
    let mut soon = route("gw-1");
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    soon.deadline_ms = u64::try_from(now.as_millis()).unwrap() + 5_000;
    all(registry.put_routes(&[(id, Arc::new(soon))]).await).unwrap();
    let life: u64 = server.ask(&format!("PTTL rt:r:{id}")).parse().unwrap();
    assert!((10_001..=15_000).contains(&life), "{life}");
}

async fn unreachable(registry: &RedisRegistry) {
    let begun = Instant::now();
    let outcome = all(registry.find_routes(&[request()]).await);
    assert!(matches!(outcome, Err(RegistryError::Unreachable(_))), "{outcome:?}");
    assert!(begun.elapsed() < CALL_TIME_MAX, "the call took {:?}", begun.elapsed());
}

/// The registry answers again, soon after its server does. A cluster's does so for each of its parts:
/// `of` is a request of the one in question.
pub(crate) async fn recovers(registry: &RedisRegistry, of: RequestId) {
    let deadline = Instant::now() + RECOVERY_TIME_MAX;
    while let Err(error) = all(registry.find_routes(&[of]).await) {
        assert!(Instant::now() < deadline, "not within {RECOVERY_TIME_MAX:?}: {error}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A server that comes back from a dump has earlier epochs and tokens than it had, and says nothing
/// of it but by its generation.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_back_from_a_dump_is_another_generation() {
    let mut server = Server::start("");
    let registry = RedisRegistry::connect(&server.url(), "rt:").await.unwrap();
    let session = SessionId::random();
    let node = node_entry("gw-1", 1);
    let first = SessionRecord {
        session,
        epoch: 3,
        node: node.node.clone(),
        user: None,
        reliable: true,
        attached: true,
        token: TokenHash([1; 32]),
        former_token: None,
        generation: registry.generation().await.unwrap(),
    };
    assert!(first.generation.is_some());
    all(registry.record(std::slice::from_ref(&first), LONG).await).unwrap();
    assert_eq!(registry.announce(&node, LONG).await, Ok(Announcement::Fresh));
    assert_eq!(server.ask("SAVE"), "OK");
    let later = SessionRecord { epoch: 5, token: TokenHash([2; 32]), ..first.clone() };
    all(registry.record(std::slice::from_ref(&later), LONG).await).unwrap();

    server.stop();
    server.run();
    recovers(&registry, request()).await;
    let generation = registry.generation().await.unwrap();
    assert!(generation.is_some() && generation != first.generation);
    assert_eq!(registry.generation().await.unwrap(), generation);
    assert_eq!(registry.announce(&node, LONG).await, Ok(Announcement::Refreshed));
    let found = all(registry.find_sessions(&[session]).await).unwrap();
    let found = found[0].as_ref().map(|found| (found.epoch, found.generation));
    assert_eq!(found, Some((3, first.generation)));
    assert_eq!(registry.try_token(&session, &later.token).await, Ok(None));

    let steps = vec![CheckpointStep::Trim { seq: 1 }];
    let checkpoint = CheckpointUpdate { session, epoch: 5, orphan: false, steps };
    let limits = MailboxLimits { frames_max: 1, bytes_max: 1 };
    assert_eq!(
        all(registry.update_checkpoints(&[checkpoint], limits).await),
        Ok(vec![Checkpointed::Missing])
    );
    assert_eq!(
        all(registry.record(std::slice::from_ref(&later), LONG).await),
        Ok(vec![Recorded::Created])
    );
    assert!(registry.try_token(&session, &later.token).await.unwrap().is_some());
}

/// What a server does not let us ask is none of our business.
#[tokio::test(flavor = "multi_thread")]
async fn without_leave_to_ask_there_is_no_generation() {
    let server = Server::start("");
    server.ask("ACL SETUSER default -info");
    let registry = server.registry().await;
    assert_eq!(registry.generation().await, Ok(None));
    assert_eq!(registry.nodes().await, Ok(Nodes::default()));
}
