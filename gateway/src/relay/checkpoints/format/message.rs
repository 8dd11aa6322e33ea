//! How a request in flight and a frame are written for a session's next owner: messages of numbered
//! fields, as those of [`crate::peer::format`], under the same rules.
//!
//! Owns the numbers and the conversions. If a message contains something that this version does not
//! know, the whole of it counts as unreadable, because it is somebody's request or answer.

use std::time::Duration;

use prost::{Message, Oneof};
use registry::RequestId;

use super::{Letter, RequestDetail, Stored, millis};
use crate::{
    error::{ErrorCode, Failure},
    peer::format::{Id, Reply},
    wire::{self, ClientId},
};

/// A request in flight.
#[derive(Clone, PartialEq, Message)]
pub(in crate::relay) struct Detail {
    /// The client's id, as JSON text.
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    digest: Option<Id>,
    #[prost(string, tag = "3")]
    service: String,
    #[prost(uint64, tag = "4")]
    age_ms: u64,
    #[prost(uint64, tag = "5")]
    left_ms: u64,
    #[prost(bool, tag = "6")]
    receipt: bool,
    #[prost(message, optional, tag = "7")]
    position: Option<Position>,
    #[prost(uint32, optional, tag = "8")]
    parts: Option<u32>,
    #[prost(message, optional, tag = "9")]
    last_part: Option<Position>,
}

/// Where the broker has recorded a request.
#[derive(Clone, Copy, PartialEq, Message)]
struct Position {
    #[prost(int32, tag = "1")]
    partition: i32,
    #[prost(int64, tag = "2")]
    offset: i64,
}

/// A frame. If its kind is not known, it has none of these.
#[derive(Clone, PartialEq, Message)]
pub(in crate::relay) struct Frame {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Receipt(Receipt),
    #[prost(message, tag = "2")]
    Response(Response),
    #[prost(message, tag = "3")]
    Error(Error),
    #[prost(message, tag = "4")]
    Pong(Pong),
    #[prost(message, tag = "5")]
    Part(Response),
    /// A reply as it was read.
    #[prost(message, tag = "6")]
    Reply(Arrived),
}

#[derive(Clone, PartialEq, Message)]
struct Receipt {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    request: Option<Id>,
    #[prost(string, tag = "3")]
    topic: String,
    #[prost(message, optional, tag = "4")]
    position: Option<Position>,
    #[prost(bool, tag = "5")]
    is_deletable: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    request: Option<Id>,
    #[prost(message, optional, tag = "3")]
    reply: Option<Reply>,
}

#[derive(Clone, PartialEq, Message)]
struct Arrived {
    #[prost(message, optional, tag = "1")]
    request: Option<Id>,
    #[prost(message, optional, tag = "2")]
    reply: Option<Reply>,
}

#[derive(Clone, PartialEq, Message)]
struct Error {
    /// Empty if there is none: no JSON text is empty.
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    request: Option<Id>,
    /// As clients see it: its names are not changed either.
    #[prost(string, tag = "3")]
    code: String,
    #[prost(string, tag = "4")]
    message: String,
    #[prost(bool, tag = "5")]
    recorded: bool,
    #[prost(uint64, optional, tag = "6")]
    retry_after_ms: Option<u64>,
    #[prost(message, optional, tag = "7")]
    reply: Option<Reply>,
}

#[derive(Clone, PartialEq, Message)]
struct Pong {
    #[prost(string, tag = "1")]
    id: String,
}

impl Stored for RequestDetail {
    type Message = Detail;

    fn write(&self) -> Detail {
        let position = self.position.map(|(partition, offset)| Position { partition, offset });
        Detail {
            id: self.id.as_json().to_owned(),
            digest: Some(self.digest.into()),
            service: (&*self.service).into(),
            age_ms: self.age_ms,
            left_ms: self.left_ms,
            receipt: self.receipt,
            position,
            parts: self.parts,
            last_part: self.last_part.map(|(partition, offset)| Position { partition, offset }),
        }
    }

    fn read(detail: Detail) -> Option<Self> {
        Some(Self {
            id: ClientId::from_json(&detail.id)?,
            digest: detail.digest?.into(),
            service: detail.service.into(),
            age_ms: detail.age_ms,
            left_ms: detail.left_ms,
            receipt: detail.receipt,
            position: detail.position.map(|Position { partition, offset }| (partition, offset)),
            parts: detail.parts,
            last_part: detail.last_part.map(|Position { partition, offset }| (partition, offset)),
        })
    }
}

impl Stored for wire::Frame {
    type Message = Frame;

    fn write(&self) -> Frame {
        let id_of = |id: &Option<ClientId>| id.as_ref().map_or("", ClientId::as_json).to_owned();
        let kind = match self {
            Self::Receipt { id, request, topic, partition, offset, is_deletable } => {
                Kind::Receipt(Receipt {
                    id: id.as_json().to_owned(),
                    request: Some((*request).into()),
                    topic: (&**topic).into(),
                    position: Some(Position { partition: *partition, offset: *offset }),
                    is_deletable: *is_deletable,
                })
            }
            Self::Response { id, request, reply } => {
                Kind::Response(write_response(id, *request, reply))
            }
            Self::Part { id, request, reply } => Kind::Part(write_response(id, *request, reply)),
            Self::Error { id, request, failure, reply } => Kind::Error(Error {
                id: id_of(id),
                request: request.map(Id::from),
                code: failure.code.as_str().to_owned(),
                message: failure.message.clone().into_owned(),
                recorded: failure.recorded,
                retry_after_ms: failure.retry_after.map(millis),
                reply: reply.as_ref().map(Reply::from),
            }),
            Self::Pong { id } => Kind::Pong(Pong { id: id_of(id) }),
        };
        Frame { kind: Some(kind) }
    }

    fn read(frame: Frame) -> Option<Self> {
        match frame.kind? {
            Kind::Receipt(Receipt { id, request, topic, position, is_deletable }) => {
                let Position { partition, offset } = position?;
                let (id, request) = (ClientId::from_json(&id)?, request?.into());
                let topic = topic.into();
                Some(Self::Receipt { id, request, topic, partition, offset, is_deletable })
            }
            Kind::Response(response) => {
                let (id, request, reply) = read_response(response)?;
                Some(Self::Response { id, request, reply })
            }
            Kind::Part(part) => {
                let (id, request, reply) = read_response(part)?;
                Some(Self::Part { id, request, reply })
            }
            Kind::Error(error) => read_error(error),
            Kind::Reply(_) => None,
            Kind::Pong(Pong { id }) => Some(Self::Pong { id: read_id(&id)? }),
        }
    }
}

impl Stored for Letter {
    type Message = Frame;

    fn write(&self) -> Frame {
        match self {
            Self::Frame(frame) => frame.write(),
            Self::Reply(request, reply) => {
                let (request, reply) = (Some((*request).into()), Some(reply.into()));
                Frame { kind: Some(Kind::Reply(Arrived { request, reply })) }
            }
        }
    }

    fn read(frame: Frame) -> Option<Self> {
        match frame.kind {
            Some(Kind::Reply(Arrived { request, reply })) => {
                Some(Self::Reply(request?.into(), reply?.into()))
            }
            kind => wire::Frame::read(Frame { kind }).map(Self::Frame),
        }
    }
}

fn write_response(id: &ClientId, request: RequestId, reply: &wire::Reply) -> Response {
    let id = id.as_json().to_owned();
    Response { id, request: Some(request.into()), reply: Some(reply.into()) }
}

fn read_response(response: Response) -> Option<(ClientId, RequestId, wire::Reply)> {
    let Response { id, request, reply } = response;
    Some((ClientId::from_json(&id)?, request?.into(), reply?.into()))
}

fn read_error(error: Error) -> Option<wire::Frame> {
    let Error { id, request, code, message, recorded, retry_after_ms, reply } = error;
    // To this node an unknown code only means that something went wrong.
    let known = ErrorCode::ALL.into_iter().find(|known| known.as_str() == code);
    let failure = Failure {
        code: known.unwrap_or(ErrorCode::Internal),
        message: message.into(),
        recorded,
        retry_after: retry_after_ms.map(Duration::from_millis),
    };
    let (id, request) = (read_id(&id)?, request.map(Into::into));
    Some(wire::Frame::Error { id, request, failure, reply: reply.map(Into::into) })
}

/// An optional id; `None` also if the bytes are no id.
fn read_id(json: &str) -> Option<Option<ClientId>> {
    match json {
        "" => Some(None),
        json => ClientId::from_json(json).map(Some),
    }
}

#[cfg(test)]
mod tests;
