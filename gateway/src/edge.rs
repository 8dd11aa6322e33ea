//! The listeners: what clients, peers and operators reach. Turns bytes into calls of the relay, and
//! the relay's answers into bytes. Never talks to Kafka or the registry.

use std::{sync::Arc, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use registry::RequestId;
use serde::Serialize;
use std::num::NonZeroU32;

use crate::{
    config::Config,
    error::{ErrorCode, Failure},
    relay::Relay,
    tasks::Tasks,
};

pub(crate) mod authority;
mod cors;
pub mod internal;
pub mod origin;
pub mod public;
pub mod rest;
pub mod server;
pub mod ws;

#[cfg(test)]
mod testing;

use origin::Origins;

/// What every edge needs.
#[derive(Debug)]
pub struct Edge {
    /// The relay, which takes the requests.
    pub relay: Arc<Relay>,
    /// Starts the tasks of connections.
    pub tasks: Tasks,
    origins: Arc<Origins>,
    session: crate::config::SessionConfig,
    /// Requests per second and caller; `None` when not limited.
    quota: Option<Quota>,
}

impl Edge {
    /// The edge as configured.
    pub fn new(config: &Config, relay: Arc<Relay>, tasks: Tasks) -> Self {
        let quota = NonZeroU32::new(config.limits.requests_per_second_max).map(|rate| {
            Quota::per_second(rate)
                .allow_burst(rate.saturating_mul(NonZeroU32::MIN.saturating_add(1)))
        });
        let origins = Arc::new(Origins::new(&config.public));
        Self { relay, tasks, origins, session: config.session.clone(), quota }
    }

    /// Checks whether the calling web page may call.
    ///
    /// # Errors
    /// `forbidden`, which is counted.
    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Failure> {
        self.origins.check(headers).inspect_err(|_| self.relay.telemetry.origin_refused())
    }

    /// Checks whether clients are served yet.
    ///
    /// # Errors
    /// `unavailable`: a node that has just begun to listen would refuse what they ask for.
    fn is_open(&self) -> Result<(), Failure> {
        let failure = || Failure::new(ErrorCode::Unavailable, "this node is not ready yet");
        self.relay.gate.is_open().then_some(()).ok_or_else(failure)
    }

    /// How many requests one connection may make per second.
    pub fn rate(&self) -> Rate {
        Rate(self.quota.map(|quota| Arc::new(RateLimiter::direct(quota))))
    }
}

/// How many requests one connection may still make; clones share one count.
#[derive(Clone, Debug)]
pub struct Rate(Option<Arc<DefaultDirectRateLimiter>>);

impl Rate {
    /// No limit.
    pub const fn unlimited() -> Self {
        Self(None)
    }

    /// Takes one request.
    ///
    /// # Errors
    /// `rate_limited`, which says when the client may try again.
    fn take(&self, relay: &Relay) -> Result<(), Failure> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        limiter.check().map_err(|not_until| {
            use governor::clock::{Clock, DefaultClock};
            let max = relay.requests.limits().requests_per_second_max as usize;
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            let wait = wait.max(Duration::from_millis(1));
            relay
                .requests
                .limit_hit("requests_per_second_max", max, ErrorCode::RateLimited)
                .adding(format_args!("the next one may come in {} ms", wait.as_millis()))
                .retry_after(wait)
        })
    }
}

/// A problem document (RFC 9457), with the members of the contract beside the standard ones.
#[derive(Debug, Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    retryable: bool,
    recorded: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

/// An answer whose body is complete.
pub(crate) type Answer = Response<Vec<u8>>;

/// An answer that ends a call early.
pub(crate) type Refusal = Box<Answer>;

/// The refusal of a call that has no request id yet.
pub(crate) fn refused(failure: &Failure) -> Refusal {
    Box::new(problem(failure, None))
}

/// The answer for a failure, with the code's own status.
pub(crate) fn problem(failure: &Failure, request: Option<RequestId>) -> Answer {
    problem_with(failure.code.status(), failure, request)
}

/// The answer for a failure, with another status: the service's own, or one that HTTP knows and
/// the list of codes does not.
pub(crate) fn problem_with(status: u16, failure: &Failure, request: Option<RequestId>) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let problem = Problem {
        kind: "about:blank",
        title: status.canonical_reason().unwrap_or(failure.code.as_str()),
        status: status.as_u16(),
        detail: &failure.message,
        code: failure.code.as_str(),
        retryable: failure.code.is_retryable(),
        recorded: failure.recorded,
        request_id: request.map(|request| request.to_string()),
    };
    let body = serde_json::to_vec(&problem).expect("plain data in memory can be encoded");
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    let media_type = HeaderValue::from_static("application/problem+json");
    headers.insert(header::CONTENT_TYPE, media_type);
    if let Some(after) = failure.retry_after_for(status.as_u16()) {
        // Whole seconds, rounded up: an early repeat would be refused again.
        let seconds = after.as_millis().div_ceil(1000).max(1) as u64;
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// Whether a header that is a list of tokens has this one.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|found| found.trim().eq_ignore_ascii_case(token))
}

/// An answer that says only its status, in words.
pub(crate) fn plain(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(format!("{text}\n").into_bytes());
    *answer.status_mut() = status;
    let media_type = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, media_type);
    answer
}
