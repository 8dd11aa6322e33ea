//! The answers to bytes that are no request of HTTP/1.1. Looks at no route.

use http::StatusCode;

use super::{HEAD_BYTES_MAX, HEADERS_MAX, head::Head, requirements::Unmet};

/// Faults that the socket finds. The HTTP library would only say that it has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The client closed its writing half within the head.
    Half,
    /// The head takes too long.
    Late,
    /// The client speaks HTTP/2 from its first byte on.
    Http2,
}

impl Flaw {
    pub(super) fn unmet(self) -> Unmet {
        match self {
            // RFC 9112, section 8: an incomplete request may be answered.
            Self::Half => Unmet::bad("the request ends within its head"),
            // RFC 9110, section 15.5.9.
            Self::Late => Unmet::new(
                StatusCode::REQUEST_TIMEOUT,
                "the request's head did not arrive within 10 seconds",
            ),
            Self::Http2 => other_version(),
        }
    }
}

/// RFC 9110, section 15.6.6.
fn other_version() -> Unmet {
    let message = "HTTP/1.1 is spoken here, and no other version from a connection's start";
    Unmet::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, message)
}

/// More words for the status with which the HTTP library refused.
pub(super) fn of_library(status: StatusCode, head: &Head) -> Unmet {
    let over = |status: StatusCode, what: &str, came: usize, max: usize| Unmet {
        message: format!("{what} has {came} or more, and may have {max}").into(),
        ..Unmet::new(status, "")
    };
    match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE | StatusCode::URI_TOO_LONG => {
            let (bytes, headers) = (head.bytes(), head.headers());
            if !head.has_line() {
                over(StatusCode::URI_TOO_LONG, "of bytes, the request line", bytes, HEAD_BYTES_MAX)
            } else if headers > HEADERS_MAX {
                over(status, "of headers, the head", headers, HEADERS_MAX)
            } else {
                over(status, "of bytes, the head", bytes, HEAD_BYTES_MAX)
            }
        }
        _ if head.is_http2() || head.is_of_other_version() => other_version(),
        _ => Unmet::bad("this is no request of HTTP/1.1 (RFC 9112)"),
    }
}
