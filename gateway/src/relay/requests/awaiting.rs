//! Requests that events answer: those of a service that responds on a view, and calls that wait for a
//! state of one.
//!
//! The wait is in the registry before anything is produced: so no event is missed that follows from the
//! request, whoever reads it. While the registry cannot take it, the request is refused.

use std::{sync::Arc, time::Duration};

use registry::{After, Latest, RegistryError, RequestId, Route, StateWait, ViewKey, Waiting};
use tokio::time::Instant;

use super::{
    Completion, Requests,
    call::WaitingCall,
    caller::Caller,
    pending::{Entry, Waiter},
    recording::{Before, Record, Recording},
    submission::{OwnedSubmission, Submission},
    submit::draining,
};
use crate::{
    config::RespondOnConfig,
    error::{ErrorCode, Failure},
    relay::{
        checkpoints::format::RequestDetail,
        services::Service,
        session::Session,
        views::{self, View, pointer},
    },
    telemetry::{Edge, ReplyPath},
};

/// How much the clocks of this node and of whoever writes events may differ. Of an event that is older
/// than the request by more than this, a view that lags behind is not deceived.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(60);

/// What a request of a service waits for.
pub(super) struct Awaited {
    view: Arc<View>,
    key: Vec<u8>,
    until: Vec<Box<str>>,
}

impl Requests {
    /// What this request waits for, if it is not a reply.
    ///
    /// # Errors
    /// No key in the payload; or the view is not complete, or the registry cannot be reached.
    pub(super) fn awaited(
        &self,
        service: &Service,
        payload: &[u8],
    ) -> Result<Option<Awaited>, Failure> {
        let Some(RespondOnConfig { view, key, until }) = &service.respond_on else {
            return Ok(None);
        };
        let Some(found) = pointer::text_at(payload, key) else {
            let message =
                format!("the payload has no key at {key}: a string or a number is needed");
            return Err(Failure::new(ErrorCode::BadRequest, message));
        };
        let view = Arc::clone(self.views.find(view)?);
        view.check()?;
        if !self.health.is_reachable() {
            return Err(Failure::new(ErrorCode::Unavailable, "the registry cannot be reached"));
        }
        let until = until.iter().map(|state| state.as_str().into()).collect();
        Ok(Some(Awaited { view, key: found.as_bytes().to_vec(), until }))
    }

    /// Produces a request once the registry has its wait, and then as any request.
    pub(super) fn produce_once_awaited(
        self: &Arc<Self>,
        session: Option<(Arc<Session>, RequestDetail)>,
        service: &Arc<Service>,
        submission: &Submission<'_>,
        (request, route): (RequestId, Arc<Route>),
        (awaited, deadline): (Awaited, Instant),
    ) {
        let key = awaited.view.key(&awaited.key);
        let now_ms = self.environment.unix_ms();
        let wait = StateWait {
            key: key.clone(),
            request,
            until: awaited.until,
            after: After::Present,
            not_before_ms: now_ms.saturating_sub(CLOCKS_APART_MAX.as_millis() as u64),
            ttl: deadline.saturating_duration_since(Instant::now()) + Route::GRACE,
        };
        let deadline_ms = self.deadline_ms(deadline.saturating_duration_since(Instant::now()));
        let (requests, service) = (Arc::clone(self), Arc::clone(service));
        let submission = OwnedSubmission::from(submission);
        let told = move |begun| {
            let completion = &requests.completion;
            let (of, before) = (Arc::clone(&route), Before::Nothing);
            let first = Record { request, route: of, before, deadline_ms };
            if !has_begun(completion, &first, key, begun) {
                return;
            }
            let produced = submission.with(|submission| match &session {
                Some((session, detail)) => {
                    let of = (request, Arc::clone(&route));
                    requests.produce_once_copied(session, &service, submission, of, detail);
                    Ok(())
                }
                None => {
                    if !completion.set_recording(&first, Recording::Unconfirmed) {
                        return Ok(());
                    }
                    completion.routes.put(request, Arc::clone(&route), false);
                    requests.hand_to_producer(&service, submission, first.clone())
                }
            });
            if let Err(error) = produced {
                completion.produced(&first, Err(error));
            }
        };
        self.completion.waits.begin(wait, deadline, Box::new(told));
    }

    /// Waits until a key of a view is in one of these states, or answers at once if it is.
    ///
    /// # Errors
    /// What keeps it from waiting.
    pub fn await_state(
        self: &Arc<Self>,
        view: &View,
        key: &[u8],
        until: Vec<Box<str>>,
        timeout: Option<Duration>,
    ) -> Result<WaitingCall, Failure> {
        let begun = self.begin_to_await(view, key, until, timeout);
        if let Err(failure) = &begun {
            view.waiting.metrics.ended(Edge::Rest, Err(failure));
        }
        begun
    }

    fn begin_to_await(
        self: &Arc<Self>,
        view: &View,
        key: &[u8],
        until: Vec<Box<str>>,
        timeout: Option<Duration>,
    ) -> Result<WaitingCall, Failure> {
        view.check()?;
        if self.gate.is_draining() {
            return Err(draining());
        }
        let max = self.limits().in_flight_max;
        if self.completion.pending.len() >= max {
            return Err(self.limit_hit("in_flight_max", max, ErrorCode::Overloaded));
        }
        let choice = self.choose()?;
        let (request, service) = (choice.request, &view.waiting);
        let timeout = service.timeout(timeout);
        let started = Instant::now();
        let deadline = started + timeout;
        let route = Arc::new(Route {
            node: self.node.clone(),
            session: None,
            client_id: None,
            deadline_ms: self.deadline_ms(timeout),
            may_be_part: false,
        });
        let (caller, mail) = Caller::new(self.limits.stream_bytes_max);
        let entry = Entry {
            service: Arc::clone(service),
            waiter: Waiter::Call(caller),
            started,
            deadline,
            partition: None,
            recording: Recording::Waiting,
            early: None,
            stream: None,
            route: Arc::clone(&route),
        };
        self.completion.pending.insert(request, entry);
        service.metrics.in_flight.inc();
        self.completion.routes.put(request, Arc::clone(&route), false);
        let key = view.key(key);
        let wait = StateWait {
            key: key.clone(),
            request,
            until,
            after: After::Nothing,
            not_before_ms: 0,
            ttl: timeout + Route::GRACE,
        };
        let completion = Arc::clone(&self.completion);
        let told = move |begun| {
            let deadline_ms = route.deadline_ms;
            let record = Record { request, route, before: Before::Nothing, deadline_ms };
            has_begun(&completion, &record, key, begun);
        };
        self.completion.waits.begin(wait, deadline, Box::new(told));
        Ok(WaitingCall::new(&self.completion, request, mail))
    }
}

/// Answers a request that waits here with the event that is there already.
pub(in crate::relay) fn answer_with(completion: &Completion, request: RequestId, latest: &Latest) {
    let Some(reply) = views::read(latest) else { return };
    let read = |service: &Service| reply.passing(|name| service.passes_to_client(name));
    completion.deliver(request, |_| ReplyPath::Local, None, |_| None, read);
}

/// Acts on what became of the wait of a request that has not been produced. Returns whether the request
/// goes on: if not, it has been answered, or refused, or has ended meanwhile.
fn has_begun(
    completion: &Completion,
    record: &Record,
    key: ViewKey,
    begun: Result<Waiting, RegistryError>,
) -> bool {
    let request = record.request;
    match begun {
        // Whoever ended it meanwhile, or took it to another node, has been told that it is not in the log.
        Ok(Waiting::Begun(_)) if completion.pending.look(request, |_| ()).is_none() => {
            completion.waits.forget(key, request);
        }
        Ok(Waiting::Begun(_)) => return true,
        Ok(Waiting::Over(latest)) => answer_with(completion, request, &latest),
        Err(error) => {
            let message = format!("the registry does not take the wait: {error}");
            let failure = Failure::new(ErrorCode::Unavailable, message);
            if let Some(entry) = completion.pending.take_if(request, |entry| entry.has(record)) {
                completion.fail(request, entry, failure, None);
            }
        }
    }
    false
}
