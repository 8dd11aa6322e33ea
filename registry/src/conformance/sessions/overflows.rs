//! Mailboxes that outgrow their limits.

use super::{ROOMY, Subject, find, park, park_last, parked, recorded, submitted};
use crate::{
    conformance::{good, request, same},
    tables::{
        Registry,
        sessions::{CheckpointStep, Checkpointed, MailboxLimits, Progress},
    },
};

/// Room for ten bytes, in as many frames as one likes.
const TEN_BYTES: MailboxLimits = MailboxLimits { frames_max: 10_000, bytes_max: 10 };

pub(crate) async fn happen_beyond_the_most_frames(registry: &impl Registry) {
    let few = MailboxLimits { frames_max: 3, ..ROOMY };
    let mut subject = Subject::begin(registry).await;
    let fits = vec![park(1, "a"), park(2, "b"), park(0, "c")];
    same(
        &subject.checkpoint_within(few, fits).await,
        &Checkpointed::Done,
        "as many as there may be",
    );
    let id = request();
    let harmless = vec![submitted(id, ""), park_last(request(), "not in flight")];
    let told = subject.checkpoint_within(few, harmless).await;
    same(&told, &Checkpointed::Done, "a frame that is not taken needs no room");
    let room = vec![CheckpointStep::Trim { seq: 1 }, park_last(id, "d")];
    same(&subject.checkpoint_within(few, room).await, &Checkpointed::Done, "a trim makes room");
    let room = vec![CheckpointStep::Reset, park(5, "e"), park(6, "f"), park(7, "g")];
    same(&subject.checkpoint_within(few, room).await, &Checkpointed::Done, "a reset makes room");
    same(&subject.mailbox().await.len(), &3, "the mailbox is full");
    let told = subject.checkpoint_within(few, vec![park(8, "h")]).await;
    same(&told, &Checkpointed::Overflowed, "one frame more is too much");
    same(&subject.mailbox().await, &Vec::new(), "a mailbox that overflows is empty");
}

pub(crate) async fn happen_beyond_the_most_bytes(registry: &impl Registry) {
    let mut subject = Subject::begin(registry).await;
    let fits = vec![park(1, "1234"), park(0, ""), park(2, "567890")];
    same(
        &subject.checkpoint_within(TEN_BYTES, fits).await,
        &Checkpointed::Done,
        "as large as it may be",
    );
    let room = vec![CheckpointStep::Trim { seq: 1 }, park(3, "abcd"), park(0, "")];
    same(
        &subject.checkpoint_within(TEN_BYTES, room).await,
        &Checkpointed::Done,
        "a trim makes room",
    );
    let id = request();
    let room = vec![
        CheckpointStep::Reset,
        submitted(id, "a detail is not counted"),
        park_last(id, "123456789"),
        park(0, "0"),
    ];
    same(
        &subject.checkpoint_within(TEN_BYTES, room).await,
        &Checkpointed::Done,
        "a reset makes room",
    );
    let numbers = (subject.mailbox().await.len(), subject.requests().await.len());
    same(&numbers, &(2, 1), "the mailbox is full");
    let told = subject.checkpoint_within(TEN_BYTES, vec![park(4, ""), park(5, "x")]).await;
    same(&told, &Checkpointed::Overflowed, "one byte more is too much");
    same(&subject.mailbox().await, &Vec::new(), "a mailbox that overflows is empty");

    let narrower = Subject::begin(registry).await;
    narrower.done(vec![park(1, "123456789012")]).await;
    let told = narrower.checkpoint_within(TEN_BYTES, vec![park(2, "")]).await;
    same(&told, &Checkpointed::Overflowed, "the limits are those of the call");
    let never = Subject::begin(registry).await;
    let none = MailboxLimits { frames_max: 0, bytes_max: 0 };
    let told = never.checkpoint_within(none, vec![park(1, "")]).await;
    same(&told, &Checkpointed::Overflowed, "a mailbox may have no room at all");
    let largest = MailboxLimits { frames_max: usize::MAX, bytes_max: usize::MAX };
    let endless = Subject::begin(registry).await;
    let told = endless.checkpoint_within(largest, vec![park(1, "a")]).await;
    same(&told, &Checkpointed::Done, "no limit is too large");
}

pub(crate) async fn are_told_by_what_is_left_after_a_drop(registry: &impl Registry) {
    let limits = MailboxLimits { frames_max: 3, bytes_max: 10 };
    for drop in [CheckpointStep::Trim { seq: 3 }, CheckpointStep::Reset] {
        let subject = Subject::begin(registry).await;
        let id = request();
        let last = CheckpointStep::Park { seq: 2, request: Some(id), frame: "567".into() };
        let fits = vec![submitted(id, "detail"), park(1, "1234"), last, park(3, "890")];
        let full = vec![park(4, "1234567890"), park(5, ""), park(6, "")];
        // Each in a checkpoint of its own, since the counts have to be kept from one to the next.
        for steps in [fits, vec![drop.clone()], full] {
            let told = subject.checkpoint_within(limits, steps).await;
            same(&told, &Checkpointed::Done, &format!("all room is there again after {drop:?}"));
        }
        let told = subject.checkpoint_within(TEN_BYTES, vec![park(7, "x")]).await;
        same(&told, &Checkpointed::Overflowed, &format!("and no more bytes than before {drop:?}"));
    }

    let subject = Subject::begin(registry).await;
    let trimmed = vec![
        park(1, "1234"),
        park(2, "567"),
        park(3, "890"),
        CheckpointStep::Trim { seq: 2 },
        park(4, "1234"),
        park(5, "567"),
    ];
    let told = subject.checkpoint_within(limits, trimmed).await;
    same(&told, &Checkpointed::Done, "a trim makes room for the steps behind it");
    let told = subject.checkpoint_within(limits, vec![park(6, "")]).await;
    same(&told, &Checkpointed::Overflowed, "for as many frames as it dropped");
}

pub(crate) async fn are_seen_and_stay(registry: &impl Registry) {
    let few = MailboxLimits { frames_max: 1, ..ROOMY };
    let mut subject = Subject::begin(registry).await;
    let seen = async |session| find(registry, session).await.map(|entry| entry.overflowed);
    same(&seen(subject.session).await, &Some(false), "a mailbox begins within its limits");
    subject.done(vec![park(1, "a")]).await;
    same(&subject.held().await.former.overflowed, &false, "and stays so");
    let steps = vec![park(2, "b"), park(3, "c"), CheckpointStep::Reset, park(4, "d")];
    same(&subject.checkpoint_within(few, steps).await, &Checkpointed::Overflowed, "it overflows");

    same(&seen(subject.session).await, &Some(true), "whoever looks for the session is told");
    let holding = subject.held().await;
    same(&holding.former.overflowed, &true, "whoever claims it is told");
    same(&holding.mailbox, &Vec::new(), "and finds no frame");
    super::write(registry, &subject.record(), super::LONG).await;
    same(&seen(subject.session).await, &Some(true), "a record does not change that");
    let id = request();
    for steps in [
        vec![park(5, "e")],
        vec![CheckpointStep::Reset, park(0, "")],
        vec![CheckpointStep::Trim { seq: 9 }, submitted(id, ""), park_last(id, "f")],
    ] {
        let told = subject.checkpoint_within(ROOMY, steps).await;
        same(&told, &Checkpointed::Overflowed, "nothing is taken any more");
    }
    let holding = subject.held().await;
    same(&(holding.former.overflowed, holding.mailbox), &(true, Vec::new()), "nor after a claim");
    subject.done(vec![CheckpointStep::Reset, CheckpointStep::Trim { seq: 1 }]).await;
}

pub(crate) async fn leave_other_steps_and_sessions(registry: &impl Registry) {
    let few = MailboxLimits { frames_max: 1, ..ROOMY };
    let mut full = Subject::begin(registry).await;
    let mut other = Subject::begin(registry).await;
    let mut ids = [request(), request(), request()];
    ids.sort_unstable();
    let [ended, refused, late] = ids;
    let gone = request();
    full.done(vec![submitted(gone, "")]).await;
    let steps = vec![
        submitted(ended, "a"),
        park_last(ended, "taken"),
        submitted(refused, "b"),
        park_last(refused, "too much"),
        recorded(late, "c"),
        CheckpointStep::Forget { request: gone },
    ];
    let batch = [full.checkpoint(steps.clone()), other.checkpoint(vec![park(1, "other")])];
    for _ in 0..2 {
        let told = good(registry.update_checkpoints(&batch[..1], few).await, "update_checkpoints");
        same(&told, &vec![Checkpointed::Overflowed], "an overflow, also when it is repeated");
    }
    let told = good(registry.update_checkpoints(&batch, few).await, "update_checkpoints");
    same(&told, &vec![Checkpointed::Overflowed, Checkpointed::Done], "one session overflows alone");
    let expected = vec![
        (ended, Progress::Ended, "a".into()),
        (refused, Progress::Submitted, "b".into()),
        (late, Progress::Recorded, "c".into()),
    ];
    same(&full.requests().await, &expected, "all other steps were carried out");
    same(&other.mailbox().await, &vec![parked(1, None, "other")], "another mailbox is not touched");
}
