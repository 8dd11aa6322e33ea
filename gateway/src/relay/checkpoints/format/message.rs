//! How a request in flight and a frame are written for a session's next owner: messages of numbered
//! fields, as those of [`crate::peer::format`], under the same rules.
//!
//! Owns the numbers and the conversions. If a message contains something that this version does not
//! know, the whole of it counts as unreadable, because it is somebody's request or answer.

use std::time::Duration;

use prost::{Message, Oneof};

use super::{RequestDetail, Stored, millis};
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
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4")]
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
            Self::Response { id, request, reply } => Kind::Response(Response {
                id: id.as_json().to_owned(),
                request: Some((*request).into()),
                reply: Some(reply.into()),
            }),
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
            Kind::Response(Response { id, request, reply }) => Some(Self::Response {
                id: ClientId::from_json(&id)?,
                request: request?.into(),
                reply: reply?.into(),
            }),
            Kind::Error(error) => read_error(error),
            Kind::Pong(Pong { id }) => Some(Self::Pong { id: read_id(&id)? }),
        }
    }
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
