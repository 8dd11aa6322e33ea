//! What a client learns when something goes wrong: the closed lists of error and close codes.
//!
//! The only file that maps an error to an HTTP status, a close code or a retry. Never logs.

use std::{borrow::Cow, fmt, time::Duration};

/// Why a request ended without its service's answer. The list is closed: clients switch on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Not JSON, a missing field, a bad id or key.
    BadRequest,
    /// From a web page that may not call this gateway.
    Forbidden,
    /// No such service.
    UnknownService,
    /// No such request.
    NotFound,
    /// The id is in flight on this session already, with another content.
    Duplicate,
    /// The stored response has expired.
    Gone,
    /// The payload is over the limit, ours or the broker's.
    TooLarge,
    /// Cancelled by the client.
    Cancelled,
    /// More requests per second than allowed.
    RateLimited,
    /// The service answered with an error.
    ServiceError,
    /// A named limit is full.
    Overloaded,
    /// Kafka cannot be reached, or the registry where the request needs it.
    Unavailable,
    /// The deadline has passed.
    Timeout,
    /// Anything else.
    Internal,
}

impl ErrorCode {
    /// Every code, for metrics and tests.
    pub const ALL: [Self; 14] = [
        Self::BadRequest,
        Self::Forbidden,
        Self::UnknownService,
        Self::NotFound,
        Self::Duplicate,
        Self::Gone,
        Self::TooLarge,
        Self::Cancelled,
        Self::RateLimited,
        Self::ServiceError,
        Self::Overloaded,
        Self::Unavailable,
        Self::Timeout,
        Self::Internal,
    ];

    /// The code as clients see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Forbidden => "forbidden",
            Self::UnknownService => "unknown_service",
            Self::NotFound => "not_found",
            Self::Duplicate => "duplicate",
            Self::Gone => "gone",
            Self::TooLarge => "too_large",
            Self::Cancelled => "cancelled",
            Self::RateLimited => "rate_limited",
            Self::ServiceError => "service_error",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status of the code. A service's own status takes its place where it gave one.
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::UnknownService | Self::NotFound => 404,
            Self::Duplicate => 409,
            Self::Gone => 410,
            Self::TooLarge => 413,
            Self::Cancelled => 499,
            Self::RateLimited => 429,
            Self::ServiceError => 502,
            Self::Overloaded | Self::Unavailable => 503,
            Self::Timeout => 504,
            Self::Internal => 500,
        }
    }

    /// Whether the same request may succeed later.
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::RateLimited
            | Self::Overloaded
            | Self::Unavailable
            | Self::Timeout
            | Self::Internal => true,
            Self::BadRequest
            | Self::Forbidden
            | Self::UnknownService
            | Self::NotFound
            | Self::Duplicate
            | Self::Gone
            | Self::TooLarge
            | Self::Cancelled
            | Self::ServiceError => false,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One error as a client gets it: everything that an `error` frame or a problem document says,
/// apart from the request's ids.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// The machine-readable reason.
    pub code: ErrorCode,
    /// The reason for a person; names the limit if one was hit.
    pub message: Cow<'static, str>,
    /// Whether the request is, or may be, in Kafka.
    pub recorded: bool,
    /// When it makes sense to try again, where that is known.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure of a request that is not in Kafka.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), recorded: false, retry_after: None }
    }

    /// This failure, with whether the request is, or may be, in Kafka.
    pub fn recorded(self, recorded: bool) -> Self {
        Self { recorded, ..self }
    }

    /// This failure, with how much came, beside the limit.
    pub fn adding(self, what_came: fmt::Arguments<'_>) -> Self {
        Self { message: format!("{}; {what_came}", self.message).into(), ..self }
    }

    /// This failure, with the time after which the client may try again.
    pub fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }

    /// The time to wait before a repeat, for `Retry-After`: what is known, else one second for the
    /// statuses that promise the header.
    pub fn retry_after_for(&self, status: u16) -> Option<Duration> {
        let is_promised = matches!(status, 429 | 503);
        self.retry_after.or_else(|| is_promised.then_some(Duration::from_secs(1)))
    }
}

/// Why the gateway closes a socket. 4000–4499 mean "come back", 4500–4999 "do not".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// The client has ended the connection.
    Normal,
    /// RFC 6455 was violated.
    Protocol,
    /// A text message that is not UTF-8.
    NotUtf8,
    /// A message over `limits.frame_bytes_max`.
    TooLarge,
    /// This node is draining: come back, to another one, after a jittered delay.
    Draining,
    /// No pong in time.
    HeartbeatLost,
    /// The outbox is full.
    SlowConsumer,
    /// The client has resumed the session on another connection.
    Resumed,
    /// The gateway failed.
    Internal,
    /// A frame that the contract does not allow, such as an `ack` of what was never sent.
    ContractViolation,
}

impl CloseCode {
    /// Every code, for metrics.
    pub const ALL: [Self; 10] = [
        Self::Normal,
        Self::Protocol,
        Self::NotUtf8,
        Self::TooLarge,
        Self::Draining,
        Self::HeartbeatLost,
        Self::SlowConsumer,
        Self::Resumed,
        Self::Internal,
        Self::ContractViolation,
    ];

    /// The number on the wire.
    pub const fn number(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::Protocol => 1002,
            Self::NotUtf8 => 1007,
            Self::TooLarge => 1009,
            Self::Draining => 1012,
            Self::HeartbeatLost => 4000,
            Self::SlowConsumer => 4001,
            Self::Resumed => 4002,
            Self::Internal => 4004,
            Self::ContractViolation => 4500,
        }
    }

    /// Whether a client that is closed so may come back and go on.
    pub const fn invites_back(self) -> bool {
        self.number() < 4500
    }

    /// A few words for a person.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Normal => "",
            Self::Protocol => "websocket protocol violated",
            Self::NotUtf8 => "text is not UTF-8",
            Self::TooLarge => "message over frame_bytes_max",
            Self::Draining => "node is draining, come back",
            Self::HeartbeatLost => "no pong within pong_timeout",
            Self::SlowConsumer => "outbox_bytes_max exceeded, read faster",
            Self::Resumed => "session resumed on another connection",
            Self::Internal => "the registry cannot be reached, come back later",
            Self::ContractViolation => "contract violated",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_close_code_is_listed() {
        for (at, code) in CloseCode::ALL.iter().enumerate() {
            assert_eq!(*code as usize, at);
        }
    }

    #[test]
    fn retry_after_goes_with_429_and_503_only() {
        for code in ErrorCode::ALL {
            let told = Failure::new(code, "").retry_after_for(code.status()).is_some();
            assert_eq!(told, [429, 503].contains(&code.status()), "{code}");
        }
    }

    #[test]
    fn close_codes_that_forbid_a_return_are_4500_and_up() {
        assert!(CloseCode::SlowConsumer.invites_back());
        assert!(!CloseCode::ContractViolation.invites_back());
    }
}
