//! How a request gets into the log: parked, written down where it must survive this node, and handed to
//! the producer as the record that its service reads.
//!
//! Owns the record's headers; whether the request is taken at all is decided before.

use std::sync::Arc;

use registry::{BackupStep, Progress, RequestId, Route, SessionId};
use tokio::time::Instant;

use super::{
    Completion, Requests,
    affinity::Choice,
    outcome::refusal,
    pending::{Entry, Waiter},
    recording::{Before, Recording},
    submission::{OwnedSubmission, Submission},
};
use crate::{
    bus::{Callback, Outgoing, Position, ProduceError},
    error::Failure,
    relay::{
        checkpoints::format::{self, RequestDetail},
        dialects::request::RequestHeaders,
        services::Service,
        session::Session,
    },
};

impl Requests {
    /// Parks the waiter, then produces: the reply may be faster than this function's end.
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
        service.metrics.in_flight.inc();
        let detail = session.filter(|session| session.is_durable()).zip(entry.detail());
        if detail.is_none() {
            entry.recording = Recording::Unconfirmed;
        }
        self.completion.pending.insert(request, entry);
        if let Some((session, detail)) = detail {
            self.produce_once_backed_up(&session, service, submission, (request, route), &detail);
            return Ok(());
        }
        // The id says where the reply belongs: few look the route up, and those look again.
        self.completion.routes.put(request, route, false);
        let first = (request, Before::Nothing);
        let handed = self.hand_to_producer(service, submission, first, session_id, deadline_ms);
        if let Err(error) = handed {
            if self.completion.pending.take(request).is_none() {
                // Its deadline was faster: it has ended, and its client has been told.
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

    /// A request that must survive this node is produced once the registry has it: so whoever holds
    /// the session next knows of everything that may be in the log. While the registry is away it
    /// is produced all the same, and written there when it comes back.
    fn produce_once_backed_up(
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
            // Whoever ended it meanwhile, or took it to another node, was told that it is not there.
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
            let step = BackupStep::Request { request, progress, detail };
            self.completion.checkpoints.request(session, step, (request, route), Box::new(produce));
        } else {
            self.completion.checkpoints.rewrite(session);
            produce();
        }
    }

    /// Writes the record for a request; what becomes of it is told to [`Completion::produced`].
    ///
    /// # Errors
    /// It was not taken, and will not be told.
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

/// Tells a request what becomes of its record.
struct Written {
    completion: Arc<Completion>,
    request: RequestId,
    before: Before,
}

impl Written {
    fn mark(&self, recording: Recording) -> bool {
        let mark = |entry: &mut Entry| {
            if self.before == Before::Nothing {
                entry.recording = recording;
            }
        };
        self.completion.pending.look(self.request, mark).is_some()
    }
}

impl Callback for Written {
    /// Should it end now, its client is told that it is not recorded.
    fn kept_back(&mut self) {
        self.mark(Recording::Waiting);
    }

    fn is_wanted(&self) -> bool {
        self.completion.pending.look(self.request, |_| ()).is_some()
    }

    /// Whoever ended it meanwhile, or took it to another node, was told that it is not there.
    fn goes(&mut self) -> bool {
        self.mark(Recording::Unconfirmed)
    }

    fn done(self: Box<Self>, outcome: Result<Position, ProduceError>) {
        self.completion.produced((self.request, self.before), outcome);
    }
}

#[cfg(test)]
mod tests;
