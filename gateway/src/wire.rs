//! The frames of the WebSocket contract: reads what a client sent, writes what it gets.
//!
//! Owns the JSON texts. Payload bytes go through untouched in both directions; nothing here knows
//! a socket, a limit or a service.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use registry::{RequestId, SessionId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{ErrorCode, Failure};

/// Longest string a client may choose as an id, in bytes of its JSON-decoded form; an integer's
/// digits are bounded alike.
pub const CLIENT_ID_BYTES_MAX: usize = 128;

/// The id by which a client knows its request, kept as the JSON text it is echoed in: `1` and
/// `"1"` differ, `"\u0061"` and `"a"` do not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientId(Arc<str>);

impl ClientId {
    /// Reads a string of at most [`CLIENT_ID_BYTES_MAX`] bytes, or an integer.
    ///
    /// # Errors
    /// `None` for any other JSON text.
    pub fn from_json(json: &str) -> Option<Self> {
        if json.starts_with('"') {
            let text: Cow<'_, str> = serde_json::from_str::<Borrowed<'_>>(json).ok()?.0;
            return (text.len() <= CLIENT_ID_BYTES_MAX).then(|| Self::from_text(&text));
        }
        let digits = json.strip_prefix('-').unwrap_or(json);
        let integer = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        (integer && json.len() <= CLIENT_ID_BYTES_MAX).then(|| Self(json.into()))
    }

    /// The id of a request whose client chose none: its request id, as a string.
    pub fn from_request(id: RequestId) -> Self {
        let mut buffer = [0; 36];
        Self::from_text(id.encode(&mut buffer))
    }

    /// The JSON text.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    fn from_text(text: &str) -> Self {
        let mut json = String::with_capacity(text.len() + 2);
        push_string(&mut json, text);
        Self(json.into())
    }
}

/// A string that is copied only where it holds escapes.
#[derive(Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

/// A request as a client wrote it.
#[derive(Debug)]
pub struct RequestFrame<'a> {
    /// The service's name.
    pub service: Cow<'a, str>,
    /// The client's id, where it chose one.
    pub id: Option<ClientId>,
    /// Kafka record key.
    pub key: Option<Cow<'a, str>>,
    /// The payload's JSON text, byte for byte; `null` when absent.
    pub payload: &'a str,
    /// The client's headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// How long to wait for the reply, in milliseconds; at least 1.
    pub timeout_ms: Option<u64>,
    /// Whether the client wants to hear of the record.
    pub receipt: bool,
}

/// Everything a client may say in this version.
#[derive(Debug)]
pub enum ClientFrame<'a> {
    /// Submit a request.
    Request(RequestFrame<'a>),
    /// End a request that is in flight.
    Cancel(ClientId),
    /// Everything up to this number has arrived.
    Ack(u64),
    /// Are you there?
    Ping(Option<ClientId>),
}

/// Why a message is no frame, with the id to answer to where it has a good one.
#[derive(Debug, PartialEq, Eq)]
pub struct BadFrame {
    /// The frame's id.
    pub id: Option<ClientId>,
    /// What is wrong, for a person.
    pub message: Cow<'static, str>,
}

impl BadFrame {
    fn new(id: Option<ClientId>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { id, message: message.into() }
    }
}

/// The fields of all frames, each left as JSON: so one bad field does not hide the frame's id.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    service: Option<&'a RawValue>,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    headers: Option<&'a RawValue>,
    #[serde(borrow)]
    timeout_ms: Option<&'a RawValue>,
    #[serde(borrow)]
    receipt: Option<&'a RawValue>,
    #[serde(borrow)]
    seq: Option<&'a RawValue>,
}

impl<'a> ClientFrame<'a> {
    /// Reads one message: a JSON object. Unknown fields are ignored; `null` counts as absent.
    ///
    /// # Errors
    /// [`BadFrame`] says what is wrong; nothing of the frame has any effect then.
    pub fn parse(text: &'a str) -> Result<Self, BadFrame> {
        // Serde would read a struct from an array too.
        if !text.trim_ascii_start().starts_with('{') {
            return Err(BadFrame::new(None, "a frame is one JSON object"));
        }
        let fields: Envelope<'a> = serde_json::from_str(text)
            .map_err(|error| BadFrame::new(None, format!("not a JSON object: {error}")))?;
        let id = match fields.id {
            None => None,
            Some(json) => Some(ClientId::from_json(json.get()).ok_or_else(|| {
                BadFrame::new(None, "id is a string of at most 128 bytes or an integer")
            })?),
        };
        let kind = match string_field("type", fields.kind) {
            Ok(kind) => kind,
            Err(message) => return Err(BadFrame::new(id, message)),
        };
        let kind = kind.as_deref().or_else(|| fields.service.map(|_| "request"));
        match kind {
            Some("request") => match fields.into_request(id.clone()) {
                Ok(request) => Ok(Self::Request(request)),
                Err(message) => Err(BadFrame::new(id, message)),
            },
            Some("cancel") => match id {
                Some(id) => Ok(Self::Cancel(id)),
                None => Err(BadFrame::new(None, "cancel needs the id of a request")),
            },
            Some("ack") => match fields.seq.and_then(|json| read_integer(json.get())) {
                Some(seq) => Ok(Self::Ack(seq)),
                None => Err(BadFrame::new(id, "ack needs seq, an integer")),
            },
            Some("ping") => Ok(Self::Ping(id)),
            Some(other) => {
                let shown: String = other.chars().take(32).collect();
                Err(BadFrame::new(id, format!("unknown type {shown:?}")))
            }
            None => Err(BadFrame::new(id, "a frame needs a type or a service")),
        }
    }
}

impl<'a> Envelope<'a> {
    fn into_request(self, id: Option<ClientId>) -> Result<RequestFrame<'a>, Cow<'static, str>> {
        let service =
            string_field("service", self.service)?.ok_or("a request needs a service, a string")?;
        let headers = match self.headers {
            None => Vec::new(),
            Some(json) => serde_json::from_str::<BTreeMap<String, String>>(json.get())
                .map_err(|_| "headers is an object of strings")?
                .into_iter()
                .map(|(mut name, value)| {
                    name.make_ascii_lowercase();
                    (name, value)
                })
                .collect(),
        };
        let receipt = match self.receipt.map(RawValue::get) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err("receipt is true or false".into()),
        };
        Ok(RequestFrame {
            service,
            id,
            key: string_field("key", self.key)?,
            payload: self.payload.map_or("null", RawValue::get),
            headers,
            timeout_ms: self.timeout_ms.map(|json| read_timeout(json.get())).transpose()?,
            receipt,
        })
    }
}

fn string_field<'a>(
    name: &str,
    json: Option<&'a RawValue>,
) -> Result<Option<Cow<'a, str>>, Cow<'static, str>> {
    match json {
        None => Ok(None),
        Some(json) => match serde_json::from_str::<Borrowed<'a>>(json.get()) {
            Ok(Borrowed(text)) => Ok(Some(text)),
            Err(_) => Err(format!("{name} is a string").into()),
        },
    }
}

/// A positive integer; the service's maximum caps it.
fn read_timeout(json: &str) -> Result<u64, Cow<'static, str>> {
    let timeout = read_integer(json).filter(|timeout| *timeout > 0);
    timeout.ok_or_else(|| "timeout_ms is a positive integer".into())
}

/// An integer that is not negative; one that does not fit 64 bits is read as the largest that does.
fn read_integer(json: &str) -> Option<u64> {
    let is_integer = !json.is_empty() && json.bytes().all(|b| b.is_ascii_digit());
    is_integer.then(|| json.parse().unwrap_or(u64::MAX))
}

/// What a service answered, or what a caller gets instead: the part of a reply that goes through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The service's own status, 200–599, where it gave one.
    pub status: Option<u16>,
    /// Header names in lower case, `content-type` among them.
    pub headers: Vec<(Box<str>, Bytes)>,
    /// The bytes as the service wrote them; empty for a Kafka null.
    pub payload: Bytes,
}

impl Reply {
    /// The status to answer with: 200 where the service gave none.
    pub fn status_or_ok(&self) -> u16 {
        self.status.unwrap_or(200)
    }

    /// Whether the service calls this an error.
    pub fn is_error(&self) -> bool {
        self.status_or_ok() >= 400
    }

    /// The service's content type.
    pub fn content_type(&self) -> Option<&Bytes> {
        self.headers.iter().find(|(name, _)| &**name == "content-type").map(|(_, value)| value)
    }

    /// The payload's JSON text, without white space around it; `None` when it is anything else.
    pub fn json(&self) -> Option<&str> {
        serde_json::from_slice::<&RawValue>(&self.payload).ok().map(RawValue::get)
    }
}

/// The first frame on every connection; it has no number.
#[derive(Debug)]
pub struct Welcome<'a> {
    /// The session that has begun.
    pub session: SessionId,
    /// This node.
    pub node: &'a str,
    /// Milliseconds between two WebSocket pings.
    pub ping_interval_ms: u128,
    /// `limits.message_bytes_max`.
    pub max_message_bytes: usize,
    /// `limits.in_flight_per_connection_max`.
    pub max_in_flight: usize,
}

impl Welcome<'_> {
    /// The frame's text. A session ends with its connection in this version, so the window in
    /// which it could be resumed is 0 and there is no token for it.
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(256);
        out.push_str(r#"{"type":"welcome","session":""#);
        push_display(&mut out, self.session);
        out.push_str(r#"","resume":null,"resumed":false,"node":"#);
        push_string(&mut out, self.node);
        out.push_str(r#","user":null,"ping_interval_ms":"#);
        push_display(&mut out, self.ping_interval_ms);
        out.push_str(r#","resume_window_ms":0,"max_message_bytes":"#);
        push_display(&mut out, self.max_message_bytes);
        out.push_str(r#","max_in_flight":"#);
        push_display(&mut out, self.max_in_flight);
        out.push('}');
        out
    }
}

/// What a session's client is told, in order.
#[derive(Clone, Debug)]
pub enum Frame {
    /// The broker has recorded the request.
    Receipt {
        /// Which request, by the client's id.
        id: ClientId,
        /// Which request, by ours.
        request: RequestId,
        /// The service's request topic.
        topic: Arc<str>,
        /// Partition of the topic.
        partition: i32,
        /// Offset within the partition.
        offset: i64,
    },
    /// The request's answer.
    Response {
        /// Which request, by the client's id.
        id: ClientId,
        /// Which request, by ours.
        request: RequestId,
        /// What the service answered.
        reply: Reply,
    },
    /// A request that ended without an answer, or a frame that could not be read.
    Error {
        /// Which request, by the client's id.
        id: Option<ClientId>,
        /// Which request, by ours.
        request: Option<RequestId>,
        /// What went wrong.
        failure: Failure,
        /// The service's own words on a `service_error`.
        reply: Option<Reply>,
    },
    /// Here I am. The only frame that has no number.
    Pong {
        /// What the ping named.
        id: Option<ClientId>,
    },
}

impl Frame {
    /// Whether the frame takes a number of its session's sequence.
    pub const fn is_numbered(&self) -> bool {
        !matches!(self, Self::Pong { .. })
    }

    /// Bytes that the frame is counted with while it waits: payload and headers, and a flat amount
    /// for the rest.
    pub fn weight(&self) -> usize {
        const ENVELOPE: usize = 256;
        let reply = match self {
            Self::Response { reply, .. } => Some(reply),
            Self::Error { reply, .. } => reply.as_ref(),
            Self::Receipt { .. } | Self::Pong { .. } => None,
        };
        let weight = |reply: &Reply| {
            let headers: usize = reply.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
            headers + reply.payload.len()
        };
        ENVELOPE + reply.map_or(0, weight)
    }

    /// The frame's text. `seq` is ignored where the frame has no number.
    pub fn render(&self, seq: u64) -> String {
        let mut out = String::with_capacity(self.weight());
        match self {
            Self::Receipt { id, request, topic, partition, offset } => {
                open(&mut out, "receipt", seq, Some(id), Some(*request));
                out.push_str(r#","topic":"#);
                push_string(&mut out, topic);
                out.push_str(r#","partition":"#);
                push_display(&mut out, partition);
                out.push_str(r#","offset":"#);
                push_display(&mut out, offset);
            }
            Self::Response { id, request, reply } => {
                open(&mut out, "response", seq, Some(id), Some(*request));
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
    } else {
        out.push('"');
        BASE64.encode_string(&reply.payload, out);
        out.push_str(r#"","encoding":"base64""#);
    }
}

/// Appends a JSON string.
fn push_string(out: &mut String, text: &str) {
    let plain = |b: u8| b >= 0x20 && b != b'"' && b != b'\\';
    if text.bytes().all(plain) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// Appends a number or an id.
fn push_display(out: &mut String, value: impl std::fmt::Display) {
    use std::fmt::Write;
    write!(out, "{value}").expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests;
