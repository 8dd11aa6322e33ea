//! Checkpoints: what is known of requests, and how steps are carried out.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::{
    LONG, ROOMY, Subject, TOKEN, ask, claim, find, park, park_last, parked, record, recorded,
    submitted, timeless,
};
use crate::{
    conformance::{good, request, same},
    ids::{RequestId, SessionId},
    tables::{
        Registry,
        sessions::{
            CheckpointStep, CheckpointUpdate, Checkpointed, Claimed, ParkedFrame, Progress,
        },
    },
};

pub(crate) async fn need_the_epoch_and_a_session(registry: &impl Registry) {
    let mut subject = Subject::begin(registry).await;
    subject.epoch = 5;
    super::write(registry, &subject.record(), LONG).await;
    let id = request();
    subject.done(vec![submitted(id, "kept"), park(1, "kept")]).await;
    let (earlier, later) = (Checkpointed::Superseded, Checkpointed::Missing);
    for (epoch, expected) in [(0, earlier), (4, earlier), (6, later), (u64::MAX, later)] {
        let steps = vec![
            recorded(id, "changed"),
            CheckpointStep::Reset,
            CheckpointStep::Forget { request: id },
            park(2, "changed"),
        ];
        let other = Subject { epoch, ..subject };
        let told = other.checkpoint_within(ROOMY, steps).await;
        same(&told, &expected, "a checkpoint of another epoch is refused");
    }
    let holding = subject.held().await;
    same(&holding.mailbox, &vec![parked(1, None, "kept")], "no frame of another epoch");
    let held: Vec<_> = holding.requests.iter().map(|held| (held.progress, &held.detail)).collect();
    same(&held, &vec![(Progress::Submitted, &Bytes::from("kept"))], "no request of another epoch");

    let missing = Subject { session: SessionId::random(), epoch: 1, ..subject };
    let told = missing.checkpoint_within(ROOMY, vec![submitted(id, "x"), park(1, "x")]).await;
    same(&told, &Checkpointed::Missing, "there is no such session");
    same(&find(registry, missing.session).await, &None, "a checkpoint creates no session");
    same(
        &missing.checkpoint_within(ROOMY, Vec::new()).await,
        &Checkpointed::Missing,
        "nor for nothing",
    );
    subject.done(Vec::new()).await;
}

pub(crate) async fn tell_how_far_requests_are(registry: &impl Registry) {
    let mut subject = Subject::begin(registry).await;
    let id = request();
    subject.done(vec![submitted(id, "one")]).await;
    let expected = vec![(id, Progress::Submitted, "one".into())];
    same(&subject.requests().await, &expected, "a request is in flight");
    subject.done(vec![recorded(id, "two")]).await;
    let expected = vec![(id, Progress::Recorded, "two".into())];
    same(&subject.requests().await, &expected, "what is known of it changes");
    subject.done(vec![CheckpointStep::Forget { request: id }]).await;
    same(&subject.requests().await, &Vec::new(), "a request is forgotten");
    subject.done(vec![CheckpointStep::Forget { request: id }]).await;
    subject.done(vec![submitted(id, "again")]).await;
    let expected = vec![(id, Progress::Submitted, "again".into())];
    same(&subject.requests().await, &expected, "what was forgotten may come again");
}

pub(crate) async fn tell_how_long_ago_requests_were_written(registry: &impl Registry) {
    const PAUSE: Duration = Duration::from_millis(300);
    let mut subject = Subject::begin(registry).await;
    let [old, renewed, ended] = [request(), request(), request()];
    let begun = Instant::now();
    subject.done(vec![submitted(old, "a"), submitted(renewed, "b"), submitted(ended, "c")]).await;
    sleep(PAUSE).await;
    subject.done(vec![recorded(renewed, "b"), park_last(ended, "frame")]).await;
    let renewed_at = Instant::now();
    let held = subject.held().await.requests;
    let age = |id| held.iter().find(|held| held.request == id).map(|held| held.age);
    // Both clocks count whole milliseconds, so that either may be off by one.
    let most = begun.elapsed() + Duration::from_millis(2);
    for id in [old, ended] {
        let age = age(id).unwrap_or_default();
        assert!(age + Duration::from_millis(2) >= PAUSE && age <= most, "{age:?} of {most:?}");
    }
    let most = renewed_at.elapsed() + most.saturating_sub(PAUSE);
    assert!(age(renewed).is_some_and(|age| age <= most), "what is written again is new");
}

pub(crate) async fn keep_what_has_ended(registry: &impl Registry) {
    let mut subject = Subject::begin(registry).await;
    let id = request();
    subject.done(vec![recorded(id, "last"), park_last(id, "answer")]).await;
    for late in [submitted(id, "late"), recorded(id, "later")] {
        subject.done(vec![late]).await;
        let expected = vec![(id, Progress::Ended, "last".into())];
        same(&subject.requests().await, &expected, "what has ended stays, with its detail");
    }
    subject.done(vec![CheckpointStep::Forget { request: id }]).await;
    same(&subject.requests().await, &Vec::new(), "what has ended can be forgotten");
    let expected = vec![parked(0, Some(id), "answer")];
    same(&subject.mailbox().await, &expected, "its frame stays in the mailbox");
}

pub(crate) async fn keep_every_byte(registry: &impl Registry) {
    let every: Bytes = (0..=u8::MAX).collect();
    let big = Bytes::from((0..1_u32 << 20).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    let payloads = [
        every,
        Bytes::new(),
        big,
        Bytes::from_static(b" \r\n\0 - 1 2 3"),
        Bytes::from_static(b"\xff\xfe$5\r\nhello\r\n"),
        Bytes::from_static(b"-"),
    ];
    let mut subject = Subject::begin(registry).await;
    let mut ids: Vec<_> = std::iter::repeat_with(request).take(payloads.len()).collect();
    ids.sort_unstable();
    let mut steps = Vec::new();
    for (id, payload) in ids.iter().zip(&payloads) {
        let detail = payload.clone();
        steps.push(CheckpointStep::Request { request: *id, progress: Progress::Submitted, detail });
        for request in [None, Some(*id)] {
            steps.push(CheckpointStep::Park { seq: 0, request, frame: payload.clone() });
        }
    }
    subject.done(steps).await;
    let holding = subject.held().await;
    for (index, payload) in payloads.iter().enumerate() {
        let length = payload.len();
        let held = &holding.requests[index];
        assert!(held.request == ids[index] && held.detail == *payload, "a detail of {length}");
        let of = |request| ParkedFrame { seq: 0, request, frame: payload.clone() };
        let frames = [of(None), of(Some(ids[index]))];
        assert!(holding.mailbox[index * 2..][..2] == frames, "frames of {length} bytes");
    }
}

pub(crate) async fn are_carried_out_in_order(registry: &impl Registry) {
    let mut subject = Subject::begin(registry).await;
    let [ended, forgotten, revived] = [request(), request(), request()];
    subject
        .done(vec![
            submitted(ended, "a"),
            recorded(ended, "b"),
            park_last(ended, "1"),
            submitted(forgotten, "a"),
            CheckpointStep::Forget { request: forgotten },
            park_last(forgotten, "not in flight"),
            park(4, "2"),
            CheckpointStep::Trim { seq: 4 },
            park(4, "3"),
            submitted(revived, "a"),
            park_last(revived, "4"),
            CheckpointStep::Forget { request: revived },
            submitted(revived, "c"),
        ])
        .await;
    let holding = subject.held().await;
    let expected =
        vec![parked(0, Some(ended), "1"), parked(4, None, "3"), parked(0, Some(revived), "4")];
    same(&holding.mailbox, &expected, "steps are carried out in their order");
    let mut expected: Vec<(RequestId, _, Bytes)> =
        vec![(ended, Progress::Ended, "b".into()), (revived, Progress::Submitted, "c".into())];
    expected.sort_unstable_by_key(|(id, ..)| *id);
    same(&subject.requests().await, &expected, "each step sees those before it");

    subject.done(vec![park(1, "x"), CheckpointStep::Reset, park(2, "y")]).await;
    same(&subject.mailbox().await, &vec![parked(2, None, "y")], "also a reset");
}

pub(crate) async fn may_be_repeated(registry: &impl Registry) {
    let mut subject = Subject::begin(registry).await;
    let [open, ended, gone] = [request(), request(), request()];
    subject.done(vec![submitted(gone, "a"), park(1, "a"), park(2, "b")]).await;
    let steps = vec![
        recorded(open, "detail"),
        submitted(ended, "detail"),
        park_last(ended, "last"),
        CheckpointStep::Trim { seq: 1 },
        CheckpointStep::Forget { request: gone },
    ];
    subject.done(steps.clone()).await;
    let first = subject.held().await;
    subject.done(steps).await;
    let second = subject.held().await;
    same(&second.mailbox, &first.mailbox, "a checkpoint that is repeated adds no frame");
    same(&timeless(&second), &timeless(&first), "a checkpoint that is repeated changes no request");
}

pub(crate) async fn are_carried_out_at_once_or_not_at_all(registry: &impl Registry) {
    for _ in 0..50 {
        let subject = Subject::begin(registry).await;
        let [a, b] = [request(), request()];
        let steps = vec![
            submitted(a, "a"),
            park(1, "1"),
            submitted(b, "b"),
            park_last(a, "2"),
            park(3, "3"),
        ];
        let claim = claim(subject.session, TOKEN, TOKEN);
        let (told, claimed) =
            tokio::join!(subject.checkpoint_within(ROOMY, steps), ask(registry, &claim));
        let Claimed::Taken(holding) = claimed else { panic!("a claim was refused") };
        let held = (holding.requests.len(), holding.mailbox.len());
        let expected = match told {
            Checkpointed::Done => (2, 3),
            Checkpointed::Superseded => (0, 0),
            other => panic!("a checkpoint beside a claim was {other:?}"),
        };
        same(&held, &expected, "a claim sees all of a checkpoint or nothing");
    }
}

pub(crate) async fn may_come_in_no_and_in_large_numbers(registry: &impl Registry) {
    let told = good(registry.update_checkpoints(&[], ROOMY).await, "update_checkpoints");
    same(&told, &Vec::new(), "no checkpoint, no answer");

    let records: Vec<_> = (0..1000).map(|_| record(SessionId::random())).collect();
    good(registry.record(&records, LONG).await, "record of 1000");
    // Every third one is of another epoch, and every third one of no session.
    let checkpoints: Vec<_> = records
        .iter()
        .enumerate()
        .map(|(index, record)| {
            let id = request();
            let session = if index % 3 == 2 { SessionId::random() } else { record.session };
            let epoch = if index % 3 == 1 { 0 } else { 1 };
            CheckpointUpdate {
                session,
                epoch,
                orphan: false,
                steps: vec![submitted(id, "detail"), park_last(id, "frame")],
            }
        })
        .collect();
    let told =
        good(registry.update_checkpoints(&checkpoints, ROOMY).await, "update_checkpoints of 1000");
    let answers = [Checkpointed::Done, Checkpointed::Superseded, Checkpointed::Missing];
    let expected: Vec<_> = (0..1000).map(|index| answers[index % 3]).collect();
    assert!(told == expected, "1000 checkpoints have one answer each, in order");
    for (index, record) in records.iter().enumerate().step_by(333) {
        let mut subject = Subject { registry, session: record.session, epoch: 1 };
        let frames = subject.mailbox().await.len();
        same(&frames, &usize::from(index % 3 == 0), "one checkpoint does not touch another");
    }

    let mut subject = Subject::begin(registry).await;
    let steps = (1..=1000).map(|seq| park(seq, "frame")).collect();
    subject.done(steps).await;
    let numbers: Vec<_> = subject.mailbox().await.iter().map(|parked| parked.seq).collect();
    assert!(numbers.into_iter().eq(1..=1000), "1000 steps of one checkpoint, in order");
}
