//! How a request ends: exactly once, by whoever takes it out of the pending table.

use std::{sync::Arc, time::Duration};

use registry::RequestId;
use tokio::time::Instant;

use super::{
    following::Following,
    foreign::LookupQueue,
    kept,
    outcome::{deleted, failure_of, last_frame, measure, refusal},
    over::Over,
    pending::{Answer, Early, Entry, Outcome, Pending, Waiter},
    recording::{Before, Record, Recording},
    routes::Routes,
};
use crate::{
    bus::{Position, ProduceError},
    config::Config,
    error::{ErrorCode, Failure},
    relay::{
        checkpoints::Checkpoints, offsets::OffsetGuard, results::Results, session::Sessions,
        surroundings::Surroundings, views::Waits,
    },
    telemetry::Telemetry,
    wire::Frame,
};

/// The pause between two looks at deadlines: a request may end so much late.
const DEADLINE_TICK: Duration = Duration::from_millis(10);

/// The requests that wait on this node, and how they end.
#[derive(Debug)]
pub struct Completion {
    /// Who waits here.
    pub pending: Pending,
    /// The routes of these requests, on their way to the registry.
    pub routes: Routes,
    /// Replies for which nobody on this node waits, to be looked up.
    pub foreign: Arc<LookupQueue>,
    /// The sessions of this node.
    pub sessions: Arc<Sessions>,
    /// The checkpoints of these sessions, on their way to the registry.
    pub checkpoints: Arc<Checkpoints>,
    /// The waits of those that events answer, on their way to the registry.
    pub waits: Arc<Waits>,
    /// The results for which no caller waits, on their way to the registry.
    pub results: Arc<Results>,
    pub(super) over: Over,
    /// How many bytes of parts of streamed replies may wait for one client.
    pub(super) stream_bytes_max: usize,
    pub(super) telemetry: Arc<Telemetry>,
}

impl Completion {
    /// Nothing waits.
    pub fn new(config: &Config, around: &Surroundings, results: Arc<Results>) -> Self {
        Self {
            pending: Pending::new(),
            routes: Routes::default(),
            foreign: Arc::default(),
            sessions: Arc::default(),
            checkpoints: Arc::new(Checkpoints::new(config)),
            waits: Arc::default(),
            results,
            over: Over::default(),
            stream_bytes_max: config.limits.stream_bytes_max,
            telemetry: Arc::clone(&around.telemetry),
        }
    }

    /// Ends what waits too long, for as long as the node lives.
    pub async fn run_deadlines(&self) {
        loop {
            self.pending.due().await;
            let now = Instant::now();
            for (request, entry) in self.pending.take_expired(now) {
                self.time_out(request, entry);
            }
            tokio::time::sleep(DEADLINE_TICK).await;
        }
    }

    /// The broker has, or has not, recorded the request. Called from the producer's thread.
    pub(super) fn produced(&self, record: &Record, result: Result<Position, ProduceError>) {
        let (request, now) = (record.request, Instant::now());
        match result {
            Ok(position) => self.recorded(request, position, now),
            Err(error) => {
                let mut following = Following::default();
                let taken = self.pending.take_if(request, |entry| {
                    if !entry.has(record) {
                        return false;
                    }
                    if entry.stream.is_none() {
                        return true;
                    }
                    // The service answers all the same.
                    entry.waiter.had_receipt();
                    self.streams().hand_on(request, entry, &mut following)
                });
                if taken.is_none() || following.end.is_some() {
                    return self.streams().follow(request, taken, following);
                }
                if let Some(mut entry) = taken {
                    tracing::warn!(%request, %error, service = %entry.service.name, "not produced");
                    if error == ProduceError::QueueFull {
                        self.telemetry.limit_hit("producer_queue");
                    }
                    match entry.early.take() {
                        // The service has answered all the same, so that answer counts.
                        Some(early) => self.answer(request, entry, early),
                        // That a second record was not written takes nothing back of the first one.
                        None => {
                            let failure = refusal(&error, &entry.service);
                            let recorded =
                                failure.recorded || record.before == Before::MayBeRecorded;
                            self.fail(request, entry, failure.recorded(recorded), None);
                        }
                    }
                }
            }
        }
    }

    /// Notes how far the first record of a request is. False if it does not wait here (any more).
    pub(super) fn set_recording(&self, record: &Record, recording: Recording) -> bool {
        let set = |entry: &mut Entry| {
            let is_it = entry.has(record);
            if is_it && record.before == Before::Nothing {
                entry.recording = recording;
            }
            is_it
        };
        self.pending.look(record.request, set) == Some(true)
    }

    fn recorded(&self, request: RequestId, position: Position, at: Instant) {
        let mut receipts = None;
        let mut following = Following::default();
        let entry = self.pending.take_if(request, |entry| {
            // Of a second record, written because nobody knew of the first, its client is told nothing.
            if entry.recording.is_confirmed() {
                return false;
            }
            entry.recording = Recording::Confirmed { at, position };
            entry.service.metrics.produce.observe((at - entry.started).as_secs_f64());
            entry.waiter.tell_accepted();
            if let Waiter::Session { session, id, receipt, .. } = &entry.waiter {
                if *receipt {
                    let receipt = Frame::Receipt {
                        id: id.clone(),
                        request,
                        topic: Arc::clone(&entry.service.topic),
                        partition: position.partition,
                        offset: position.offset,
                        is_deletable: entry.service.is_deletable(),
                    };
                    // Queued under the table's lock, so that no reply overtakes it.
                    let pushed = session.push(receipt, None, None);
                    receipts = Some((Arc::clone(session), pushed));
                }
                if session.is_durable()
                    && let Some(detail) = entry.detail()
                {
                    // Queued under the table's lock, so that nobody has ended and forgotten the
                    // request before.
                    self.checkpoints.recorded(session, request, &detail);
                }
            }
            if !entry.waiter.wants_reply() {
                entry.early = Some(deleted(&entry.service, position));
            }
            if let Some(early) = entry.early.take() {
                following.end = Some(Ok(early));
                return true;
            }
            self.streams().hand_on(request, entry, &mut following)
        });
        if let Some((session, pushed)) = receipts {
            self.after_push(&session, pushed);
        }
        self.streams().follow(request, entry, following);
    }

    fn time_out(&self, request: RequestId, mut entry: Entry) {
        if let Some(early) = entry.early.take() {
            return self.answer(request, entry, early);
        }
        if entry.stream.is_some() {
            return self.streams().timed_out(request, entry);
        }
        let waited = (entry.deadline - entry.started).as_millis();
        let failure = match entry.recording {
            Recording::Waiting if entry.service.is_view => {
                let message = format!("no such state within {waited} ms");
                Failure::new(ErrorCode::Timeout, message)
            }
            Recording::Confirmed { .. } => Failure::new(
                ErrorCode::Timeout,
                format!("no reply within {waited} ms; the request is recorded"),
            ),
            Recording::Waiting => Failure::new(
                ErrorCode::Timeout,
                format!("not written within {waited} ms: the registry or Kafka does not answer"),
            ),
            Recording::Unconfirmed => Failure::new(
                ErrorCode::Timeout,
                format!("no acknowledgement from Kafka within {waited} ms; it may be recorded"),
            ),
        };
        let recorded = entry.recording != Recording::Waiting;
        self.fail(request, entry, failure.recorded(recorded), None);
    }

    /// Ends a request because its client wants that, or has hung up; the record itself is not
    /// withdrawn. False if the request does not wait here (any more).
    pub fn cancel(&self, request: RequestId) -> bool {
        self.cancel_with(request, |_| ()).is_some()
    }

    /// Like [`Completion::cancel`]; `look` sees what waited.
    pub(super) fn cancel_with<T>(
        &self,
        request: RequestId,
        look: impl FnOnce(&mut Entry) -> T,
    ) -> Option<T> {
        let mut entry = self.pending.take(request)?;
        let seen = look(&mut entry);
        // Once the producer has the record, it may be in the log, whatever else is known.
        let recorded = entry.recording != Recording::Waiting;
        let failure = Failure::new(ErrorCode::Cancelled, "cancelled by the client");
        let failure = failure.recorded(recorded);
        self.fail(request, entry, failure, None);
        Some(seen)
    }

    /// Takes a request out because it waits on another node from now on.
    pub(in crate::relay) fn take_quietly(
        &self,
        request: RequestId,
        is_it: impl FnOnce(&Waiter) -> bool,
    ) -> Option<Entry> {
        let entry = self.pending.take_if(request, |entry| is_it(&entry.waiter))?;
        entry.service.metrics.in_flight.dec();
        self.waits.ended(request, false);
        Some(entry)
    }

    /// Ends every HTTP call that still waits, because this node stops. Returns how many there were.
    pub fn give_up_calls(&self) -> usize {
        let waiting = self.pending.take_calls();
        let count = waiting.len();
        self.telemetry.frames_abandoned("node_stopped", count as u64);
        for (request, entry) in waiting {
            let message = "this node stopped before the reply came";
            let recorded = entry.recording != Recording::Waiting;
            let failure = Failure::new(ErrorCode::Unavailable, message).recorded(recorded);
            self.fail(request, entry, failure, None);
        }
        count
    }

    pub(super) fn answer(
        &self,
        request: RequestId,
        entry: Entry,
        Early { reply, forward, guard }: Early,
    ) {
        self.finish(request, entry, Outcome::Reply(reply), forward, guard);
    }

    /// Ends a request without its answer; `guard` is of a record that its client will not get.
    pub(super) fn fail(
        &self,
        request: RequestId,
        entry: Entry,
        failure: Failure,
        guard: Option<OffsetGuard>,
    ) {
        self.finish(request, entry, Outcome::Failure(failure), None, guard);
    }

    /// Tells whoever waited, and forgets the request. If a reply has come but is not what the
    /// request ends with, because its client has cancelled it, the reply counts as handled once the
    /// end is delivered.
    fn finish(
        &self,
        request: RequestId,
        mut entry: Entry,
        outcome: Outcome,
        forward: Option<Duration>,
        guard: Option<OffsetGuard>,
    ) {
        // One record that is not handed on any more stands for all: if this node dies before its client
        // has heard of the end, they are read again from there on.
        let mut unread: Vec<OffsetGuard> =
            entry.take_early().into_iter().filter_map(|early| early.guard).collect();
        let guard = guard.or_else(|| (!unread.is_empty()).then(|| unread.remove(0)));
        unread.into_iter().for_each(OffsetGuard::done);
        if entry.durable_session().is_none() && entry.waiter.wants_reply() {
            self.routes.remove(request);
        }
        // What answers a durable session may be lost with this node as long as its guard is not done.
        let is_answered = matches!(outcome, Outcome::Reply(_));
        self.waits.ended(request, entry.durable_session().is_none() || !is_answered);
        let timing = measure(&entry, &outcome, forward);
        let edge = entry.waiter.edge();
        let is_failure = matches!(outcome, Outcome::Failure(_));
        // What comes late for a caller who fetches it is kept all the same.
        if is_failure && !matches!(entry.waiter, Waiter::Stored(_)) {
            self.over.add(request, entry.durable_session().map(|session| session.id()));
        }
        let failure = failure_of(&outcome);
        tracing::debug!(
            %request,
            service = %entry.service.name,
            outcome = failure.as_ref().map_or("ok", |failure| failure.code.as_str()),
            ms = entry.started.elapsed().as_millis(),
            "request ended"
        );
        entry.service.metrics.ended(edge, failure.as_ref().map_or(Ok(()), Err));
        match entry.waiter {
            Waiter::Session { session, id, .. } => {
                let frame = last_frame(request, id.clone(), outcome, failure);
                self.owe(&session, frame, Some(id), guard);
                if is_failure {
                    self.checkpoints.park_now(&session);
                }
            }
            Waiter::Stored(accepted) => {
                kept::store(&self.results, request, accepted, (outcome, failure), guard);
            }
            Waiter::Call(caller) | Waiter::Deletion(caller) => {
                if !caller.answer(Answer { outcome, timing }) {
                    tracing::debug!(%request, "the caller is gone");
                }
            }
        }
    }
}
