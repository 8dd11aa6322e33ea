//! How a request begins: checked, given an id, parked, and produced.

use std::{sync::Arc, time::Duration};

use registry::{BackupStep, Progress, RequestId, Route, SessionId};
use tokio::{sync::oneshot, time::Instant};

use super::{
    Relay,
    affinity::Choice,
    ending::refusal,
    pending::{Answer, Entry, Recording, Waiter},
    reply::{CORRELATION_ID, REPLY_PARTITION, REPLY_TOPIC},
    service::Service,
    session::{Digest, InFlight, Known, Session},
    stored::{self, RequestDetail},
};
use crate::{
    bus::{Outgoing, ProduceError},
    config::Dialect,
    error::{ErrorCode, Failure},
    telemetry::Edge,
    wire::{ClientId, Frame, RequestFrame},
};

/// The method that a service sees for a request that came over a WebSocket.
const METHOD_WS: &str = "WS";

/// A request as the edge hands it over.
#[derive(Clone, Copy, Debug)]
pub struct Submission<'a> {
    /// Name of the service.
    pub service: &'a str,
    /// Record key; the request id when absent.
    pub key: Option<&'a [u8]>,
    /// Record value.
    pub payload: &'a [u8],
    /// The client's headers, names in lower case; those that may not pass are left out.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// `WS`, or the HTTP method.
    pub method: &'a str,
    /// For HTTP: the path after the service's name and the query, as they came.
    pub path: Option<&'a str>,
    /// How long to wait; the service's own time-out when absent.
    pub timeout: Option<Duration>,
}

/// An HTTP call that waits. Dropping it ends the wait, not the command.
#[derive(Debug)]
pub struct ParkedCall {
    relay: Arc<Relay>,
    request: RequestId,
    answer: oneshot::Receiver<Answer>,
}

impl ParkedCall {
    /// The request's id.
    pub fn request(&self) -> RequestId {
        self.request
    }

    /// The answer. Cancel safe.
    pub async fn answer(&mut self) -> Option<Answer> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for ParkedCall {
    fn drop(&mut self) {
        self.relay.cancel(self.request);
    }
}

impl Relay {
    /// Submits a request for an HTTP caller, who gets the answer from the parked call.
    ///
    /// # Errors
    /// Whatever keeps the request from being produced; it is not recorded then.
    pub fn park(self: &Arc<Self>, submission: &Submission<'_>) -> Result<ParkedCall, Failure> {
        let (sender, answer) = oneshot::channel();
        let request = self.admit(submission, None).and_then(|service| {
            let choice = self.choose()?;
            self.produce(&service, submission, choice, Waiter::Call(sender))?;
            Ok(choice.request)
        });
        match request {
            Ok(request) => Ok(ParkedCall { relay: Arc::clone(self), request, answer }),
            Err(failure) => Err(self.refused_call(submission.service, failure)),
        }
    }

    /// Submits a request for a session, which gets every answer, refusals among them, as frames.
    /// `allow` is asked for leave unless the request joins one in flight.
    pub fn request(
        self: &Arc<Self>,
        session: &Arc<Session>,
        frame: &RequestFrame<'_>,
        allow: impl FnOnce() -> Result<(), Failure>,
    ) {
        if !session.is_held() {
            // Its connection is about to be closed; the client asks again where it goes on.
            return;
        }
        let mut digest = Digest(0);
        if let Some(id) = &frame.id {
            digest = content(frame);
            match session.known(id, digest) {
                Known::No => {}
                Known::Joins => return,
                Known::Unconfirmed(request) => return self.produce_again(session, frame, request),
                Known::Conflicts => {
                    let message = "the id is in flight on this session with another content";
                    let failure = Failure::new(ErrorCode::Duplicate, message);
                    return self.refuse(session, frame, failure);
                }
            }
        }
        if let Err(failure) = allow().and_then(|()| self.submit_frame(session, frame, digest)) {
            self.refuse(session, frame, failure);
        }
    }

    /// Tells a session that its request was not taken.
    fn refuse(&self, session: &Arc<Session>, frame: &RequestFrame<'_>, failure: Failure) {
        let failure = self.refused(&frame.service, Edge::Ws, failure);
        let id = frame.id.clone();
        self.owe(session, Frame::Error { id, request: None, failure, reply: None }, None, None);
    }

    fn submit_frame(
        self: &Arc<Self>,
        session: &Arc<Session>,
        frame: &RequestFrame<'_>,
        digest: Digest,
    ) -> Result<(), Failure> {
        let headers = header_slices(&frame.headers);
        let submission = of_frame(frame, &headers);
        let service = self.admit(&submission, Some(session))?;
        let max = self.limits.in_flight_per_connection_max;
        if session.in_flight() >= max {
            return Err(self.limit_hit("in_flight_per_connection_max", max, ErrorCode::Overloaded));
        }
        let choice = self.choose()?;
        let id = frame.id.clone().unwrap_or_else(|| ClientId::from_request(choice.request));
        let deadline_ms = self.deadline_ms(service.timeout(submission.timeout));
        let (request, has_ended, is_unconfirmed) = (choice.request, false, false);
        let name = Arc::clone(&service.name);
        let begun =
            InFlight { request, digest, service: name, deadline_ms, has_ended, is_unconfirmed };
        session.begin(id.clone(), begun);
        let (session_of, receipt) = (Arc::clone(session), frame.receipt);
        let waiter = Waiter::Session { session: session_of, id: id.clone(), digest, receipt };
        let produced = self.produce(&service, &submission, choice, waiter);
        if produced.is_err() {
            session.forget(&id);
        }
        produced
    }

    /// Produces a request again, under its id: the node that took it died before the broker had
    /// confirmed it.
    fn produce_again(
        self: &Arc<Self>,
        session: &Arc<Session>,
        frame: &RequestFrame<'_>,
        request: RequestId,
    ) {
        let look = |entry: &mut Entry| {
            if frame.receipt {
                entry.waiter.want_receipt();
            }
            (Arc::clone(&entry.service), entry.route.deadline_ms)
        };
        // It may have ended meanwhile: then its answer is on its way.
        let Some((service, deadline_ms)) = self.pending.look(request, look) else { return };
        let headers = header_slices(&frame.headers);
        let submission = of_frame(frame, &headers);
        let session = Some(session.id());
        let handed = self.hand_to_producer(&service, &submission, request, session, deadline_ms);
        if let Err(error) = handed {
            self.produced(request, Err(error));
        }
    }

    /// The limits that hold for every request, wherever it came from.
    fn admit(
        &self,
        submission: &Submission<'_>,
        session: Option<&Session>,
    ) -> Result<Arc<Service>, Failure> {
        let Some(service) = self.services.get(submission.service) else {
            let shown: String = submission.service.chars().take(64).collect();
            return Err(Failure::new(
                ErrorCode::UnknownService,
                format!("no service is called {shown:?}"),
            ));
        };
        let max = self.limits.message_bytes_max;
        if submission.payload.len() > max {
            return Err(self.limit_hit("message_bytes_max", max, ErrorCode::TooLarge));
        }
        let max = self.limits.in_flight_max;
        if self.pending.len() >= max {
            return Err(self.limit_hit("in_flight_max", max, ErrorCode::Overloaded));
        }
        // A session goes on until it has its turn: its client, and what it waits for, go elsewhere.
        if session.map_or_else(|| self.is_draining(), Session::is_draining) {
            return Err(Failure::new(ErrorCode::Unavailable, "this node is draining"));
        }
        if !self.producer.is_available() {
            return Err(Failure::new(ErrorCode::Unavailable, "Kafka cannot be reached"));
        }
        Ok(Arc::clone(service))
    }

    fn deadline_ms(&self, timeout: Duration) -> u64 {
        self.nature.unix_ms().saturating_add(timeout.as_millis() as u64)
    }

    fn choose(&self) -> Result<Choice, Failure> {
        let choice = self.affinity.choose(self.nature.unix_ms(), self.nature.bytes());
        // Without affinity the reply is read by another node, which may need the route.
        if choice.partition.is_none() && !self.routes.is_reachable() {
            return Err(Failure::new(ErrorCode::Unavailable, "the registry cannot be reached"));
        }
        Ok(choice)
    }

    /// Parks the waiter, then produces: the reply may be faster than this function's end.
    fn produce(
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
        let handed = self.hand_to_producer(service, submission, request, session_id, deadline_ms);
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
            return Err(refusal(&error));
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
                relay.hand_to_producer(&service, submission, request, session, deadline_ms)
            });
            if let Err(error) = handed {
                relay.produced(request, Err(error));
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

    fn hand_to_producer(
        self: &Arc<Self>,
        service: &Service,
        submission: &Submission<'_>,
        request: RequestId,
        session: Option<SessionId>,
        deadline_ms: u64,
    ) -> Result<(), ProduceError> {
        let relay = Arc::clone(self);
        let record = RecordParts::new(self, service, request, session, deadline_ms);
        let on_delivery = Box::new(move |result| relay.produced(request, result));
        record.with(service, submission, |record| self.producer.produce(record, on_delivery))
    }

    /// The failure for a limit of `limits.*` that was hit, counted.
    pub fn limit_hit(&self, limit: &'static str, max: usize, code: ErrorCode) -> Failure {
        self.telemetry.limit_hit(limit);
        Failure::new(code, format!("limits.{limit} is {max}"))
    }

    /// Counts the refusal of an HTTP caller's request.
    pub fn refused_call(&self, service: &str, failure: Failure) -> Failure {
        self.refused(service, Edge::Rest, failure)
    }

    fn refused(&self, service: &str, edge: Edge, failure: Failure) -> Failure {
        let metrics = self.services.get(service).map_or(&self.unknown, |known| &known.metrics);
        metrics.ended(edge, Err(&failure));
        failure
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

fn header_slices(headers: &[(String, String)]) -> Vec<(&str, &[u8])> {
    headers.iter().map(|(name, value)| (&**name, value.as_bytes())).collect()
}

fn of_frame<'a>(frame: &'a RequestFrame<'_>, headers: &'a [(&'a str, &'a [u8])]) -> Submission<'a> {
    Submission {
        service: &frame.service,
        key: frame.key.as_deref().map(str::as_bytes),
        payload: frame.payload.as_bytes(),
        headers,
        method: METHOD_WS,
        path: None,
        timeout: frame.timeout_ms.map(Duration::from_millis),
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

/// What a request asks for, as one number: equal for the same request only, short of a collision
/// of 128 bits, by which a client could mislead nobody but itself.
fn content(frame: &RequestFrame<'_>) -> Digest {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    let mut add = |part: &[u8]| {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    };
    add(frame.service.as_bytes());
    add(&[u8::from(frame.key.is_some())]);
    add(frame.key.as_deref().unwrap_or_default().as_bytes());
    for (name, value) in &frame.headers {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    add(frame.payload.as_bytes());
    Digest(hasher.digest128())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ClientFrame;

    fn digest(text: &str) -> Digest {
        match ClientFrame::parse(text) {
            Ok(ClientFrame::Request(frame)) => content(&frame),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_digest_is_of_service_key_headers_and_payload_alone() {
        let base = r#"{"id":1,"service":"s","key":"k","headers":{"a":"b"},"payload":1}"#;
        let same =
            r#"{"payload":1,"timeout_ms":7,"headers":{"A":"b"},"key":"k","service":"s","id":1}"#;
        assert_eq!(digest(base), digest(same));
        for other in [
            r#"{"id":1,"service":"t","key":"k","headers":{"a":"b"},"payload":1}"#,
            r#"{"id":1,"service":"s","key":"l","headers":{"a":"b"},"payload":1}"#,
            r#"{"id":1,"service":"s","headers":{"a":"b"},"payload":1}"#,
            r#"{"id":1,"service":"s","key":"k","headers":{"a":"c"},"payload":1}"#,
            r#"{"id":1,"service":"s","key":"k","payload":1}"#,
            r#"{"id":1,"service":"s","key":"k","headers":{"a":"b"},"payload":1.0}"#,
        ] {
            assert_ne!(digest(base), digest(other), "{other}");
        }
        assert_ne!(digest(r#"{"service":"s","key":""}"#), digest(r#"{"service":"s"}"#));
    }
}
