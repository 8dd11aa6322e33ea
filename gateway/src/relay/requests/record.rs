//! How a request gets into the log: it is entered as waiting, written to the registry if it must
//! survive this node, and handed to the producer as the record that its service reads.
//!
//! Owns the record's headers. Whether the request is taken at all is decided before.

use std::sync::Arc;

use registry::{CheckpointStep, Progress, RequestId, Route};
use tokio::time::Instant;

use super::{
    Completion, Requests,
    affinity::Choice,
    outcome::refusal,
    pending::{Entry, Waiter},
    recording::{Before, Record, Recording},
    submission::{OwnedSubmission, Submission},
    submit::draining,
};
use crate::{
    bus::{Callback, Outgoing, Position, ProduceError},
    error::Failure,
    relay::{
        checkpoints::format::{self, RequestDetail},
        dialects::request::RequestHeaders,
        services::Service,
        session::{NotBegun, Session},
    },
};

impl Requests {
    /// Enters the waiter, then produces: the reply may come before this function returns. What does not
    /// begin on its session because that has left counts as never sent.
    pub(super) fn produce(
        self: &Arc<Self>,
        service: &Arc<Service>,
        submission: &Submission<'_>,
        choice: Choice,
        waiter: Waiter,
    ) -> Result<(), Failure> {
        let request = choice.request;
        let awaited = self.awaited(service, submission.payload)?;
        let timeout = service.timeout(submission.timeout);
        // A streamed reply may take longer than a request waits for its first part.
        let deadline_ms = self.deadline_ms(service.timeout_max().max(timeout));
        let (session, client_id) = match &waiter {
            Waiter::Session { session, id, .. } => {
                (Some(Arc::clone(session)), Some(id.as_json().into()))
            }
            Waiter::Call(_) | Waiter::Deletion(_) | Waiter::Stored(_) => (None, None),
        };
        let (node, session_id) = (self.node.clone(), session.as_ref().map(|session| session.id()));
        let may_be_part = service.may_be_part();
        let of = session_id;
        let route = Arc::new(Route { node, session: of, client_id, deadline_ms, may_be_part });
        let started = Instant::now();
        let mut entry = Entry {
            service: Arc::clone(service),
            waiter,
            started,
            deadline: started + timeout,
            partition: choice.partition,
            recording: Recording::Waiting,
            early: None,
            stream: None,
            route: Arc::clone(&route),
        };
        let detail = session.filter(|session| session.is_durable()).zip(entry.detail());
        if detail.is_none() && awaited.is_none() {
            entry.recording = Recording::Unconfirmed;
        }
        match self.completion.pending.insert_if(request, entry, |entry| entry.begin(request)) {
            Ok(()) => {}
            Err(NotBegun::LeftBehind) => return Ok(()),
            Err(NotBegun::Draining) => return Err(draining()),
        }
        service.metrics.in_flight.inc();
        if let Some(awaited) = awaited {
            let of = (request, route);
            self.produce_once_awaited(
                detail,
                service,
                submission,
                of,
                (awaited, started + timeout),
            );
            return Ok(());
        }
        if let Some((session, detail)) = detail {
            self.produce_once_copied(&session, service, submission, (request, route), &detail);
            return Ok(());
        }
        // The id names the node already, so few need the route, and those look again if it is
        // missing.
        self.completion.routes.put(request, Arc::clone(&route), false);
        let deadline_ms = self.deadline_ms(timeout);
        let first = Record { request, route, before: Before::Nothing, deadline_ms };
        if let Err(error) = self.hand_to_producer(service, submission, first) {
            if self.completion.pending.take(request).is_none() {
                // Its deadline has passed meanwhile: it has ended, and its client has been told.
                return Ok(());
            }
            service.metrics.in_flight.dec();
            self.completion.routes.remove(request);
            let failure = refusal(&error, service);
            if error == ProduceError::QueueFull {
                self.telemetry.limit_hit("producer_queue");
                let waiting = self.producer.outstanding();
                return Err(failure.adding(format_args!("{waiting} records wait")));
            }
            return Err(failure);
        }
        Ok(())
    }

    /// A request that must survive this node is produced once the registry has it, so that the
    /// session's next owner knows of everything that may be in the log. While the registry is away,
    /// the request is produced all the same, and written there later.
    pub(super) fn produce_once_copied(
        self: &Arc<Self>,
        session: &Arc<Session>,
        service: &Arc<Service>,
        submission: &Submission<'_>,
        (request, route): (RequestId, Arc<Route>),
        detail: &RequestDetail,
    ) {
        let (requests, service) = (Arc::clone(self), Arc::clone(service));
        let deadline_ms = self.deadline_ms(service.timeout(submission.timeout));
        let (of, before) = (Arc::clone(&route), Before::Nothing);
        let first = Record { request, route: of, before, deadline_ms };
        let submission = OwnedSubmission::from(submission);
        let produce = move || {
            // Whoever ended it meanwhile, or took it to another node, has been told that it is not
            // in the log.
            if !requests.completion.set_recording(&first, Recording::Unconfirmed) {
                return;
            }
            let handed = submission
                .with(|submission| requests.hand_to_producer(&service, submission, first.clone()));
            if let Err(error) = handed {
                requests.completion.produced(&first, Err(error));
            }
        };
        if self.health.is_reachable() {
            let (progress, detail) = (Progress::Submitted, format::encode(detail));
            let step = CheckpointStep::Request { request, progress, detail };
            self.completion.checkpoints.request(session, step, (request, route), Box::new(produce));
        } else {
            self.completion.checkpoints.rewrite(session);
            produce();
        }
    }

    /// Writes the record of a request; [`Completion::produced`] is called with what becomes of it.
    ///
    /// # Errors
    /// The record was not taken, and [`Completion::produced`] is not called.
    pub(super) fn hand_to_producer(
        self: &Arc<Self>,
        service: &Service,
        submission: &Submission<'_>,
        record: Record,
    ) -> Result<(), ProduceError> {
        let (request, route) = (record.request, &record.route);
        let texts = RequestHeaders::new(
            service,
            request,
            route.session,
            record.deadline_ms,
            &self.reply_topic,
            || self.affinity.any_partition(request),
        );
        let Submission { key, payload, headers, method, path, .. } = *submission;
        let key = key.unwrap_or_else(|| texts.correlation_text());
        let (key, key_suffix_bytes) = service.record_key(key, texts.correlation_text());
        let outgoing = Outgoing {
            topic: &service.topic,
            partition: None,
            key: Some(&key),
            key_suffix_bytes,
            value: Some(payload),
            headers: &texts.list(service, method, path, headers),
        };
        let completion = Arc::clone(&self.completion);
        self.producer.produce(&outgoing, Box::new(Written { completion, record }))
    }
}

/// Receives what becomes of the record of a request.
pub(super) struct Written {
    pub(super) completion: Arc<Completion>,
    pub(super) record: Record,
}

impl Callback for Written {
    /// If the request ends now, its client is told that it is not recorded.
    fn kept_back(&mut self) {
        self.completion.set_recording(&self.record, Recording::Waiting);
    }

    fn is_wanted(&self) -> bool {
        let is_it = |entry: &mut Entry| entry.has(&self.record);
        self.completion.pending.look(self.record.request, is_it) == Some(true)
    }

    /// Whoever ended it meanwhile, or took it to another node, has been told that it is not in the
    /// log.
    fn goes(&mut self) -> bool {
        self.completion.set_recording(&self.record, Recording::Unconfirmed)
    }

    fn done(self: Box<Self>, outcome: Result<Position, ProduceError>) {
        self.completion.produced(&self.record, outcome);
    }
}

#[cfg(test)]
mod tests;
