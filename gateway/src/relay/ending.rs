//! How a request ends: once, by whoever takes it out of the pending table.

use std::{sync::Arc, time::Duration};

use registry::{BackupStep, Progress, RequestId, SessionId};
use tokio::time::Instant;

use super::{
    Relay,
    pending::{Answer, Early, Entry, Outcome, Recording, Timing, Waiter},
    produce::Before,
    service::Service,
    session::Session,
    stored::{self, RequestDetail},
    window::Hold,
};
use crate::{
    bus::{Position, ProduceError},
    error::{ErrorCode, Failure},
    peer::Verdict,
    telemetry::Way,
    wire::{ClientId, Frame, Reply},
};

/// What became of a reply on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Whoever waited has it.
    Delivered,
    /// Whoever waited is owed it, and only this node has it: its offset is kept until the client
    /// has it, or the mailbox.
    Kept(SessionId),
    /// Nobody waits for it here.
    Unknown,
}

impl Relay {
    /// A reply for a request that may wait here. `read` is called only if it does, and gets the
    /// service that was asked; `forward` is the time it took from another node. `hold` is asked to
    /// keep the offset of the reply, where that has to be.
    pub(super) fn deliver(
        &self,
        request: RequestId,
        way: impl FnOnce(&Entry) -> Way,
        forward: Option<Duration>,
        hold: impl FnOnce(&Reply) -> Option<Hold>,
        read: impl FnOnce(&Service) -> Reply,
    ) -> Delivery {
        let mut answer = None;
        let mut delivery = Delivery::Unknown;
        let entry = self.pending.take_if(request, |entry| {
            delivery = Delivery::Delivered;
            // The receipt comes first. A second reply meanwhile is a late one.
            let waits = entry.waiter.wants_receipt() && !entry.recording.is_confirmed();
            if waits && entry.early.is_some() {
                return false;
            }
            entry.service.metrics.replied(way(entry));
            let reply = read(&entry.service);
            let mut early = Early { reply, forward, hold: None };
            if let Some(session) = entry.durable_session() {
                delivery = Delivery::Kept(session.id());
                early.hold = hold(&early.reply);
            }
            match waits {
                true => entry.early = Some(early),
                false => answer = Some(early),
            }
            !waits
        });
        if let (Some(entry), Some(early)) = (entry, answer) {
            self.answer(request, entry, early);
        }
        delivery
    }

    /// A reply that another node has read and forwarded.
    pub fn deliver_forwarded(
        &self,
        request: RequestId,
        session: Option<SessionId>,
        mut reply: Reply,
        took: Duration,
    ) -> Verdict {
        let delivery = self.deliver(
            request,
            |_| Way::Forwarded,
            Some(took),
            |_| None,
            |service| {
                reply.headers.retain(|(name, _)| service.passes_to_client(name));
                reply
            },
        );
        match delivery {
            Delivery::Delivered => Verdict::Delivered,
            Delivery::Kept(session) => Verdict::Kept(session),
            Delivery::Unknown => self.whereabouts(request, session),
        }
    }

    /// What a peer is told of a reply that it has forwarded and that no request waits for.
    pub fn whereabouts(&self, request: RequestId, session: Option<SessionId>) -> Verdict {
        let Some(session) = session else { return Verdict::Unknown };
        if self.hub.is_expected(session) {
            return Verdict::Later;
        }
        // The session has left and come back since the reply was taken: so it is wanted again.
        if self.pending.look(request, |_| ()).is_some() {
            return Verdict::Later;
        }
        match self.hub.get(session) {
            Some(session) if session.is_unsafe(request) => Verdict::Kept(session.id()),
            Some(session) if session.is_held() => Verdict::Over,
            // It has ended here, and the registry says still that this node holds it: denied, whoever
            // has the reply would park it there, and so bring the session back to life with a part of
            // what it was owed.
            _ if self.backups.is_end_unwritten(session) => Verdict::Later,
            _ => Verdict::Unknown,
        }
    }

    /// The broker has, or has not, recorded the request. Called from the producer's thread.
    pub(super) fn produced(
        &self,
        (request, before): (RequestId, Before),
        result: Result<Position, ProduceError>,
    ) {
        let now = Instant::now();
        match result {
            Ok(position) => self.recorded(request, position, now),
            Err(error) => {
                if let Some(mut entry) = self.pending.take(request) {
                    tracing::warn!(%request, %error, service = %entry.service.name, "not produced");
                    if error == ProduceError::QueueFull {
                        self.telemetry.limit_hit("producer_queue");
                    }
                    match entry.early.take() {
                        // What the service has answered all the same is its answer.
                        Some(early) => self.answer(request, entry, early),
                        // A second record that was not written takes back nothing of the first.
                        None => {
                            let failure = refusal(&error, &entry.service);
                            let recorded = failure.recorded || before == Before::MayBeRecorded;
                            self.fail(request, entry, failure.recorded(recorded));
                        }
                    }
                }
            }
        }
    }

    fn recorded(&self, request: RequestId, position: Position, at: Instant) {
        let mut receipts = None;
        let entry = self.pending.take_if(request, |entry| {
            entry.recording = Recording::Confirmed { at, position };
            entry.service.metrics.produce.observe((at - entry.started).as_secs_f64());
            if let Waiter::Session { session, id, receipt, .. } = &entry.waiter {
                if *receipt {
                    let receipt = Frame::Receipt {
                        id: id.clone(),
                        request,
                        topic: Arc::clone(&entry.service.topic),
                        partition: position.partition,
                        offset: position.offset,
                    };
                    // Queued here, so that no reply overtakes it.
                    let pushed = session.push(receipt, None, None);
                    receipts = Some((Arc::clone(session), pushed));
                }
                if session.is_durable() {
                    // Queued here, so that nobody has ended and forgotten the request before.
                    self.back_up_recorded(session, request, entry.detail());
                }
            }
            entry.early.is_some()
        });
        if let Some((session, pushed)) = receipts {
            self.settle(&session, pushed);
        }
        if let Some(mut entry) = entry
            && let Some(early) = entry.early.take()
        {
            self.answer(request, entry, early);
        }
    }

    /// Copies what is known of a request that is recorded.
    pub(super) fn back_up_recorded(
        &self,
        session: &Arc<Session>,
        request: RequestId,
        detail: Option<RequestDetail>,
    ) {
        if let Some(detail) = detail {
            let (progress, detail) = (Progress::Recorded, stored::encode(&detail));
            self.backups.step(session, BackupStep::Request { request, progress, detail });
        }
    }

    pub(super) fn time_out(&self, request: RequestId, mut entry: Entry, now: Instant) {
        if let Some(early) = entry.early.take() {
            return self.answer(request, entry, early);
        }
        let waited = (now - entry.started).as_millis();
        let failure = match entry.recording {
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
        self.fail(request, entry, failure.recorded(recorded));
    }

    /// Ends a request at its client's wish, or because its client hung up; the command itself is not
    /// called back. False when it does not wait here (any more).
    pub fn cancel(&self, request: RequestId) -> bool {
        self.cancel_with(request, |_| ()).is_some()
    }

    /// The same, with a last look at what waited.
    pub(super) fn cancel_with<T>(
        &self,
        request: RequestId,
        look: impl FnOnce(&mut Entry) -> T,
    ) -> Option<T> {
        let mut entry = self.pending.take(request)?;
        let seen = look(&mut entry);
        // Once handed to the producer it may be in the log, whatever is known.
        let recorded = entry.recording != Recording::Waiting;
        let failure = Failure::new(ErrorCode::Cancelled, "cancelled by the client");
        let failure = failure.recorded(recorded);
        self.fail(request, entry, failure);
        Some(seen)
    }

    /// Ends every HTTP call that still waits: this node stops. Returns how many there were.
    pub fn give_up_calls(&self) -> usize {
        let waiting = self.pending.take_calls();
        let count = waiting.len();
        self.telemetry.frames_abandoned("node_stopped", count as u64);
        for (request, entry) in waiting {
            let message = "this node stopped before the reply came";
            let recorded = entry.recording != Recording::Waiting;
            let failure = Failure::new(ErrorCode::Unavailable, message).recorded(recorded);
            self.fail(request, entry, failure);
        }
        count
    }

    fn answer(&self, request: RequestId, entry: Entry, Early { reply, forward, hold }: Early) {
        self.finish(request, entry, Outcome::Reply(reply), forward, hold);
    }

    pub(super) fn fail(&self, request: RequestId, entry: Entry, failure: Failure) {
        self.finish(request, entry, Outcome::Failure(failure), None, None);
    }

    /// Tells whoever waited, and forgets the request. A reply that has come and is not what the
    /// request ends with, because its client has cancelled it, is handled once the end is.
    fn finish(
        &self,
        request: RequestId,
        mut entry: Entry,
        outcome: Outcome,
        forward: Option<Duration>,
        hold: Option<Hold>,
    ) {
        let hold = hold.or_else(|| entry.early.take()?.hold);
        if entry.durable_session().is_none() {
            self.routes.remove(request);
        }
        let timing = measure(&entry, &outcome, forward);
        let edge = entry.waiter.edge();
        let is_failure = matches!(outcome, Outcome::Failure(_));
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
                self.owe(&session, frame, Some(id), hold);
                if is_failure {
                    self.park_now(&session);
                }
            }
            Waiter::Call(caller) => {
                if caller.send(Answer { outcome, timing }).is_err() {
                    tracing::debug!(%request, "the caller is gone");
                }
            }
        }
    }
}

/// What a client is told when its request was not produced.
pub(super) fn refusal(error: &ProduceError, service: &Service) -> Failure {
    let code = match error {
        ProduceError::QueueFull => ErrorCode::Overloaded,
        ProduceError::TooLarge => ErrorCode::TooLarge,
        ProduceError::UnknownTopic
        | ProduceError::Unreachable
        | ProduceError::Refused(_)
        | ProduceError::Unconfirmed(_) => ErrorCode::Unavailable,
    };
    let message = match error {
        ProduceError::UnknownTopic => {
            format!("kafka: topic {} does not exist: `roundtrip topics` creates it", service.topic)
        }
        error => format!("kafka: {error}"),
    };
    Failure::new(code, message).recorded(error.may_be_recorded())
}

/// What went wrong, for metrics and for the client; `None` for a good reply.
fn failure_of(outcome: &Outcome) -> Option<Failure> {
    match outcome {
        Outcome::Reply(reply) if reply.is_error() => {
            let message = format!("the service answered with status {}", reply.status_or_ok());
            Some(Failure::new(ErrorCode::ServiceError, message).recorded(true))
        }
        Outcome::Reply(_) => None,
        Outcome::Failure(failure) => Some(failure.clone()),
    }
}

fn last_frame(
    request: RequestId,
    id: ClientId,
    outcome: Outcome,
    failure: Option<Failure>,
) -> Frame {
    let (id_of_error, request_of_error) = (Some(id.clone()), Some(request));
    match (outcome, failure) {
        (Outcome::Reply(reply), None) => Frame::Response { id, request, reply },
        (Outcome::Reply(reply), Some(failure)) => {
            Frame::Error { id: id_of_error, request: request_of_error, failure, reply: Some(reply) }
        }
        (Outcome::Failure(failure), _) => {
            Frame::Error { id: id_of_error, request: request_of_error, failure, reply: None }
        }
    }
}

/// The frame for a reply that nobody on this node waits for.
pub(super) fn reply_frame(request: RequestId, id: ClientId, reply: Reply) -> Frame {
    let outcome = Outcome::Reply(reply);
    let failure = failure_of(&outcome);
    last_frame(request, id, outcome, failure)
}

fn measure(entry: &Entry, outcome: &Outcome, forward: Option<Duration>) -> Timing {
    let now = Instant::now();
    let metrics = &entry.service.metrics;
    metrics.in_flight.dec();
    metrics.total.observe((now - entry.started).as_secs_f64());
    let mut timing = Timing::default();
    let acknowledged = match entry.recording {
        Recording::Confirmed { at, .. } => {
            timing.produce = Some(at - entry.started);
            at
        }
        Recording::Waiting | Recording::Unconfirmed => entry.started,
    };
    if matches!(outcome, Outcome::Reply(_)) {
        let service = (now - acknowledged).saturating_sub(forward.unwrap_or_default());
        metrics.service.observe(service.as_secs_f64());
        timing.service = Some(service);
    }
    if let Some(forward) = forward {
        metrics.forward.observe(forward.as_secs_f64());
        timing.forward = Some(forward);
    }
    timing
}
