//! Writes what a client gets: one JSON object per message.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use registry::{RequestId, SessionId};

use super::{ClientId, Reply, push_string};
use crate::error::{ErrorCode, Failure};

/// The first frame on every connection; it has no number.
#[derive(Debug)]
pub struct Welcome<'a> {
    /// The session that has begun, or goes on.
    pub session: SessionId,
    /// The secret that resumes it.
    pub resume: &'a str,
    /// Whether an earlier session goes on, with nothing missing.
    pub resumed: bool,
    /// Whether the session is reliable: its client acknowledges frames.
    pub reliable: bool,
    /// This node.
    pub node: &'a str,
    /// Milliseconds between two WebSocket pings.
    pub ping_interval_ms: u128,
    /// Milliseconds for which the session lives without a connection.
    pub resume_window_ms: u128,
    /// `limits.message_bytes_max`.
    pub max_message_bytes: usize,
    /// `limits.in_flight_per_connection_max`.
    pub max_in_flight: usize,
}

impl Welcome<'_> {
    /// The frame's text.
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(320);
        out.push_str(r#"{"type":"welcome","session":""#);
        push_display(&mut out, self.session);
        out.push_str(r#"","resume":"#);
        push_string(&mut out, self.resume);
        out.push_str(if self.resumed { r#","resumed":true"# } else { r#","resumed":false"# });
        out.push_str(if self.reliable { r#","reliable":true"# } else { r#","reliable":false"# });
        out.push_str(r#","node":"#);
        push_string(&mut out, self.node);
        out.push_str(r#","user":null,"ping_interval_ms":"#);
        push_display(&mut out, self.ping_interval_ms);
        out.push_str(r#","resume_window_ms":"#);
        push_display(&mut out, self.resume_window_ms);
        out.push_str(r#","max_message_bytes":"#);
        push_display(&mut out, self.max_message_bytes);
        out.push_str(r#","max_in_flight":"#);
        push_display(&mut out, self.max_in_flight);
        out.push('}');
        out
    }
}

/// The frames of a session, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The broker has recorded the request.
    Receipt {
        /// The request, by the client's id.
        id: ClientId,
        /// The request, by the gateway's id.
        request: RequestId,
        /// The service's request topic.
        topic: Arc<str>,
        /// Partition of the topic.
        partition: i32,
        /// Offset within the partition.
        offset: i64,
        /// Whether the record can be deleted, by the GUID that the request's id is.
        is_deletable: bool,
    },
    /// A part of the request's answer, as [`Item::part`](super::Item) of its reply says.
    Part {
        /// The request, by the client's id.
        id: ClientId,
        /// The request, by the gateway's id.
        request: RequestId,
        /// What the service wrote.
        reply: Reply,
    },
    /// The request's answer, or what ends it after its parts.
    Response {
        /// The request, by the client's id.
        id: ClientId,
        /// The request, by the gateway's id.
        request: RequestId,
        /// What the service answered.
        reply: Reply,
    },
    /// A request that ended without an answer, or a frame that could not be read.
    Error {
        /// The request, by the client's id.
        id: Option<ClientId>,
        /// The request, by the gateway's id.
        request: Option<RequestId>,
        /// What went wrong.
        failure: Failure,
        /// The service's own words on a `service_error`.
        reply: Option<Reply>,
    },
    /// The answer to a ping. The only frame without a number.
    Pong {
        /// The value in the ping.
        id: Option<ClientId>,
    },
}

impl Frame {
    /// Drops the service's headers that may not pass.
    pub fn keep_headers(&mut self, passes: impl Fn(&str) -> bool) {
        if let Self::Part { reply, .. }
        | Self::Response { reply, .. }
        | Self::Error { reply: Some(reply), .. } = self
        {
            reply.headers.retain(|(name, _)| passes(name));
        }
    }

    /// Bytes that every frame is counted with, beside its payload and headers.
    pub const ENVELOPE_BYTES: usize = 256;

    /// Whether the frame takes a number of its session's sequence.
    pub const fn is_numbered(&self) -> bool {
        !matches!(self, Self::Pong { .. })
    }

    /// The request that the frame ends.
    pub const fn ends(&self) -> Option<RequestId> {
        match self {
            Self::Response { request, .. } => Some(*request),
            Self::Error { request, .. } => *request,
            Self::Receipt { .. } | Self::Part { .. } | Self::Pong { .. } => None,
        }
    }

    /// The reply that the frame carries.
    pub const fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Part { reply, .. } | Self::Response { reply, .. } => Some(reply),
            Self::Error { reply, .. } => reply.as_ref(),
            Self::Receipt { .. } | Self::Pong { .. } => None,
        }
    }

    /// The request of which it is a part, and which.
    pub const fn part(&self) -> Option<(RequestId, u32)> {
        match self {
            Self::Part { request, reply, .. } => match reply.item.part {
                Some(index) => Some((*request, index)),
                None => None,
            },
            _ => None,
        }
    }

    /// The request that was refused, by the client's id.
    pub const fn refuses(&self) -> Option<&ClientId> {
        match self {
            // These two codes are about a request that was taken before, or about none.
            Self::Error { id: Some(id), request: None, failure, .. }
                if !matches!(failure.code, ErrorCode::Duplicate | ErrorCode::NotFound) =>
            {
                Some(id)
            }
            _ => None,
        }
    }

    /// The request whose receipt it is, and where the broker has recorded it: partition and offset.
    pub const fn receipt(&self) -> Option<(RequestId, (i32, i64))> {
        match self {
            Self::Receipt { request, partition, offset, .. } => {
                Some((*request, (*partition, *offset)))
            }
            _ => None,
        }
    }

    /// Bytes that the frame is counted with while it waits: payload and headers, and a flat amount
    /// for the rest.
    pub fn weight(&self) -> usize {
        Self::ENVELOPE_BYTES + self.reply().map_or(0, Reply::bytes)
    }

    /// The frame's text. `seq` is ignored where the frame has no number.
    pub fn render(&self, seq: u64) -> String {
        let mut out = String::with_capacity(self.weight());
        match self {
            Self::Receipt { id, request, topic, partition, offset, is_deletable } => {
                open(&mut out, "receipt", seq, Some(id), Some(*request));
                out.push_str(r#","topic":"#);
                push_string(&mut out, topic);
                out.push_str(r#","partition":"#);
                push_display(&mut out, partition);
                out.push_str(r#","offset":"#);
                push_display(&mut out, offset);
                if *is_deletable {
                    out.push_str(r#","guid":""#);
                    out.push_str(request.encode(&mut [0; 36]));
                    out.push('"');
                }
            }
            Self::Part { id, request, reply } => {
                open(&mut out, "part", seq, Some(id), Some(*request));
                out.push_str(r#","index":"#);
                push_display(&mut out, reply.item.part.unwrap_or_default());
                push_content(&mut out, reply);
            }
            Self::Response { id, request, reply } => {
                open(&mut out, "response", seq, Some(id), Some(*request));
                if let Some(parts) = reply.item.end.filter(|parts| *parts > 0) {
                    out.push_str(r#","parts":"#);
                    push_display(&mut out, parts);
                }
                push_reply(&mut out, reply.status_or_ok(), reply);
            }
            Self::Error { id, request, failure, reply } => {
                open(&mut out, "error", seq, id.as_ref(), *request);
                push_failure(&mut out, failure);
                if let Some(reply) = reply {
                    let status = reply.status.unwrap_or(ErrorCode::ServiceError.status());
                    push_reply(&mut out, status, reply);
                }
            }
            Self::Pong { id } => {
                out.push_str(r#"{"type":"pong""#);
                push_id(&mut out, id.as_ref());
            }
        }
        out.push('}');
        out
    }
}

fn open(out: &mut String, kind: &str, seq: u64, id: Option<&ClientId>, request: Option<RequestId>) {
    out.push_str(r#"{"type":""#);
    out.push_str(kind);
    out.push_str(r#"","seq":"#);
    push_display(out, seq);
    push_id(out, id);
    if let Some(request) = request {
        out.push_str(r#","request_id":""#);
        out.push_str(request.encode(&mut [0; 36]));
        out.push('"');
    }
}

fn push_id(out: &mut String, id: Option<&ClientId>) {
    if let Some(id) = id {
        out.push_str(r#","id":"#);
        out.push_str(id.as_json());
    }
}

fn push_failure(out: &mut String, failure: &Failure) {
    out.push_str(r#","code":""#);
    out.push_str(failure.code.as_str());
    out.push_str(r#"","message":"#);
    push_string(out, &failure.message);
    out.push_str(if failure.code.is_retryable() {
        r#","retryable":true"#
    } else {
        r#","retryable":false"#
    });
    out.push_str(if failure.recorded { r#","recorded":true"# } else { r#","recorded":false"# });
    if let Some(after) = failure.retry_after {
        out.push_str(r#","retry_after_ms":"#);
        push_display(out, after.as_millis().max(1));
    }
}

fn push_reply(out: &mut String, status: u16, reply: &Reply) {
    out.push_str(r#","status":"#);
    push_display(out, status);
    push_content(out, reply);
}

/// Appends a reply's headers and its payload.
fn push_content(out: &mut String, reply: &Reply) {
    if !reply.headers.is_empty() {
        out.push_str(r#","headers":{"#);
        for (at, (name, _)) in reply.headers.iter().enumerate() {
            // A name that comes several times is one member, its values joined as HTTP joins them.
            if reply.headers[..at].iter().any(|(before, _)| before == name) {
                continue;
            }
            if at > 0 {
                out.push(',');
            }
            push_string(out, name);
            out.push(':');
            let values = reply.headers.iter().filter(|(other, _)| other == name);
            let values: Vec<_> = values.map(|(_, value)| String::from_utf8_lossy(value)).collect();
            push_string(out, &values.join(", "));
        }
        out.push('}');
    }
    out.push_str(r#","payload":"#);
    if reply.payload.is_empty() {
        out.push_str("null");
    } else if let Some(json) = reply.json() {
        out.push_str(json);
    } else if let Ok(text) = str::from_utf8(&reply.payload) {
        push_string(out, text);
        out.push_str(r#","encoding":"text""#);
    } else {
        out.push('"');
        BASE64.encode_string(&reply.payload, out);
        out.push_str(r#"","encoding":"base64""#);
    }
}

/// Appends a number or an id.
fn push_display(out: &mut String, value: impl std::fmt::Display) {
    use std::fmt::Write;
    write!(out, "{value}").expect("writing to a String cannot fail");
}
