//! The frames of the WebSocket contract: [`inbound`] reads what a client sent, and [`outbound`]
//! writes what it gets. This file has what both need.
//!
//! Owns the JSON texts. Payload bytes go through untouched in both directions; nothing here knows
//! a socket, a limit or a service.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use registry::RequestId;
use serde::Deserialize;
use serde_json::value::RawValue;

pub mod inbound;
pub mod outbound;

pub use inbound::{BadFrame, ClientFrame, RequestFrame};
pub use outbound::{Frame, Welcome};

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

/// What a record of the reply topic is: where it was read, and which part of an answer it says that it
/// is. Tells records for one request apart, wherever they are: on the way, with a peer, owed to a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// Its partition and offset, if they are known.
    pub source: Option<(i32, i64)>,
    /// It is this part of a streamed answer; the first one is 0.
    pub part: Option<u32>,
    /// The answer is complete, and has so many parts.
    pub end: Option<u32>,
    /// NestJS's mark of the last record of an answer.
    pub is_disposed: bool,
}

impl Item {
    /// Whether the record says that it is one of several.
    pub fn is_of_a_stream(&self) -> bool {
        self.part.is_some() || self.end.is_some() || self.is_disposed
    }
}

/// The content of a service's answer, or of a part of it, in the form in which it passes through the
/// gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The service's own status, 200–599, where it gave one.
    pub status: Option<u16>,
    /// Header names in lower case, `content-type` among them.
    pub headers: Vec<(Box<str>, Bytes)>,
    /// The bytes as the service wrote them; empty for a Kafka null.
    pub payload: Bytes,
    /// Which record it is, and which part of the answer.
    pub item: Item,
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

    /// This reply with only those of its headers that pass.
    pub fn passing(&self, passes: impl Fn(&str) -> bool) -> Self {
        let headers = self.headers.iter().filter(|(name, _)| passes(name)).cloned().collect();
        Self { status: self.status, headers, payload: self.payload.clone(), item: self.item }
    }

    /// Bytes of its payload and headers.
    pub fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len());
        self.payload.len() + headers.sum::<usize>()
    }

    /// The payload's JSON text, without white space around it; `None` when it is anything else.
    pub fn json(&self) -> Option<&str> {
        serde_json::from_slice::<&RawValue>(&self.payload).ok().map(RawValue::get)
    }
}

/// Appends a JSON string. Line and paragraph separators are escaped too: JSON does not ask for it,
/// but not everything that reads lines knows that they end none.
fn push_string(out: &mut String, text: &str) {
    use std::fmt::Write;
    out.push('"');
    let mut rest = text;
    let special = |c: char| c < ' ' || matches!(c, '"' | '\\' | '\u{2028}' | '\u{2029}');
    while let Some(at) = rest.find(special) {
        let (plain, from) = rest.split_at(at);
        out.push_str(plain);
        let mut chars = from.chars();
        match chars.next() {
            Some(c @ ('"' | '\\')) => out.extend(['\\', c]),
            Some('\n') => out.push_str("\\n"),
            Some('\r') => out.push_str("\\r"),
            Some('\t') => out.push_str("\\t"),
            Some(c) => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("writing to a String cannot fail");
            }
            None => break,
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    out.push('"');
}

#[cfg(test)]
mod tests;
