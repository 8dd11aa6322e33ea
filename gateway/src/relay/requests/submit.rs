//! How a request begins: checked, given an id, and handed on to be produced.

use std::{sync::Arc, time::Duration};

use registry::RequestId;
use tokio::time::Instant;

use super::{
    Requests,
    affinity::Choice,
    call::WaitingCall,
    caller::Caller,
    pending::{Entry, Waiter},
    recording::{Before, Record},
    submission::{Submission, content, header_slices, of_frame},
};
use crate::{
    error::{ErrorCode, Failure},
    relay::{
        services::Service,
        session::{Digest, Known, Session},
    },
    telemetry::Edge,
    wire::{ClientId, Frame, RequestFrame},
};

impl Requests {
    /// Submits a request for an HTTP caller, who gets the answer from the call that is returned.
    ///
    /// # Errors
    /// What keeps the request from being produced; it is not recorded then.
    pub fn call(self: &Arc<Self>, submission: &Submission<'_>) -> Result<WaitingCall, Failure> {
        let (caller, mail) = Caller::new(self.limits.stream_bytes_max);
        let request = self.admit(submission).and_then(|service| {
            if self.gate.is_draining() {
                return Err(draining());
            }
            let choice = self.choose()?;
            self.produce(&service, submission, choice, Waiter::Call(caller))?;
            Ok(choice.request)
        });
        match request {
            Ok(request) => Ok(WaitingCall::new(&self.completion, request, mail)),
            Err(failure) => Err(self.services.refused(submission.service, Edge::Rest, failure)),
        }
    }

    /// Submits a request for a session, which gets every answer, including refusals, as frames.
    /// `allow` is asked for permission, unless the request joins one that is in flight.
    pub fn submit(
        self: &Arc<Self>,
        session: &Arc<Session>,
        frame: &RequestFrame<'_>,
        allow: impl FnOnce() -> Result<(), Failure>,
    ) {
        if session.is_left_behind() {
            return;
        }
        let mut digest = Digest(0);
        if let Some(id) = &frame.id {
            digest = content(frame);
            match session.requests().known(id, digest) {
                Known::No => {}
                Known::Joins => return,
                Known::Unconfirmed(request) => return self.produce_again(frame, request),
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
        let failure = self.services.refused(&frame.service, Edge::Ws, failure);
        let id = frame.id.clone();
        let frame = Frame::Error { id, request: None, failure, reply: None };
        self.completion.owe(session, frame, None, None);
    }

    fn submit_frame(
        self: &Arc<Self>,
        session: &Arc<Session>,
        frame: &RequestFrame<'_>,
        digest: Digest,
    ) -> Result<(), Failure> {
        let headers = header_slices(&frame.headers);
        let submission = of_frame(frame, &headers);
        let service = self.admit(&submission)?;
        let max = self.limits.in_flight_per_connection_max;
        let in_flight = session.requests().count();
        if in_flight >= max {
            return Err(self
                .limit_hit("in_flight_per_connection_max", max, ErrorCode::Overloaded)
                .adding(format_args!("{in_flight} in flight")));
        }
        let choice = self.choose()?;
        let id = frame.id.clone().unwrap_or_else(|| ClientId::from_request(choice.request));
        let (session_of, receipt) = (Arc::clone(session), frame.receipt);
        let waiter = Waiter::Session { session: session_of, id: id.clone(), digest, receipt };
        let produced = self.produce(&service, &submission, choice, waiter);
        if produced.is_err() {
            session.requests().forget(&id);
        }
        produced
    }

    /// Produces a request again, under its id, because the node that took it died before the broker
    /// had confirmed it.
    fn produce_again(self: &Arc<Self>, frame: &RequestFrame<'_>, request: RequestId) {
        let look = |entry: &mut Entry| {
            if frame.receipt {
                entry.waiter.want_receipt();
            }
            (Arc::clone(&entry.service), Arc::clone(&entry.route), entry.deadline)
        };
        // The request may have ended meanwhile: then its answer is on its way.
        let Some((service, route, deadline)) = self.completion.pending.look(request, look) else {
            return;
        };
        let headers = header_slices(&frame.headers);
        let submission = of_frame(frame, &headers);
        let left = deadline.saturating_duration_since(Instant::now());
        let deadline_ms = self.deadline_ms(left);
        let again = Record { request, route, before: Before::MayBeRecorded, deadline_ms };
        if let Err(error) = self.hand_to_producer(&service, &submission, again.clone()) {
            self.completion.produced(&again, Err(error));
        }
    }

    /// The limits that hold for every request, through whichever edge it came.
    pub(super) fn admit(&self, submission: &Submission<'_>) -> Result<Arc<Service>, Failure> {
        let service = self.services.find(submission.service)?;
        let max = self.limits.message_bytes_max;
        let bytes = submission.payload.len();
        if bytes > max {
            return Err(self
                .limit_hit("message_bytes_max", max, ErrorCode::TooLarge)
                .adding(format_args!("the payload has {bytes} bytes")));
        }
        let max = self.limits.in_flight_max;
        let waiting = self.completion.pending.len();
        if waiting >= max {
            return Err(self
                .limit_hit("in_flight_max", max, ErrorCode::Overloaded)
                .adding(format_args!("{waiting} wait on this node")));
        }
        // A producer that has just been started is about to reach its broker, so the wait is short.
        if !self.producer.is_available() && !self.producer.is_starting() {
            return Err(Failure::new(ErrorCode::Unavailable, "Kafka cannot be reached"));
        }
        Ok(Arc::clone(service))
    }

    /// When a request ends by itself, in milliseconds since the Unix epoch.
    pub(in crate::relay) fn deadline_ms(&self, timeout: Duration) -> u64 {
        self.environment.unix_ms().saturating_add(timeout.as_millis() as u64)
    }

    pub(super) fn choose(&self) -> Result<Choice, Failure> {
        let choice = self.affinity.choose(self.environment.unix_ms(), self.environment.bytes());
        // Without affinity another node reads the reply, and may need the route.
        if choice.partition.is_none() && !self.health.is_reachable() {
            return Err(Failure::new(ErrorCode::Unavailable, "the registry cannot be reached"));
        }
        Ok(choice)
    }

    /// The failure for a hit limit of `limits.*`, which is counted.
    pub fn limit_hit(&self, limit: &'static str, max: usize, code: ErrorCode) -> Failure {
        self.telemetry.limit_hit(limit);
        Failure::new(code, format!("limits.{limit} is {max}"))
    }
}

/// What nobody is told on a session before it has its turn to be closed: until then a draining node
/// serves its clients, and then these, and what they wait for, move to other nodes.
pub(super) fn draining() -> Failure {
    Failure::new(ErrorCode::Unavailable, "this node is draining")
}
