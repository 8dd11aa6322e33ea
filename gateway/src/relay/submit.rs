//! How a request begins: checked, given an id, and handed on to be produced.

use std::{sync::Arc, time::Duration};

use registry::RequestId;
use tokio::sync::oneshot;

use super::{
    Relay,
    affinity::Choice,
    pending::{Answer, Entry, Waiter},
    produce::Before,
    service::Service,
    session::{Digest, InFlight, Known, Session},
};
use crate::{
    error::{ErrorCode, Failure},
    telemetry::Edge,
    wire::{ClientId, Frame, RequestFrame},
};

/// The method that a service sees for a request that came over a WebSocket.
pub(super) const METHOD_WS: &str = "WS";

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
        if !session.is_held() || session.is_left_behind() {
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
        let in_flight = session.in_flight();
        if in_flight >= max {
            return Err(self
                .limit_hit("in_flight_per_connection_max", max, ErrorCode::Overloaded)
                .adding(format_args!("{in_flight} in flight")));
        }
        let choice = self.choose()?;
        let id = frame.id.clone().unwrap_or_else(|| ClientId::from_request(choice.request));
        let (request, has_ended, is_unconfirmed) = (choice.request, false, false);
        let name = Arc::clone(&service.name);
        let begun = InFlight { request, digest, service: name, has_ended, is_unconfirmed };
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
        let again = (request, Before::MayBeRecorded);
        let handed = self.hand_to_producer(&service, &submission, again, session, deadline_ms);
        if let Err(error) = handed {
            self.produced(again, Err(error));
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
        let bytes = submission.payload.len();
        if bytes > max {
            return Err(self
                .limit_hit("message_bytes_max", max, ErrorCode::TooLarge)
                .adding(format_args!("the payload has {bytes} bytes")));
        }
        let max = self.limits.in_flight_max;
        let waiting = self.pending.len();
        if waiting >= max {
            return Err(self
                .limit_hit("in_flight_max", max, ErrorCode::Overloaded)
                .adding(format_args!("{waiting} wait on this node")));
        }
        // A session goes on until it has its turn: its client, and what it waits for, go elsewhere.
        if session.map_or_else(|| self.is_draining(), Session::is_draining) {
            return Err(Failure::new(ErrorCode::Unavailable, "this node is draining"));
        }
        // A producer that has just been started is about to meet its broker: that is a short wait.
        if !self.producer.is_available() && !self.producer.is_starting() {
            return Err(Failure::new(ErrorCode::Unavailable, "Kafka cannot be reached"));
        }
        Ok(Arc::clone(service))
    }

    /// When a request ends by itself, in milliseconds since the Unix epoch.
    pub(super) fn deadline_ms(&self, timeout: Duration) -> u64 {
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

    /// The failure for a limit of `limits.*` that was hit, counted.
    pub fn limit_hit(&self, limit: &'static str, max: usize, code: ErrorCode) -> Failure {
        self.telemetry.limit_hit(limit);
        Failure::new(code, format!("limits.{limit} is {max}"))
    }

    /// The services that there are, in order.
    pub fn service_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.services.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Whether a service gets this header of its callers, a name in lower case. What is no service
    /// is refused for that.
    pub fn allows_header(&self, service: &str, name: &str) -> bool {
        self.services.get(service).is_none_or(|service| service.passes_to_service(name))
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
