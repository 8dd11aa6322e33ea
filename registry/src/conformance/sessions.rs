//! What a [`crate::tables::sessions::SessionTable`] promises.
//!
//! A checkpoint is seen through claims alone, so [`Subject`] claims what it looks at and goes on
//! with the epoch that it was given.

use std::time::Duration;

use bytes::Bytes;

use super::{good, node_ref, same};
use crate::{
    ids::{RequestId, SessionId},
    tables::{
        Registry,
        sessions::{
            CheckpointStep, CheckpointUpdate, Checkpointed, Claim, Claimed, HeldRequest, Holding,
            MailboxLimits, ParkedFrame, Progress, Recorded, SessionEntry, SessionRecord, TokenHash,
        },
    },
};

mod checkpoints;
mod claims;
mod lives;
mod mailboxes;
mod orphans;
mod overflows;
mod records;

/// Longer than any check takes.
const LONG: Duration = Duration::from_secs(60);
/// Long enough to be seen, short enough to be waited for.
const SHORT: Duration = Duration::from_millis(500);
/// More than any check parks, unless it says otherwise.
const ROOMY: MailboxLimits = MailboxLimits { frames_max: 10_000, bytes_max: 64 << 20 };
/// The token with which a [`Subject`] is claimed.
const TOKEN: TokenHash = TokenHash([7; 32]);

pub(super) async fn run_all<R: Registry>(make: impl AsyncFn() -> R) {
    records::are_created_then_refreshed(&make().await).await;
    records::keep_every_user_and_owner(&make().await).await;
    records::give_way_to_a_later_epoch(&make().await).await;
    records::of_an_earlier_epoch_are_replaced_with_their_checkpoints(&make().await).await;
    records::keep_the_generation_of_their_checkpoints(&make().await).await;
    records::compare_whole_epochs(&make().await).await;
    records::are_found_in_the_order_asked(&make().await).await;
    records::may_come_in_no_and_in_large_numbers(&make().await).await;
    records::end_at_their_epoch_alone(&make().await).await;
    lives::end_with_their_checkpoints(&make().await).await;
    lives::are_not_prolonged_by_checkpoints(&make().await).await;
    lives::are_prolonged_by_records_and_claims(&make().await).await;
    lives::may_be_of_any_length(&make().await).await;
    claims::need_a_token(&make().await).await;
    claims::can_be_tried_without_a_change(&make().await).await;
    claims::need_the_same_user(&make().await).await;
    claims::change_tokens(&make().await).await;
    claims::change_the_owner(&make().await).await;
    claims::tell_who_wrote_last(&make().await).await;
    claims::leave_the_checkpoint(&make().await).await;
    claims::count_whole_epochs(&make().await).await;
    claims::of_one_time_raise_the_epoch_each(&make().await).await;
    orphans::have_no_owner_and_fence_the_former(&make().await).await;
    orphans::are_made_at_their_epoch_alone(&make().await).await;
    checkpoints::need_the_epoch_and_a_session(&make().await).await;
    checkpoints::tell_how_far_requests_are(&make().await).await;
    checkpoints::tell_how_long_ago_requests_were_written(&make().await).await;
    checkpoints::keep_what_has_ended(&make().await).await;
    checkpoints::keep_every_byte(&make().await).await;
    checkpoints::are_carried_out_in_order(&make().await).await;
    checkpoints::may_be_repeated(&make().await).await;
    checkpoints::are_carried_out_at_once_or_not_at_all(&make().await).await;
    checkpoints::may_come_in_no_and_in_large_numbers(&make().await).await;
    mailboxes::keep_the_order_of_parking(&make().await).await;
    mailboxes::take_last_frames_of_open_requests_alone(&make().await).await;
    mailboxes::lose_numbered_frames_to_a_trim(&make().await).await;
    mailboxes::compare_whole_numbers(&make().await).await;
    mailboxes::lose_everything_to_a_reset(&make().await).await;
    overflows::happen_beyond_the_most_frames(&make().await).await;
    overflows::happen_beyond_the_most_bytes(&make().await).await;
    overflows::are_told_by_what_is_left_after_a_drop(&make().await).await;
    overflows::are_seen_and_stay(&make().await).await;
    overflows::leave_other_steps_and_sessions(&make().await).await;
}

/// A session under check, always at its present epoch.
struct Subject<'r, R> {
    registry: &'r R,
    session: SessionId,
    epoch: u64,
}

impl<'r, R: Registry> Subject<'r, R> {
    async fn begin(registry: &'r R) -> Self {
        Self::begin_for(registry, LONG).await
    }

    async fn begin_for(registry: &'r R, ttl: Duration) -> Self {
        let subject = Self { registry, session: SessionId::random(), epoch: 1 };
        let recorded = write(registry, &subject.record(), ttl).await;
        same(&recorded, &Recorded::Created, "a session's first record is told from others");
        subject
    }

    fn record(&self) -> SessionRecord {
        SessionRecord { epoch: self.epoch, ..record(self.session) }
    }

    fn checkpoint(&self, steps: Vec<CheckpointStep>) -> CheckpointUpdate {
        CheckpointUpdate { session: self.session, epoch: self.epoch, orphan: false, steps }
    }

    async fn checkpoint_within(
        &self,
        limits: MailboxLimits,
        steps: Vec<CheckpointStep>,
    ) -> Checkpointed {
        let told = self.registry.update_checkpoints(&[self.checkpoint(steps)], limits).await;
        one(good(told, "update_checkpoints"))
    }

    async fn done(&self, steps: Vec<CheckpointStep>) {
        let told = self.checkpoint_within(ROOMY, steps).await;
        same(&told, &Checkpointed::Done, "a checkpoint at its epoch is carried out");
    }

    /// What the next owner is given, with the requests in the order of their ids.
    async fn held(&mut self) -> Holding {
        self.held_for(LONG).await
    }

    async fn held_for(&mut self, ttl: Duration) -> Holding {
        let claim = Claim { ttl, ..claim(self.session, TOKEN, TOKEN) };
        let holding = taken(self.registry, &claim).await;
        same(&holding.epoch, &(self.epoch + 1), "a claim raises the epoch by one");
        self.epoch = holding.epoch;
        holding
    }

    async fn mailbox(&mut self) -> Vec<ParkedFrame> {
        self.held().await.mailbox
    }

    async fn requests(&mut self) -> Vec<(RequestId, Progress, Bytes)> {
        let held = self.held().await.requests;
        held.into_iter().map(|held| (held.request, held.progress, held.detail)).collect()
    }
}

/// A record of a session's first owner.
fn record(session: SessionId) -> SessionRecord {
    SessionRecord {
        session,
        epoch: 1,
        node: node_ref("gw-1", 5),
        user: None,
        reliable: true,
        attached: true,
        token: TOKEN,
        former_token: None,
        generation: None,
    }
}

/// A claim for an anonymous client.
fn claim(session: SessionId, token: TokenHash, next_token: TokenHash) -> Claim {
    let node = node_ref("gw-2", 6);
    Claim { session, token, user: None, node, next_token, ttl: LONG }
}

/// What the table says of a session whose record this is.
fn entry(record: &SessionRecord) -> SessionEntry {
    SessionEntry {
        epoch: record.epoch,
        node: Some(record.node.clone()),
        user: record.user.clone(),
        reliable: record.reliable,
        attached: record.attached,
        overflowed: false,
        generation: record.generation,
    }
}

fn submitted(request: RequestId, detail: &'static str) -> CheckpointStep {
    CheckpointStep::Request { request, progress: Progress::Submitted, detail: detail.into() }
}

fn recorded(request: RequestId, detail: &'static str) -> CheckpointStep {
    CheckpointStep::Request { request, progress: Progress::Recorded, detail: detail.into() }
}

fn park(seq: u64, frame: &'static str) -> CheckpointStep {
    CheckpointStep::Park { seq, request: None, frame: frame.into() }
}

fn park_last(request: RequestId, frame: &'static str) -> CheckpointStep {
    CheckpointStep::Park { seq: 0, request: Some(request), frame: frame.into() }
}

fn parked(seq: u64, request: Option<RequestId>, frame: &'static str) -> ParkedFrame {
    ParkedFrame { seq, request, frame: frame.into() }
}

async fn write(registry: &impl Registry, record: &SessionRecord, ttl: Duration) -> Recorded {
    one(good(registry.record(std::slice::from_ref(record), ttl).await, "record"))
}

async fn find(registry: &impl Registry, session: SessionId) -> Option<SessionEntry> {
    one(good(registry.find_sessions(&[session]).await, "find_sessions"))
}

async fn ask(registry: &impl Registry, claim: &Claim) -> Claimed {
    good(registry.claim(claim).await, "claim")
}

async fn taken(registry: &impl Registry, claim: &Claim) -> Holding {
    let Claimed::Taken(mut holding) = ask(registry, claim).await else {
        panic!("a claim with the right token was refused: {claim:?}")
    };
    same(&holding.is_whole, &true, "nothing is missed that was never there, or has been taken out");
    holding.requests.sort_unstable_by_key(|held| held.request);
    *holding
}

/// The requests, but for how long ago they were written.
fn timeless(holding: &Holding) -> Vec<(RequestId, Progress, Bytes)> {
    let of = |held: &HeldRequest| (held.request, held.progress, held.detail.clone());
    holding.requests.iter().map(of).collect()
}

#[track_caller]
fn one<T>(mut answers: Vec<T>) -> T {
    assert_eq!(answers.len(), 1, "one answer for each");
    answers.remove(0)
}
