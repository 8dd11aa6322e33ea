//! Reads what a client sent: one JSON object per message.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Borrowed, CLIENT_ID_BYTES_MAX, ClientId};

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
    /// The client asks for a sign of life.
    Ping(Option<ClientId>),
}

/// Why a message is no frame, with the frame's id if it has a good one, for the answer.
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

/// The fields of all frames, each left as JSON, so that one bad field does not hide the frame's id.
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
            Some(json) => Some(ClientId::from_json(json.get()).ok_or_else(|| bad_id(json.get()))?),
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
            Some("ack") => match fields.seq.and_then(|json| read_seq(json.get())) {
                Some(seq) => Ok(Self::Ack(seq)),
                None => Err(BadFrame::new(id, "ack needs seq, an unsigned integer of 64 bits")),
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

/// The number of a frame; one that does not fit 64 bits is none.
fn read_seq(json: &str) -> Option<u64> {
    json.bytes().all(|b| b.is_ascii_digit()).then(|| json.parse().ok()).flatten()
}

/// An integer that is not negative; one that does not fit 64 bits is read as the largest that does.
fn read_integer(json: &str) -> Option<u64> {
    let is_integer = !json.is_empty() && json.bytes().all(|b| b.is_ascii_digit());
    is_integer.then(|| json.parse().unwrap_or(u64::MAX))
}

fn bad_id(json: &str) -> BadFrame {
    let message = format!("id is a string or an integer of at most {CLIENT_ID_BYTES_MAX} bytes");
    match json.len() {
        length if length > CLIENT_ID_BYTES_MAX => {
            BadFrame::new(None, format!("{message}; this one has {length} in JSON"))
        }
        _ => BadFrame::new(None, message),
    }
}
