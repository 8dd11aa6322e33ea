//! How a request gets into the log: parked, written down where it must survive this node, and handed to
//! the producer as the record that its service reads.
//!
//! Owns the record's headers; whether the request is taken at all is decided before.

use std::sync::Arc;

use registry::{BackupStep, Progress, RequestId, Route, SessionId};
use tokio::time::Instant;

use super::{
    Relay,
    affinity::Choice,
    ending::refusal,
    pending::{Entry, Recording, Waiter},
    reply::{CORRELATION_ID, REPLY_PARTITION, REPLY_TOPIC},
    service::Service,
    session::Session,
    stored::{self, RequestDetail},
    submit::{METHOD_WS, Submission},
};
use crate::{
    bus::{Callback, Outgoing, Position, ProduceError},
    config::Dialect,
    error::Failure,
};

impl Relay {
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
        self.pending.insert(request, entry);
        if let Some((session, detail)) = detail {
            self.produce_once_backed_up(&session, service, submission, (request, route), &detail);
            return Ok(());
        }
        // The id says where the reply belongs: few look the route up, and those look again.
        self.routes.put(request, route, false);
        let first = (request, Before::Nothing);
        let handed = self.hand_to_producer(service, submission, first, session_id, deadline_ms);
        if let Err(error) = handed {
            if self.pending.take(request).is_none() {
                // Its deadline was faster: it has ended, and its client has been told.
                return Ok(());
            }
            service.metrics.in_flight.dec();
            self.routes.remove(request);
            if error == ProduceError::QueueFull {
                self.telemetry.limit_hit("producer_queue");
            }
            return Err(refusal(&error, service));
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
        let (relay, service) = (Arc::clone(self), Arc::clone(service));
        let (session_id, deadline_ms) = (session.id(), route.deadline_ms);
        let submission = OwnedSubmission::from(submission);
        let produce = move || {
            // Whoever ended it meanwhile, or took it to another node, was told that it is not there.
            let hand_over = |entry: &mut Entry| entry.recording = Recording::Unconfirmed;
            if relay.pending.look(request, hand_over).is_none() {
                return;
            }
            let handed = submission.with(|submission| {
                let session = Some(session_id);
                let first = (request, Before::Nothing);
                relay.hand_to_producer(&service, submission, first, session, deadline_ms)
            });
            if let Err(error) = handed {
                relay.produced((request, Before::Nothing), Err(error));
            }
        };
        if self.routes.is_reachable() {
            let (progress, detail) = (Progress::Submitted, stored::encode(detail));
            let step = BackupStep::Request { request, progress, detail };
            self.backups.request(session, step, (request, route), Box::new(produce));
        } else {
            self.backups.rewrite(session);
            produce();
        }
    }

    /// Writes the record for a request; what becomes of it is told to [`Relay::produced`].
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
        let record = RecordParts::new(self, service, request, session, deadline_ms);
        let on_delivery = Box::new(Written { relay: Arc::clone(self), request, before });
        record.with(service, submission, |record| self.producer.produce(record, on_delivery))
    }
}

/// What was produced for a request before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Nothing.
    Nothing,
    /// A record of which nobody knows whether it is in the log.
    MayBeRecorded,
}

/// Tells a request what becomes of its record.
struct Written {
    relay: Arc<Relay>,
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
        self.relay.pending.look(self.request, mark).is_some()
    }
}

impl Callback for Written {
    /// Should it end now, its client is told that it is not recorded.
    fn kept_back(&mut self) {
        self.mark(Recording::Waiting);
    }

    fn is_wanted(&self) -> bool {
        self.relay.pending.look(self.request, |_| ()).is_some()
    }

    /// Whoever ended it meanwhile, or took it to another node, was told that it is not there.
    fn goes(&mut self) -> bool {
        self.mark(Recording::Unconfirmed)
    }

    fn done(self: Box<Self>, outcome: Result<Position, ProduceError>) {
        self.relay.produced((self.request, self.before), outcome);
    }
}

/// A request of a session, kept until it may be produced.
struct OwnedSubmission {
    key: Option<Box<[u8]>>,
    payload: Box<[u8]>,
    headers: Vec<(Box<str>, Box<[u8]>)>,
}

impl From<&Submission<'_>> for OwnedSubmission {
    fn from(submission: &Submission<'_>) -> Self {
        let headers = submission.headers.iter();
        Self {
            key: submission.key.map(Into::into),
            payload: submission.payload.into(),
            headers: headers.map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        }
    }
}

impl OwnedSubmission {
    fn with<T>(&self, use_it: impl FnOnce(&Submission<'_>) -> T) -> T {
        let headers: Vec<(&str, &[u8])> =
            self.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        use_it(&Submission {
            service: "",
            key: self.key.as_deref(),
            payload: &self.payload,
            headers: &headers,
            method: METHOD_WS,
            path: None,
            timeout: None,
        })
    }
}

/// The texts of a record's headers.
struct RecordParts<'a> {
    correlation_text: [u8; 36],
    correlation_raw: [u8; 16],
    session: Option<String>,
    deadline: String,
    partition: Option<Vec<u8>>,
    reply_topic: &'a str,
}

impl<'a> RecordParts<'a> {
    fn new(
        relay: &'a Relay,
        service: &Service,
        request: RequestId,
        session: Option<SessionId>,
        deadline_ms: u64,
    ) -> Self {
        let mut correlation_text = [0; 36];
        request.encode(&mut correlation_text);
        let partition = match service.dialect {
            Dialect::Plain => None,
            _ => relay.affinity.any_partition(request),
        };
        let partition = partition.map(|partition| match service.dialect {
            Dialect::Nest => partition.to_string().into_bytes(),
            _ => partition.to_be_bytes().to_vec(),
        });
        Self {
            correlation_text,
            correlation_raw: request.as_uuid().into_bytes(),
            session: session.map(|id| id.to_string()),
            deadline: deadline_ms.to_string(),
            partition,
            reply_topic: &relay.reply_topic,
        }
    }

    fn with<T>(
        &self,
        service: &Service,
        submission: &Submission<'_>,
        use_it: impl FnOnce(&Outgoing<'_>) -> T,
    ) -> T {
        let correlation: &[u8] = match service.dialect {
            Dialect::SpringBinary => &self.correlation_raw,
            _ => &self.correlation_text,
        };
        let mut headers: Vec<(&str, &[u8])> = Vec::with_capacity(8 + submission.headers.len());
        headers.push((CORRELATION_ID, correlation));
        headers.push((REPLY_TOPIC, self.reply_topic.as_bytes()));
        if let Some(partition) = &self.partition {
            headers.push((REPLY_PARTITION, partition));
        }
        headers.push(("roundtrip-method", submission.method.as_bytes()));
        if let Some(path) = submission.path {
            headers.push(("roundtrip-path", path.as_bytes()));
        }
        if let Some(session) = &self.session {
            headers.push(("roundtrip-session", session.as_bytes()));
        }
        headers.push(("roundtrip-deadline", self.deadline.as_bytes()));
        let passes = |(name, _): &&(&str, _)| service.passes_to_service(name);
        headers.extend(submission.headers.iter().filter(passes));
        use_it(&Outgoing {
            topic: &service.topic,
            partition: None,
            key: Some(submission.key.unwrap_or(&self.correlation_text)),
            value: Some(submission.payload),
            headers: &headers,
        })
    }
}

#[cfg(test)]
mod tests;
