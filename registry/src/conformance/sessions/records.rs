//! Records: written, found, superseded, ended.

use super::{
    LONG, ROOMY, Subject, claim, entry, find, park, parked, record, submitted, taken, timeless,
    write,
};
use crate::{
    conformance::{good, node_ref, request, same},
    ids::SessionId,
    tables::{
        Generation, Registry,
        sessions::{
            CheckpointUpdate, Checkpointed, Claimed, MailboxLimits, Recorded, SessionRecord,
            TokenHash,
        },
    },
};

pub(crate) async fn are_created_then_refreshed(registry: &impl Registry) {
    let session = SessionId::random();
    same(&find(registry, session).await, &None, "a session nobody wrote is not found");
    let mut written = record(session);
    for expected in [Recorded::Created, Recorded::Refreshed, Recorded::Refreshed] {
        same(&write(registry, &written, LONG).await, &expected, "the first record, then others");
        let found = find(registry, session).await;
        same(&found, &Some(entry(&written)), "a record is found as it was written");
        written.node = node_ref("gw-9", 1);
        written.user = Some("someone".into());
        written.reliable = !written.reliable;
        written.attached = false;
        written.token = TokenHash([9; 32]);
        written.former_token = Some(TokenHash([8; 32]));
    }
    written.user = None;
    same(&write(registry, &written, LONG).await, &Recorded::Refreshed, "a refresh");
    same(&find(registry, session).await, &Some(entry(&written)), "a user can be lost");
}

pub(crate) async fn keep_every_user_and_owner(registry: &impl Registry) {
    let longest = "x".repeat(4096);
    let users = [None, Some(""), Some("="), Some("a b\r\n\0"), Some("日本語 🦀"), Some(&*longest)];
    let nodes = [
        node_ref("gw-1", 0),
        node_ref("a.very-long_name.0123456789.0123456789.0123456789.0123456789.012", u64::MAX),
    ];
    for (index, user) in users.into_iter().enumerate() {
        for node in &nodes {
            let session = SessionId::random();
            let [reliable, attached] = [index % 2 == 0, index % 3 == 0];
            let (user, node) = (user.map(Into::into), node.clone());
            let written = SessionRecord { node, user, reliable, attached, ..record(session) };
            write(registry, &written, LONG).await;
            let found = find(registry, session).await;
            same(&found, &Some(entry(&written)), "user, owner and flags are kept");
        }
    }
}

pub(crate) async fn give_way_to_a_later_epoch(registry: &impl Registry) {
    let mut subject = Subject::begin(registry).await;
    let former = subject.record();
    subject.epoch = 5;
    let later = SessionRecord { node: node_ref("gw-2", 1), ..subject.record() };
    write(registry, &later, LONG).await;
    let intruder = SessionRecord { attached: false, token: TokenHash([1; 32]), ..former };
    let told = write(registry, &intruder, LONG).await;
    same(&told, &Recorded::Superseded, "an earlier epoch is refused");
    let found = find(registry, subject.session).await;
    same(&found, &Some(entry(&later)), "nothing of an earlier epoch is written");

    let stolen = claim(subject.session, intruder.token, intruder.token);
    let told = good(registry.claim(&stolen).await, "claim");
    same(&told, &Claimed::Refused, "the token of a superseded record is not written");
}

pub(crate) async fn compare_whole_epochs(registry: &impl Registry) {
    let session = SessionId::random();
    // 2^53 and the number after it are one number to whoever computes in floating point.
    let rising = [0, 9, 10, 1 << 53, (1 << 53) + 1, u64::MAX - 1, u64::MAX];
    let at = |epoch| SessionRecord { epoch, ..record(session) };
    for (index, epoch) in rising.into_iter().enumerate() {
        same(&write(registry, &at(epoch), LONG).await, &Recorded::Created, "epochs rise");
        for former in &rising[..index] {
            let told = write(registry, &at(*former), LONG).await;
            same(&told, &Recorded::Superseded, "a smaller epoch is refused");
            let checkpoint = CheckpointUpdate {
                session,
                epoch: *former,
                orphan: false,
                steps: vec![park(0, "frame")],
            };
            let told =
                good(registry.update_checkpoints(&[checkpoint], ROOMY).await, "update_checkpoints");
            same(
                &told,
                &vec![Checkpointed::Superseded],
                "a checkpoint of a smaller epoch is refused",
            );
            good(registry.end_sessions(&[(session, *former)]).await, "end_sessions");
        }
        same(&find(registry, session).await, &Some(entry(&at(epoch))), "the largest epoch stays");
    }
}

/// A table that went back to an earlier state has earlier epochs than the owners.
pub(crate) async fn of_an_earlier_epoch_are_replaced_with_their_checkpoints(
    registry: &impl Registry,
) {
    let mut subject = Subject::begin(registry).await;
    let id = request();
    subject.done(vec![submitted(id, "detail"), park(1, "frame")]).await;
    let full = MailboxLimits { frames_max: 1, ..ROOMY };
    subject.checkpoint_within(full, vec![park(2, "too many")]).await;

    subject.epoch = 5;
    let told =
        subject.checkpoint_within(ROOMY, vec![submitted(id, "later"), park(3, "later")]).await;
    same(&told, &Checkpointed::Missing, "a checkpoint of a later epoch finds none of its own");
    let later = SessionRecord { node: node_ref("gw-2", 1), ..subject.record() };
    same(&write(registry, &later, LONG).await, &Recorded::Created, "the record is a new one");
    let found = find(registry, subject.session).await;
    same(&found, &Some(entry(&later)), "of the earlier record nothing is left");
    same(&write(registry, &later, LONG).await, &Recorded::Refreshed, "then it is refreshed");
    subject.done(vec![park(4, "kept")]).await;
    let holding = subject.held().await;
    same(&holding.requests, &Vec::new(), "nor of the requests");
    same(&holding.mailbox, &vec![parked(4, None, "kept")], "nor of the mailbox");
}

pub(crate) async fn keep_the_generation_of_their_checkpoints(registry: &impl Registry) {
    let now = good(registry.generation().await, "generation");
    same(&good(registry.generation().await, "generation"), &now, "it stays while nothing happens");
    let others = [Some(Generation(0)), Some(Generation(u64::MAX))];
    for generation in [None, now].into_iter().chain(others) {
        let written = SessionRecord { generation, ..record(SessionId::random()) };
        write(registry, &written, LONG).await;
        let found = find(registry, written.session).await;
        same(&found, &Some(entry(&written)), "a generation is kept");
        let holding = taken(registry, &claim(written.session, super::TOKEN, super::TOKEN)).await;
        same(&holding.former.generation, &generation, "and told to who claims the session");
        let found = find(registry, written.session).await.and_then(|found| found.generation);
        same(&found, &generation, "a claim writes no checkpoint");
        let renewed = SessionRecord { generation: now, epoch: 2, ..written };
        write(registry, &renewed, LONG).await;
        let found = find(registry, renewed.session).await.and_then(|found| found.generation);
        same(&found, &now, "a record tells the new one");
    }
}

pub(crate) async fn are_found_in_the_order_asked(registry: &impl Registry) {
    let ids: Vec<_> = std::iter::repeat_with(SessionId::random).take(4).collect();
    let records: Vec<_> = ids[..3]
        .iter()
        .zip(["a", "b", "c"])
        .map(|(id, node)| SessionRecord { node: node_ref(node, 1), epoch: 3, ..record(*id) })
        .collect();
    write(registry, &records[1], LONG).await;
    let told = good(registry.record(&records, LONG).await, "record");
    let expected = vec![Recorded::Created, Recorded::Refreshed, Recorded::Created];
    same(&told, &expected, "answers come in the order of the records");
    let earlier = SessionRecord { epoch: 2, ..records[2].clone() };
    let told = good(registry.record(&[earlier, records[0].clone()], LONG).await, "record");
    same(&told, &vec![Recorded::Superseded, Recorded::Refreshed], "one answer does for each");

    let asked = [ids[3], ids[2], ids[0], ids[3], ids[1], ids[2]];
    let [a, b, c] = [0, 1, 2].map(|index| Some(entry(&records[index])));
    let found = good(registry.find_sessions(&asked).await, "find_sessions");
    same(&found, &vec![None, c.clone(), a, None, b, c], "sessions come in the order asked for");
}

pub(crate) async fn may_come_in_no_and_in_large_numbers(registry: &impl Registry) {
    same(&good(registry.record(&[], LONG).await, "record"), &Vec::new(), "no record, no answer");
    let found = good(registry.find_sessions(&[]).await, "find_sessions");
    same(&found, &Vec::new(), "nothing asked, nothing found");
    good(registry.end_sessions(&[]).await, "end_sessions of nothing");

    let name = |n: u32| node_ref(&format!("gw-{n}"), 1);
    let records: Vec<_> =
        (0..1000).map(|n| SessionRecord { node: name(n), ..record(SessionId::random()) }).collect();
    for expected in [Recorded::Created, Recorded::Refreshed] {
        let told = good(registry.record(&records, LONG).await, "record of 1000");
        assert!(told == vec![expected; 1000], "1000 records are {expected:?}");
    }
    let ids: Vec<_> = records.iter().map(|record| record.session).collect();
    let found = good(registry.find_sessions(&ids).await, "find_sessions of 1000");
    let expected: Vec<_> = records.iter().map(|record| Some(entry(record))).collect();
    assert!(found == expected, "1000 sessions come back, in order");
    let all: Vec<_> = ids.iter().map(|id| (*id, 1)).collect();
    good(registry.end_sessions(&all).await, "end_sessions of 1000");
    let found = good(registry.find_sessions(&ids).await, "find_sessions of 1000");
    same(&found.into_iter().flatten().count(), &0, "1000 sessions are ended");
}

pub(crate) async fn end_at_their_epoch_alone(registry: &impl Registry) {
    let mut subject = Subject::begin(registry).await;
    let other = Subject::begin(registry).await;
    subject.done(vec![submitted(request(), "detail"), park(1, "frame")]).await;
    let holding = subject.held().await;
    let (session, epoch) = (subject.session, holding.epoch);
    let wrong = [(session, epoch - 1), (session, epoch + 1), (SessionId::random(), 1)];
    good(registry.end_sessions(&wrong).await, "end_sessions at other epochs");
    let left = subject.held().await;
    same(&left.mailbox, &holding.mailbox, "a session of another epoch does not end");
    same(&timeless(&left), &timeless(&holding), "nor does what it has in flight");

    good(registry.end_sessions(&[(session, subject.epoch)]).await, "end_sessions");
    same(&find(registry, session).await, &None, "a session that was ended is not found");
    let told = subject.checkpoint_within(ROOMY, vec![park(2, "late")]).await;
    same(&told, &Checkpointed::Missing, "a session that was ended has no checkpoint");
    let told = good(registry.claim(&claim(session, super::TOKEN, super::TOKEN)).await, "claim");
    same(&told, &Claimed::Refused, "a session that was ended is nobody's");
    assert!(find(registry, other.session).await.is_some(), "another session stays");

    let told = write(registry, &subject.record(), LONG).await;
    same(&told, &Recorded::Created, "a session that was ended can begin again");
    let holding = subject.held().await;
    assert!(
        holding.requests.is_empty() && holding.mailbox.is_empty(),
        "its checkpoint has ended too"
    );
}
