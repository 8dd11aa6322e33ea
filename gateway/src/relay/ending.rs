//! How a request ends: once, by whoever takes it out of the pending table.

use std::{sync::Arc, time::Duration};

use registry::RequestId;
use tokio::time::Instant;

use super::{
    Relay,
    pending::{Answer, Early, Entry, Outcome, Recording, Timing, Waiter},
    service::Service,
};
use crate::{
    bus::{Position, ProduceError},
    error::{ErrorCode, Failure},
    telemetry::Way,
    wire::{ClientId, Frame, Reply},
};

/// What became of a reply on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Whoever waited has it.
    Delivered,
    /// Nobody waits for it here.
    Unknown,
}

impl Relay {
    /// A reply for a request that may wait here. `read` is called only if it does, and gets the
    /// service that was asked; `forward` is the time it took from another node.
    pub(super) fn deliver(
        &self,
        request: RequestId,
        way: impl FnOnce(&Entry) -> Way,
        forward: Option<Duration>,
        read: impl FnOnce(&Service) -> Reply,
    ) -> Delivery {
        let mut reply = None;
        let mut known = false;
        let entry = self.pending.take_if(request, |entry| {
            known = true;
            if entry.waiter.wants_receipt() && entry.recording == Recording::Unconfirmed {
                // The receipt comes first. A second reply meanwhile is a late one.
                if entry.early.is_none() {
                    entry.service.metrics.replied(way(entry));
                    entry.early = Some(Early { reply: read(&entry.service), forward });
                }
                return false;
            }
            entry.service.metrics.replied(way(entry));
            reply = Some(read(&entry.service));
            true
        });
        if let (Some(entry), Some(reply)) = (entry, reply) {
            self.finish(request, entry, Outcome::Reply(reply), forward);
        }
        if known { Delivery::Delivered } else { Delivery::Unknown }
    }

    /// A reply that another node has read and forwarded.
    pub fn deliver_forwarded(
        &self,
        request: RequestId,
        mut reply: Reply,
        took: Duration,
    ) -> Delivery {
        self.deliver(
            request,
            |_| Way::Forwarded,
            Some(took),
            |service| {
                reply.headers.retain(|(name, _)| service.passes_to_client(name));
                reply
            },
        )
    }

    /// The broker has, or has not, recorded the request. Called from the producer's thread.
    pub(super) fn produced(&self, request: RequestId, result: Result<Position, ProduceError>) {
        let now = Instant::now();
        match result {
            Ok(position) => self.recorded(request, position, now),
            Err(error) => {
                if let Some(entry) = self.pending.take(request) {
                    // What the service has answered all the same is its answer.
                    let outcome = match entry.early {
                        Some(Early { ref reply, .. }) => Outcome::Reply(reply.clone()),
                        None => Outcome::Failure(refusal(&error)),
                    };
                    tracing::warn!(%request, %error, service = %entry.service.name, "not produced");
                    self.finish(request, entry, outcome, None);
                }
            }
        }
    }

    fn recorded(&self, request: RequestId, position: Position, at: Instant) {
        let entry = self.pending.take_if(request, |entry| {
            entry.recording = Recording::Confirmed { at, position };
            entry.service.metrics.produce.observe((at - entry.started).as_secs_f64());
            if let Waiter::Session { session, id, receipt: true } = &entry.waiter {
                let receipt = Frame::Receipt {
                    id: id.clone(),
                    request,
                    topic: Arc::clone(&entry.service.topic),
                    partition: position.partition,
                    offset: position.offset,
                };
                session.push(receipt, None);
            }
            entry.early.is_some()
        });
        if let Some(mut entry) = entry
            && let Some(early) = entry.early.take()
        {
            self.finish(request, entry, Outcome::Reply(early.reply), early.forward);
        }
    }

    pub(super) fn time_out(&self, request: RequestId, mut entry: Entry, now: Instant) {
        if let Some(early) = entry.early.take() {
            return self.finish(request, entry, Outcome::Reply(early.reply), early.forward);
        }
        let waited = (now - entry.started).as_millis();
        let failure = match entry.recording {
            Recording::Confirmed { .. } => Failure::new(
                ErrorCode::Timeout,
                format!("no reply within {waited} ms; the request is recorded"),
            ),
            Recording::Unconfirmed => Failure::new(
                ErrorCode::Timeout,
                format!("no acknowledgement from Kafka within {waited} ms; it may be recorded"),
            ),
        };
        self.finish(request, entry, Outcome::Failure(failure.recorded(true)), None);
    }

    /// Ends a request at its client's wish, or because its client hung up; the command itself is not
    /// called back. False when it does not wait here (any more).
    pub fn cancel(&self, request: RequestId) -> bool {
        let Some(entry) = self.pending.take(request) else { return false };
        // Handed to the producer, so it may be in the log whatever is known.
        let failure = Failure::new(ErrorCode::Cancelled, "cancelled by the client").recorded(true);
        self.finish(request, entry, Outcome::Failure(failure), None);
        true
    }

    /// Ends every request that still waits: this node stops. Returns how many there were.
    pub fn give_up_all(&self) -> usize {
        let waiting = self.pending.take_all();
        let count = waiting.len();
        self.telemetry.frames_abandoned("node_stopped", count as u64);
        for (request, entry) in waiting {
            let message = "this node stopped before the reply came; the request may be recorded";
            let failure = Failure::new(ErrorCode::Unavailable, message).recorded(true);
            self.finish(request, entry, Outcome::Failure(failure), None);
        }
        count
    }

    /// Tells whoever waited, and forgets the request.
    pub(super) fn finish(
        &self,
        request: RequestId,
        entry: Entry,
        outcome: Outcome,
        forward: Option<Duration>,
    ) {
        self.routes.remove(request);
        let timing = measure(&entry, &outcome, forward);
        let edge = entry.waiter.edge();
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
                if !session.push(frame, Some(id)) {
                    self.telemetry.frames_abandoned("session_ended", 1);
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
pub(super) fn refusal(error: &ProduceError) -> Failure {
    let code = match error {
        ProduceError::QueueFull => ErrorCode::Overloaded,
        ProduceError::TooLarge => ErrorCode::TooLarge,
        ProduceError::UnknownTopic | ProduceError::Refused(_) | ProduceError::Unconfirmed(_) => {
            ErrorCode::Unavailable
        }
    };
    Failure::new(code, format!("kafka: {error}")).recorded(error.may_be_recorded())
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
        Recording::Unconfirmed => entry.started,
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
