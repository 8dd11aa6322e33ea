//! Mailboxes: which frames are in them, and in which order.

use super::{Subject, park, park_last, parked, recorded, submitted};
use crate::{
    conformance::{request, same},
    tables::{
        Registry,
        sessions::{CheckpointStep, Progress},
    },
};

pub(crate) async fn keep_the_order_of_parking(registry: &impl Registry) {
    let mut subject = Subject::begin(registry).await;
    let seqs = [3, 0, 1, 2, 0, 2, u64::MAX, 0, 10, 9];
    let mut expected = Vec::new();
    for (index, seq) in seqs.into_iter().enumerate() {
        let frame = ["a", "b"][index % 2];
        subject.done(vec![park(seq, frame)]).await;
        expected.push(parked(seq, None, frame));
    }
    same(&subject.mailbox().await, &expected, "frames stay in the order of parking");
    let steps = (1..=20).map(|seq| park(21 - seq, "c")).collect();
    subject.done(steps).await;
    expected.extend((1..=20).map(|seq| parked(21 - seq, None, "c")));
    same(&subject.mailbox().await, &expected, "also those of one checkpoint, and after a claim");
}

pub(crate) async fn take_last_frames_of_open_requests_alone(registry: &impl Registry) {
    let mut subject = Subject::begin(registry).await;
    let [submitted_one, recorded_one, unknown] = [request(), request(), request()];
    subject.done(vec![submitted(submitted_one, "s"), recorded(recorded_one, "r")]).await;
    subject.done(vec![park_last(unknown, "not in flight")]).await;
    same(&subject.mailbox().await, &Vec::new(), "a request that is not in flight has no frame");

    for id in [recorded_one, submitted_one] {
        for frame in ["last", "too late"] {
            subject.done(vec![park_last(id, frame)]).await;
        }
    }
    let expected =
        vec![parked(0, Some(recorded_one), "last"), parked(0, Some(submitted_one), "last")];
    same(&subject.mailbox().await, &expected, "a request has one last frame");
    let requests = subject.requests().await;
    let ended = |id, detail: &'static str| requests.contains(&(id, Progress::Ended, detail.into()));
    assert!(ended(submitted_one, "s") && ended(recorded_one, "r"), "it has ended: {requests:?}");
    same(&requests.len(), &2, "a frame brings no request into flight");

    let steps = vec![
        CheckpointStep::Forget { request: recorded_one },
        CheckpointStep::Trim { seq: 0 },
        park_last(recorded_one, "forgotten"),
    ];
    subject.done(steps).await;
    same(&subject.mailbox().await, &expected, "what was forgotten is not in flight");
    let numbered = CheckpointStep::Park { seq: 7, request: Some(unknown), frame: "7".into() };
    subject.done(vec![submitted(unknown, ""), numbered]).await;
    let last = subject.mailbox().await.pop();
    same(&last, &Some(parked(7, Some(unknown), "7")), "a last frame may have a number");
}

pub(crate) async fn lose_numbered_frames_to_a_trim(registry: &impl Registry) {
    let mut subject = Subject::begin(registry).await;
    let id = request();
    subject.done(vec![CheckpointStep::Trim { seq: 5 }]).await;
    let numbered_last = CheckpointStep::Park { seq: 2, request: Some(id), frame: "last".into() };
    subject
        .done(vec![
            park(1, "a"),
            park(0, "b"),
            submitted(id, "detail"),
            numbered_last,
            park(4, "c"),
            park(3, "d"),
            park(0, "e"),
        ])
        .await;
    subject.done(vec![CheckpointStep::Trim { seq: 0 }]).await;
    same(&subject.mailbox().await.len(), &6, "a trim up to no number drops nothing");
    subject.done(vec![CheckpointStep::Trim { seq: 3 }]).await;
    let expected = vec![parked(0, None, "b"), parked(4, None, "c"), parked(0, None, "e")];
    same(&subject.mailbox().await, &expected, "numbered frames go, wherever they are");
    let requests = subject.requests().await;
    let expected = vec![(id, Progress::Ended, "detail".into())];
    same(&requests, &expected, "a request whose frame was dropped has ended");
    subject.done(vec![park_last(id, "again"), CheckpointStep::Trim { seq: u64::MAX }]).await;
    let expected = vec![parked(0, None, "b"), parked(0, None, "e")];
    same(&subject.mailbox().await, &expected, "frames without a number stay");
}

pub(crate) async fn compare_whole_numbers(registry: &impl Registry) {
    const LIMIT: u64 = 1 << 53;
    let mut subject = Subject::begin(registry).await;
    let seqs = [9, 10, 100, LIMIT, LIMIT + 1, LIMIT + 2, u64::MAX - 1, u64::MAX];
    subject.done(seqs.into_iter().map(|seq| park(seq, "frame")).collect()).await;
    for (upto, left) in [(8, 8), (9, 7), (99, 6), (LIMIT, 4), (LIMIT + 1, 3), (u64::MAX - 1, 1)] {
        subject.done(vec![CheckpointStep::Trim { seq: upto }]).await;
        let numbers: Vec<_> = subject.mailbox().await.iter().map(|parked| parked.seq).collect();
        same(&numbers, &seqs[seqs.len() - left..].to_vec(), &format!("a trim up to {upto}"));
    }
}

pub(crate) async fn lose_everything_to_a_reset(registry: &impl Registry) {
    let mut subject = Subject::begin(registry).await;
    let [ended, open] = [request(), request()];
    subject.done(vec![CheckpointStep::Reset]).await;
    let steps = vec![
        submitted(ended, "a"),
        recorded(open, "b"),
        park(1, "a"),
        park(0, "b"),
        park_last(ended, "c"),
    ];
    subject.done(steps).await;
    subject.done(vec![CheckpointStep::Reset]).await;
    same(&subject.mailbox().await, &Vec::new(), "a reset drops all frames");
    same(&subject.requests().await, &Vec::new(), "a reset drops all requests");
    let steps = vec![CheckpointStep::Reset, submitted(ended, "b"), park_last(ended, "again")];
    subject.done(steps).await;
    let expected = vec![parked(0, Some(ended), "again")];
    same(&subject.mailbox().await, &expected, "what was there before a reset is forgotten");
}
