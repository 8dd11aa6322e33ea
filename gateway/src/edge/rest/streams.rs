//! A streamed reply over HTTP: server-sent events, lines of JSON, or one JSON array at the end,
//! whichever the caller accepts.

use std::{io, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Response, header};
use serde::Serialize;
use serde_json::value::RawValue;
use warp::{Reply as _, reply::Response as WarpResponse};

use super::super::{Answer, problem};
use super::answers::answer_of;
use crate::{
    error::{ErrorCode, Failure},
    relay::requests::{
        call::WaitingCall,
        caller::Arrival,
        outcome::failure_of,
        pending::{Answer as Parked, Outcome},
    },
    wire::Reply,
};

/// How long a caller hears nothing before a comment shows that the stream goes on: proxies close
/// connections on which nothing comes.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The form in which a caller gets the parts of a streamed reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `text/event-stream`: one event for each part, then `end` or `error`.
    Events,
    /// `application/x-ndjson`: one line for each part.
    Lines,
    /// A JSON array, once the stream has ended.
    Array,
}

impl Form {
    /// What the caller accepts (RFC 9110, section 12.5.1): events or lines if they are named, the first
    /// of the two where neither is preferred.
    pub(super) fn accepted(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
        let ranges = lines.flat_map(|line| line.split(',')).filter_map(|range| {
            let mut words = range.split(';').map(str::trim);
            let form = match words.next()?.to_ascii_lowercase().as_str() {
                "text/event-stream" => Self::Events,
                "application/x-ndjson" | "application/ndjson" => Self::Lines,
                _ => return None,
            };
            let quality = words.find_map(|word| {
                word.strip_prefix("q=").or_else(|| word.strip_prefix("Q=")).map(str::trim)
            });
            let quality: f32 = quality.map_or(Some(1.0), |quality| quality.parse().ok())?;
            (quality > 0.0).then_some((form, quality))
        });
        let best = ranges.reduce(|best, next| if next.1 > best.1 { next } else { best });
        best.map_or(Self::Array, |(form, _)| form)
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::Events => "text/event-stream",
            Self::Lines => "application/x-ndjson",
            Self::Array => "application/json",
        }
    }
}

/// The end of a stream, as the event `end` tells it.
#[derive(Serialize)]
struct End<'a> {
    parts: u32,
    status: u16,
    payload: &'a RawValue,
}

/// The answer that hands on parts as they come, beginning with this one.
pub(super) fn streamed(call: WaitingCall, first: &Reply, form: Form) -> WarpResponse {
    let first = Bytes::from(written(first, form));
    let rest = stream::unfold(Some(call), move |call| next(call, form));
    let all = futures_util::StreamExt::chain(stream::iter([Ok(first)]), rest);
    let mut answer = warp::reply::stream(all).into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Nginx gathers answers otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    answer
}

/// The next bytes of a stream. When it cannot be completed, events say so; lines break off without the
/// last chunk, so that nobody takes them for complete (RFC 9112, section 8).
async fn next(
    call: Option<WaitingCall>,
    form: Form,
) -> Option<(io::Result<Bytes>, Option<WaitingCall>)> {
    let mut call = call?;
    let Ok(arrival) = tokio::time::timeout(KEEP_ALIVE, call.next()).await else {
        // An empty line is no line of JSON, and readers of them pass over it.
        let sign: &[u8] = if form == Form::Events { b": \n\n" } else { b"\n" };
        return Some((Ok(Bytes::from_static(sign)), Some(call)));
    };
    let request = call.request();
    match arrival {
        Arrival::Part(part) => Some((Ok(written(&part, form).into()), Some(call))),
        Arrival::Answer(answer) => {
            let lost = || Failure::new(ErrorCode::Internal, "the request was lost").recorded(true);
            let outcome = answer.map_or_else(|| Outcome::Failure(lost()), |answer| answer.outcome);
            match (failure_of(&outcome), outcome, form) {
                (None, Outcome::Reply(reply), Form::Events) => {
                    let json = json_of(&reply);
                    let payload = RawValue::from_string(json).unwrap_or_default();
                    let end = End {
                        parts: reply.item.end.unwrap_or_default(),
                        status: reply.status_or_ok(),
                        payload: &payload,
                    };
                    let end = serde_json::to_string(&end).expect("plain data is always JSON");
                    Some((Ok(event(Some("end"), &end).into()), None))
                }
                (None, ..) => None,
                (Some(failure), outcome, Form::Events) => {
                    let problem = match outcome {
                        Outcome::Reply(_) => answer_of(outcome, request),
                        Outcome::Failure(_) => problem(&failure, Some(request)),
                    };
                    let text = String::from_utf8_lossy(problem.body()).into_owned();
                    Some((Ok(event(Some("error"), &text).into()), None))
                }
                (Some(failure), ..) => {
                    tracing::debug!(%request, code = failure.code.as_str(), "stream broken off");
                    Some((Err(io::Error::other(failure.message.into_owned())), None))
                }
            }
        }
    }
}

/// A part as its caller reads it.
fn written(part: &Reply, form: Form) -> String {
    match form {
        Form::Events => event(None, &text_of(part)),
        Form::Lines | Form::Array => {
            let mut line = json_of(part);
            // JSON text has line ends between its tokens alone.
            if line.contains(['\n', '\r']) {
                line = line.replace(['\n', '\r'], " ");
            }
            line.push('\n');
            line
        }
    }
}

/// An event of a stream (WHATWG HTML, section 9.2).
fn event(name: Option<&str>, data: &str) -> String {
    let mut text = String::with_capacity(data.len() + 32);
    if let Some(name) = name {
        text.extend(["event: ", name, "\n"]);
    }
    for line in data.replace("\r\n", "\n").split(['\n', '\r']) {
        text.extend(["data: ", line, "\n"]);
    }
    text.push('\n');
    text
}

/// A payload as text: as it is, or in base64 where it is none.
fn text_of(reply: &Reply) -> String {
    match str::from_utf8(&reply.payload) {
        Ok(text) => text.to_owned(),
        Err(_) => BASE64.encode(&reply.payload),
    }
}

/// A payload as JSON: as it is, or as a string of its text, or of its bytes in base64.
fn json_of(reply: &Reply) -> String {
    if reply.payload.is_empty() {
        return "null".to_owned();
    }
    reply.json().map_or_else(
        || serde_json::to_string(&text_of(reply)).expect("a text is always JSON"),
        str::to_owned,
    )
}

/// Waits for the whole of a stream; its parts are the elements of an array.
pub(super) async fn gathered(
    call: &mut WaitingCall,
    first: &Reply,
    bytes_max: usize,
) -> Result<Answer, Option<Parked>> {
    let mut array = vec![b'['];
    array.extend(json_of(first).into_bytes());
    loop {
        match call.next().await {
            Arrival::Part(part) => {
                array.push(b',');
                array.extend(json_of(&part).into_bytes());
                if array.len() > bytes_max {
                    let message = format!(
                        "limits.stream_bytes_max is {bytes_max}, too little for all parts in one \
                         array: accept text/event-stream or application/x-ndjson"
                    );
                    let failure = Failure::new(ErrorCode::TooLarge, message).recorded(true);
                    return Ok(problem(&failure, Some(call.request())));
                }
            }
            Arrival::Answer(Some(answer)) if failure_of(&answer.outcome).is_none() => {
                array.push(b']');
                let mut answer = Response::new(array);
                let media_type = HeaderValue::from_static(Form::Array.media_type());
                answer.headers_mut().insert(header::CONTENT_TYPE, media_type);
                return Ok(answer);
            }
            Arrival::Answer(answer) => return Err(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(accept: &'static [&'static str]) -> Form {
        let mut headers = HeaderMap::new();
        for line in accept {
            headers.append(header::ACCEPT, HeaderValue::from_static(line));
        }
        Form::accepted(&headers)
    }

    #[test]
    fn a_form_is_taken_where_it_is_named() {
        for accept in [&["text/event-stream"][..], &["*/*, Text/Event-Stream;q=0.5"]] {
            assert_eq!(form(accept), Form::Events, "{accept:?}");
        }
        for accept in [
            &["application/x-ndjson"][..],
            &["text/event-stream;q=0.1", "application/x-ndjson; q=0.2"],
            &["text/event-stream;q=0, application/x-ndjson"],
        ] {
            assert_eq!(form(accept), Form::Lines, "{accept:?}");
        }
        for accept in [&[][..], &["*/*"], &["application/json"], &["text/event-stream;q=0"]] {
            assert_eq!(form(accept), Form::Array, "{accept:?}");
        }
    }

    fn part(payload: &'static [u8]) -> Reply {
        Reply { payload: Bytes::from_static(payload), ..Reply::default() }
    }

    #[test]
    fn a_part_is_one_event_or_one_line() {
        let lines = |payload| written(&part(payload), Form::Lines);
        let events = |payload| written(&part(payload), Form::Events);
        assert_eq!(lines(b"{\"a\":\n1}"), "{\"a\": 1}\n");
        assert_eq!(lines(b"a\n\"b"), "\"a\\n\\\"b\"\n");
        assert_eq!(lines(b""), "null\n");
        assert_eq!(lines(b"\xff"), "\"/w==\"\n");
        assert_eq!(events(b"{\"a\":1}"), "data: {\"a\":1}\n\n");
        assert_eq!(events(b"a\nb\r\nc\rd"), "data: a\ndata: b\ndata: c\ndata: d\n\n");
        assert_eq!(events(b""), "data: \n\n");
        assert_eq!(event(Some("end"), "{}"), "event: end\ndata: {}\n\n");
    }
}
