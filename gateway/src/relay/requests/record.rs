//! How a request gets into the log: it is entered as waiting, written to the registry if it must
//! survive this node, and handed to the producer as the record that its service reads.
//!
//! Owns the record's headers. Whether the request is taken at all is decided before.

use std::sync::Arc;

use registry::{CheckpointStep, Progress, RequestId, Route, SessionId};
use tokio::time::Instant;

use super::{
    Completion, Requests,
    affinity::Choice,
    outcome::refusal,
    pending::{Entry, Waiter},
    recording::{Before, Recording},
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
        let timeout = service.timeout(submission.timeout);
        let deadline_ms = self.deadline_ms(timeout);
        let (session, client_id) = match &waiter {
            Waiter::Session { session, id, .. } => {
                (Some(Arc::clone(session)), Some(id.as_json().into()))
            }
            Waiter::Call(_) => (None, None),
        };
        let session_id = session.as_ref().map(|session| session.id());
        let node = self.node.clone();
        let route = Arc::new(Route { node, session: session_id, client_id, deadline_ms });
        let started = Instant::now();
        let mut entry = Entry {
            service: Arc::clone(service),
            waiter,
            started,
            deadline: started + timeout,
            partition: choice.partition,
            recording: Recording::Waiting,
            early: None,
            route: Arc::clone(&route),
        };
        let detail = session.filter(|session| session.is_durable()).zip(entry.detail());
        if detail.is_none() {
            entry.recording = Recording::Unconfirmed;
        }
        match self.completion.pending.insert_if(request, entry, |entry| entry.begin(request)) {
            Ok(()) => {}
            Err(NotBegun::LeftBehind) => return Ok(()),
            Err(NotBegun::Draining) => return Err(draining()),
        }
        service.metrics.in_flight.inc();
        if let Some((session, detail)) = detail {
            self.produce_once_copied(&session, service, submission, (request, route), &detail);
            return Ok(());
        }
        // The id names the node already, so few need the route, and those look again if it is
        // missing.
        self.completion.routes.put(request, route, false);
        let first = (request, Before::Nothing);
        let handed = self.hand_to_producer(service, submission, first, session_id, deadline_ms);
        if let Err(error) = handed {
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
    fn produce_once_copied(
        self: &Arc<Self>,
        session: &Arc<Session>,
        service: &Arc<Service>,
        submission: &Submission<'_>,
        (request, route): (RequestId, Arc<Route>),
        detail: &RequestDetail,
    ) {
        let (requests, service) = (Arc::clone(self), Arc::clone(service));
        let (session_id, deadline_ms) = (session.id(), route.deadline_ms);
        let submission = OwnedSubmission::from(submission);
        let produce = move || {
            // Whoever ended it meanwhile, or took it to another node, has been told that it is not
            // in the log.
            let hand_over = |entry: &mut Entry| entry.recording = Recording::Unconfirmed;
            if requests.completion.pending.look(request, hand_over).is_none() {
                return;
            }
            let handed = submission.with(|submission| {
                let session = Some(session_id);
                let first = (request, Before::Nothing);
                requests.hand_to_producer(&service, submission, first, session, deadline_ms)
            });
            if let Err(error) = handed {
                requests.completion.produced((request, Before::Nothing), Err(error));
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
        (request, before): (RequestId, Before),
        session: Option<SessionId>,
        deadline_ms: u64,
    ) -> Result<(), ProduceError> {
        let partition = || self.affinity.any_partition(request);
        let texts = RequestHeaders::new(
            service,
            request,
            session,
            deadline_ms,
            &self.reply_topic,
            partition,
        );
        let Submission { key, payload, headers, method, path, .. } = *submission;
        let record = Outgoing {
            topic: &service.topic,
            partition: None,
            key: Some(key.unwrap_or_else(|| texts.correlation_text())),
            value: Some(payload),
            headers: &texts.list(service, method, path, headers),
        };
        let completion = Arc::clone(&self.completion);
        let on_delivery = Box::new(Written { completion, request, before });
        self.producer.produce(&record, on_delivery)
    }
}

/// Receives what becomes of the record of a request.
struct Written {
    completion: Arc<Completion>,
    request: RequestId,
    before: Before,
}

impl Written {
    fn set(&self, recording: Recording) -> bool {
        let set = |entry: &mut Entry| {
            if self.before == Before::Nothing {
                entry.recording = recording;
            }
        };
        self.completion.pending.look(self.request, set).is_some()
    }
}

impl Callback for Written {
    /// If the request ends now, its client is told that it is not recorded.
    fn kept_back(&mut self) {
        self.set(Recording::Waiting);
    }

    fn is_wanted(&self) -> bool {
        self.completion.pending.look(self.request, |_| ()).is_some()
    }

    /// Whoever ended it meanwhile, or took it to another node, has been told that it is not in the
    /// log.
    fn goes(&mut self) -> bool {
        self.set(Recording::Unconfirmed)
    }

    fn done(self: Box<Self>, outcome: Result<Position, ProduceError>) {
        self.completion.produced((self.request, self.before), outcome);
    }
}

#[cfg(test)]
mod tests;
