//! What an HTTP caller gets: the service's own answer, or the reason why there is none.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use registry::RequestId;

use super::super::{Answer, Refusal, problem, problem_with};
use crate::{
    error::{ErrorCode, Failure},
    relay::requests::pending::{Outcome, Timing},
    wire::Reply,
};

/// Headers that a service may not set, because the gateway frames the answer.
const FRAMING: [&str; 6] =
    ["connection", "content-length", "keep-alive", "transfer-encoding", "upgrade", "trailer"];

/// The answer to the caller, made from the end of its request.
pub(super) fn answer_of(outcome: Outcome, request: RequestId) -> Answer {
    match outcome {
        Outcome::Reply(reply) if reply.is_error() && reply.payload.is_empty() => {
            let status = reply.status_or_ok();
            let message = format!("the service answered with status {status}");
            let failure = Failure::new(ErrorCode::ServiceError, message).recorded(true);
            let mut answer = problem_with(status, &failure, Some(request));
            hand_on(&reply, answer.headers_mut());
            answer
        }
        Outcome::Reply(reply) => event(&reply),
        Outcome::Failure(failure) => problem(&failure, Some(request)),
    }
}

/// The bytes that a service or an event has, with their status.
pub(super) fn event(reply: &Reply) -> Answer {
    let status = StatusCode::from_u16(reply.status_or_ok()).unwrap_or(StatusCode::BAD_GATEWAY);
    let given = || HeaderValue::from_bytes(reply.content_type()?).ok();
    let found = || {
        HeaderValue::from_static(match reply.json() {
            Some(_) => "application/json",
            None => "application/octet-stream",
        })
    };
    // These have no body (RFC 9110), whatever the service wrote.
    let bodiless = [204, 205, 304].contains(&status.as_u16());
    let body = if bodiless { Vec::new() } else { reply.payload.to_vec() };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    hand_on(reply, answer.headers_mut());
    if !bodiless {
        let media_type = given().unwrap_or_else(found);
        answer.headers_mut().insert(header::CONTENT_TYPE, media_type);
    }
    answer
}

/// Hands a service's headers to the client, without those that frame the answer.
fn hand_on(reply: &Reply, headers: &mut HeaderMap) {
    for (name, value) in &reply.headers {
        if &**name == "content-type" || FRAMING.contains(&&**name) {
            continue;
        }
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
}

/// The stages' times in milliseconds (W3C Server Timing).
pub(super) fn server_timing(timing: &Timing) -> Option<HeaderValue> {
    let stages =
        [("produce", timing.produce), ("service", timing.service), ("forward", timing.forward)];
    let metrics: Vec<String> = stages
        .iter()
        .filter_map(|(name, took)| {
            took.map(|took| format!("{name};dur={:.3}", took.as_secs_f64() * 1000.0))
        })
        .collect();
    HeaderValue::from_str(&metrics.join(", ")).ok().filter(|value| !value.is_empty())
}

/// The refusal of a coded body (RFC 9110, section 15.5.16).
pub(super) fn coded(failure: &Failure) -> Refusal {
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE.as_u16();
    let mut answer = problem_with(status, failure, None);
    let identity = HeaderValue::from_static("identity");
    answer.headers_mut().insert(header::ACCEPT_ENCODING, identity);
    Box::new(answer)
}

/// The refusal of a body that takes too long (RFC 9110, section 15.5.9).
pub(super) fn late(failure: &Failure) -> Refusal {
    Box::new(problem_with(StatusCode::REQUEST_TIMEOUT.as_u16(), failure, None))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_media_type_that_fits_no_header_is_found_anew() {
        let request = RequestId::from_header(b"01890a5d-ac96-774b-bcce-b302099a8057").unwrap();
        let media_type = |given: &'static str, payload: &'static str| {
            let headers = vec![("content-type".into(), given.into())];
            let reply = Reply { headers, payload: payload.into(), ..Reply::default() };
            answer_of(Outcome::Reply(reply), request).headers()[header::CONTENT_TYPE].clone()
        };
        assert_eq!(media_type("text/csv", "{}"), "text/csv");
        assert_eq!(media_type("text/csv\n", "{}"), "application/json");
        assert_eq!(media_type("text/csv\n", "a;b"), "application/octet-stream");
    }

    #[test]
    fn stages_that_are_not_known_are_left_out() {
        assert_eq!(server_timing(&Timing::default()), None);
        let timing = Timing { service: Some(Duration::from_micros(1500)), ..Timing::default() };
        assert_eq!(server_timing(&timing).unwrap(), "service;dur=1.500");
    }
}
