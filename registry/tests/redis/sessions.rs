//! Sessions on a real server: what no other registry could be asked.

use std::time::Duration;

use registry::{
    CheckpointStep, CheckpointUpdate, Checkpointed, Claim, Claimed, EntryKind, MailboxLimits,
    NodeId, NodeRef, NodeTable, Progress, Recorded, RedisRegistry, RegistryError, SessionId,
    SessionRecord, SessionTable, TokenHash, all,
};

use crate::{LONG, lossy::Lossy, request, server::Server};

const ROOMY: MailboxLimits = MailboxLimits { frames_max: 1_000, bytes_max: 1 << 20 };

fn node(id: &str) -> NodeRef {
    NodeRef { id: NodeId::parse(id).expect("a valid node id"), incarnation: 1 }
}

pub(crate) fn record(session: SessionId) -> SessionRecord {
    SessionRecord {
        session,
        epoch: 1,
        node: node("gw-1"),
        user: None,
        reliable: true,
        attached: true,
        token: TokenHash([1; 32]),
        former_token: None,
        generation: None,
    }
}

fn claim(session: SessionId) -> Claim {
    Claim {
        session,
        token: TokenHash([1; 32]),
        user: None,
        node: node("gw-2"),
        next_token: TokenHash([2; 32]),
        ttl: LONG,
    }
}

/// A request, and a frame that ends none.
fn checkpoint(session: SessionId) -> CheckpointUpdate {
    let detail = "detail".into();
    let progress = Progress::Submitted;
    let steps = vec![
        CheckpointStep::Request { request: request(), progress, detail },
        CheckpointStep::Park { seq: 1, request: None, frame: "frame".into() },
    ];
    CheckpointUpdate { session, epoch: 1, orphan: false, steps }
}

async fn at(server: &Server) -> RedisRegistry {
    RedisRegistry::connect(&server.url(), "rt:").await.expect("a good URL and a good prefix")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_and_its_checkpoint_have_one_life() {
    let server = Server::start("");
    let registry = at(&server).await;
    let session = SessionId::random();
    let lives = || {
        let life = |part| server.ask(&format!("PTTL rt:s:{{{session}}}{part}")).parse().unwrap();
        ["", ":q", ":m"].map(life)
    };
    let within = |lives: [i64; 3], most: i64| {
        let [least, largest] = [lives.iter().min(), lives.iter().max()].map(|life| *life.unwrap());
        assert!(least > most - 5_000 && largest <= most, "{lives:?} of {most}");
        assert!(largest - least < 1_000, "{lives:?} are of one life");
    };

    all(registry.record(&[record(session)], Duration::from_secs(20)).await).unwrap();
    all(registry.update_checkpoints(&[checkpoint(session)], ROOMY).await).unwrap();
    assert_eq!(server.ask("DBSIZE"), "3");
    within(lives(), 20_000);
    all(registry.record(&[record(session)], Duration::from_secs(40)).await).unwrap();
    within(lives(), 40_000);
    all(registry.update_checkpoints(&[checkpoint(session)], ROOMY).await).unwrap();
    within(lives(), 40_000);
    // Both keys go with their last entry, and come back with the record's life.
    let emptied = CheckpointUpdate { steps: vec![CheckpointStep::Reset], ..checkpoint(session) };
    all(registry.update_checkpoints(&[emptied], ROOMY).await).unwrap();
    all(registry.update_checkpoints(&[checkpoint(session)], ROOMY).await).unwrap();
    within(lives(), 40_000);
    registry.claim(&claim(session)).await.unwrap();
    within(lives(), 60_000);

    all(registry.end_sessions(&[(session, 2)]).await).unwrap();
    assert_eq!(server.ask("DBSIZE"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_no_session() {
    let server = Server::start("");
    let registry = at(&server).await;
    let [other_type, other_fields, bad_epoch, good] = std::array::from_fn(|_| SessionId::random());
    server.ask(&format!("SET rt:s:{{{other_type}}} what"));
    server.ask(&format!("HSET rt:s:{{{other_fields}}} what ever"));
    all(registry.record(&[record(bad_epoch), record(good)], LONG).await).unwrap();
    server.ask(&format!("HSET rt:s:{{{bad_epoch}}} e 1"));
    server.ask(&format!("RPUSH rt:s:{{{other_fields}}}:m what"));

    let found =
        all(registry.find_sessions(&[other_type, other_fields, bad_epoch, good]).await).unwrap();
    let read: Vec<_> = found.iter().map(Option::is_some).collect();
    assert_eq!(read, [false, false, false, true]);
    for session in [other_fields, bad_epoch] {
        assert_eq!(registry.claim(&claim(session)).await, Ok(Claimed::Refused));
    }
    assert_eq!(registry.claim(&claim(other_type)).await, Ok(Claimed::Refused));
    let checkpoints = [checkpoint(other_type), checkpoint(good)];
    let told = all(registry.update_checkpoints(&checkpoints, ROOMY).await);
    assert_eq!(
        told,
        Ok(vec![Checkpointed::Missing, Checkpointed::Done]),
        "one is no other one's trouble"
    );
    assert_eq!(
        all(registry.end_sessions(&[(other_type, 1), (bad_epoch, 7)]).await).map(drop),
        Ok(())
    );

    let records = [record(other_type), record(other_fields), record(bad_epoch), record(good)];
    let [created, refreshed] = [Recorded::Created, Recorded::Refreshed];
    let expected = vec![created, created, created, refreshed];
    assert_eq!(all(registry.record(&records, LONG).await), Ok(expected));
    let told = all(registry.update_checkpoints(&[checkpoint(other_fields)], ROOMY).await);
    assert_eq!(told, Ok(vec![Checkpointed::Done]), "nothing is left of what was there");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_of_a_copy_is_left_out_and_said() {
    let server = Server::start("");
    let registry = at(&server).await;
    let [damaged, replaced, whole] = std::array::from_fn(|_| SessionId::random());
    for session in [damaged, replaced, whole] {
        all(registry.record(&[record(session)], LONG).await).unwrap();
        all(registry.update_checkpoints(&[checkpoint(session)], ROOMY).await).unwrap();
    }
    server.ask(&format!("HSET rt:s:{{{damaged}}}:q what ever"));
    server.ask(&format!("ZADD rt:s:{{{damaged}}}:m 0 what"));
    server.ask(&format!("SET rt:s:{{{replaced}}}:q what"));
    server.ask(&format!("SET rt:s:{{{replaced}}}:m what"));
    for (session, left, is_whole) in [(damaged, 1, false), (replaced, 0, false), (whole, 1, true)] {
        let Claimed::Taken(holding) = registry.claim(&claim(session)).await.unwrap() else {
            panic!("a claim was refused")
        };
        let parts = (holding.requests.len(), holding.mailbox.len(), holding.is_whole);
        assert_eq!(parts, (left, left, is_whole));
    }
    for kind in [EntryKind::Request, EntryKind::Frame] {
        assert_eq!(registry.unreadable().of(kind).0, 2, "{kind:?}");
    }
    // What an owner writes anew replaces what could not be read.
    let steps = [CheckpointStep::Reset].into_iter().chain(checkpoint(replaced).steps).collect();
    let anew = CheckpointUpdate { epoch: 2, steps, ..checkpoint(replaced) };
    assert_eq!(
        all(registry.update_checkpoints(&[anew], ROOMY).await),
        Ok(vec![Checkpointed::Done])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgot_the_scripts_is_told_them_again() {
    let server = Server::start("");
    let registry = at(&server).await;
    let records: Vec<_> = (0..500).map(|_| record(SessionId::random())).collect();
    let checkpoints: Vec<_> = records.iter().map(|record| checkpoint(record.session)).collect();
    for expected in [Recorded::Created, Recorded::Refreshed] {
        server.ask("SCRIPT FLUSH");
        let told = all(registry.record(&records, LONG).await);
        assert_eq!(told, Ok(vec![expected; 500]));
        let told = all(registry.update_checkpoints(&checkpoints, ROOMY).await);
        assert_eq!(told, Ok(vec![Checkpointed::Done; 500]));
    }
    let Claimed::Taken(holding) = registry.claim(&claim(records[499].session)).await.unwrap()
    else {
        panic!("a claim was refused")
    };
    assert_eq!(holding.mailbox.len(), 2, "each checkpoint was carried out once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_full_changes_nothing() {
    let server = Server::start("");
    let registry = at(&server).await;
    let session = SessionId::random();
    all(registry.record(&[record(session)], LONG).await).unwrap();
    server.ask("CONFIG SET maxmemory 1");
    let outcome = all(registry.update_checkpoints(&[checkpoint(session)], ROOMY).await);
    assert!(matches!(outcome, Err(RegistryError::Refused(_))), "{outcome:?}");
    let outcome = registry.claim(&claim(session)).await;
    assert!(matches!(outcome, Err(RegistryError::Refused(_))), "{outcome:?}");
    let outcome = all(registry.record(&[record(SessionId::random())], LONG).await);
    assert!(matches!(outcome, Err(RegistryError::Refused(_))), "{outcome:?}");
    assert_eq!(server.ask("DBSIZE"), "1");

    server.ask("CONFIG SET maxmemory 0");
    let Claimed::Taken(holding) = registry.claim(&claim(session)).await.unwrap() else {
        panic!("a claim was refused")
    };
    assert!(holding.epoch == 2 && holding.requests.is_empty() && holding.mailbox.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_answer_was_lost_is_carried_out_once() {
    let server = Server::start("");
    let lossy = Lossy::before(&server);
    let registry = RedisRegistry::connect(&lossy.url(), "rt:").await.unwrap();
    let session = SessionId::random();
    // The server knows the scripts from here on, so each call below has one answer to lose.
    let known = SessionId::random();
    all(registry.record(&[record(known)], LONG).await).unwrap();
    all(registry.update_checkpoints(&[checkpoint(known)], ROOMY).await).unwrap();
    registry.claim(&claim(known)).await.unwrap();

    lossy.lose_the_next_answer();
    let told = all(registry.record(&[record(session)], LONG).await);
    assert_eq!(told, Ok(vec![Recorded::Created]));
    let told = all(registry.record(&[record(session)], LONG).await);
    assert_eq!(told, Ok(vec![Recorded::Refreshed]));
    lossy.lose_the_next_answer();
    let told = all(registry.update_checkpoints(&[checkpoint(session)], ROOMY).await);
    assert_eq!(told, Ok(vec![Checkpointed::Done]));
    lossy.lose_the_next_answer();
    let Claimed::Taken(holding) = registry.claim(&claim(session)).await.unwrap() else {
        panic!("a claim was refused")
    };
    assert_eq!((holding.former.epoch, holding.epoch), (1, 2));
    assert_eq!(holding.former.node, Some(record(session).node));
    assert_eq!((holding.requests.len(), holding.mailbox.len()), (1, 1));
    assert_eq!(lossy.lost(), 3, "each answer was lost");
}

/// What a claim is given: how many requests and frames, and whether that is all.
async fn held_by(registry: &RedisRegistry, session: SessionId, of: Claim) -> (usize, usize, bool) {
    let Claimed::Taken(holding) =
        registry.claim(&Claim { session, ..of }).await.expect("an answer")
    else {
        panic!("a claim was refused")
    };
    (holding.requests.len(), holding.mailbox.len(), holding.is_whole)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_the_server_has_dropped_is_missed() {
    let server = Server::start("");
    let registry = at(&server).await;
    for (part, left) in [(":q", (0, 1)), (":m", (1, 0))] {
        let session = SessionId::random();
        all(registry.record(&[record(session)], LONG).await).unwrap();
        all(registry.update_checkpoints(&[checkpoint(session)], ROOMY).await).unwrap();
        server.ask(&format!("DEL rt:s:{{{session}}}{part}"));
        let expected = (left.0, left.1, false);
        assert_eq!(held_by(&registry, session, claim(session)).await, expected, "{part}");
        // Nor does another claim find more.
        let again = Claim { token: TokenHash([2; 32]), ..claim(session) };
        assert_eq!(held_by(&registry, session, again).await, expected, "{part}");
        // Whoever parks for a session that nobody holds does not complete it, and is not sent away.
        let orphan =
            CheckpointUpdate { epoch: 3, orphan: true, steps: vec![], ..checkpoint(session) };
        let step = CheckpointStep::Park { seq: 0, request: None, frame: "frame".into() };
        let parked = CheckpointUpdate { epoch: 4, steps: vec![step], ..checkpoint(session) };
        for update in [orphan, parked] {
            let told = all(registry.update_checkpoints(&[update], ROOMY).await);
            assert_eq!(told, Ok(vec![Checkpointed::Done]), "{part}");
        }
        let again = Claim { token: TokenHash([2; 32]), ..claim(session) };
        let expected = (left.0, left.1 + 1, false);
        assert_eq!(held_by(&registry, session, again).await, expected, "{part}");
    }

    let session = SessionId::random();
    all(registry.record(&[record(session)], LONG).await).unwrap();
    all(registry.update_checkpoints(&[checkpoint(session)], ROOMY).await).unwrap();
    server.ask(&format!("DEL rt:s:{{{session}}}"));
    assert_eq!(registry.claim(&claim(session)).await, Ok(Claimed::Refused));
    let told = all(registry.update_checkpoints(&[checkpoint(session)], ROOMY).await);
    assert_eq!(told, Ok(vec![Checkpointed::Missing]));
    let told = all(registry.record(&[record(session)], LONG).await);
    assert_eq!(told, Ok(vec![Recorded::Created]));
    assert_eq!(
        server.ask(&format!("KEYS *{session}*")).lines().count(),
        1,
        "nothing is left of what was there"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_learns_of_a_dropped_part_and_writes_all_of_it_anew() {
    let server = Server::start("");
    let registry = at(&server).await;
    for part in [":q", ":m"] {
        let session = SessionId::random();
        all(registry.record(&[record(session)], LONG).await).unwrap();
        all(registry.update_checkpoints(&[checkpoint(session)], ROOMY).await).unwrap();
        server.ask(&format!("DEL rt:s:{{{session}}}{part}"));
        let next = CheckpointStep::Trim { seq: 0 };
        let update = CheckpointUpdate { steps: vec![next], ..checkpoint(session) };
        for update in [checkpoint(session), update] {
            let told = all(registry.update_checkpoints(&[update], ROOMY).await);
            assert_eq!(told, Ok(vec![Checkpointed::Missing]), "{part}");
        }
        let told = all(registry.record(&[record(session)], LONG).await);
        assert_eq!(told, Ok(vec![Recorded::Refreshed]));
        let steps = [CheckpointStep::Reset].into_iter().chain(checkpoint(session).steps).collect();
        let anew = CheckpointUpdate { steps, ..checkpoint(session) };
        let told = all(registry.update_checkpoints(&[anew], ROOMY).await);
        assert_eq!(told, Ok(vec![Checkpointed::Done]), "{part}");
        assert_eq!(held_by(&registry, session, claim(session)).await, (1, 1, true), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_counted_is_not_missed() {
    let server = Server::start("");
    let registry = at(&server).await;
    let request = request();
    let update = |session, epoch, steps| CheckpointUpdate { session, epoch, orphan: false, steps };
    let progress = Progress::Submitted;
    let step = CheckpointStep::Request { request, progress, detail: "detail".into() };
    // A version that does not count, and one that took over from one that does.
    let [uncounted, moved] = std::array::from_fn(|_| SessionId::random());
    for session in [uncounted, moved] {
        all(registry.record(&[record(session)], LONG).await).unwrap();
    }
    server.ask(&format!("HDEL rt:s:{{{uncounted}}} q"));
    let counted = update(moved, 1, vec![step.clone()]);
    all(registry.update_checkpoints(&[counted], ROOMY).await).unwrap();
    server.ask(&format!("HSET rt:s:{{{moved}}} e 00000000000000000002"));
    server.ask(&format!("DEL rt:s:{{{moved}}}:q"));
    for (session, epoch) in [(uncounted, 1), (moved, 2)] {
        for (steps, expected) in [
            (vec![step.clone()], (1, 0, true)),
            (vec![CheckpointStep::Forget { request }], (0, 0, true)),
        ] {
            let (epoch, token) = match expected.0 {
                1 => (epoch, TokenHash([1; 32])),
                _ => (epoch + 1, TokenHash([2; 32])),
            };
            let told =
                all(registry.update_checkpoints(&[update(session, epoch, steps)], ROOMY).await);
            assert_eq!(told, Ok(vec![Checkpointed::Done]));
            let of = Claim { token, ..claim(session) };
            assert_eq!(held_by(&registry, session, of).await, expected);
        }
    }
}
