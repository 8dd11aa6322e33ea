//! How a session that is handed over is written: messages of numbered fields, as those of
//! [`crate::peer::format`], under the same rules.
//!
//! Owns the numbers and the conversions. An answer that this version does not know, even in part,
//! counts as unreadable: then the session's checkpoint is used.

use prost::{Enumeration, Message};
use registry::{Progress, RequestId};

use super::Answer;
use crate::{
    peer::format::Id,
    relay::{
        checkpoints::{
            Snapshot,
            format::{
                RequestDetail, Stored,
                message::{Detail, Frame},
            },
        },
        session::Unparked,
    },
    wire,
};

/// The answer of an owner that is asked for a session.
#[derive(Clone, PartialEq, Message)]
pub(in crate::relay) struct AnswerPart {
    #[prost(enumeration = "Kind", tag = "1")]
    kind: i32,
    /// The session, if it is handed over.
    #[prost(message, optional, tag = "2")]
    released: Option<ReleasedPart>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
enum Kind {
    Unspecified = 0,
    Ended = 1,
    Released = 2,
    Later = 3,
}

#[derive(Clone, PartialEq, Message)]
struct ReleasedPart {
    #[prost(uint64, tag = "1")]
    seq: u64,
    #[prost(uint64, tag = "2")]
    confirmed: u64,
    #[prost(message, repeated, tag = "3")]
    frames: Vec<OwedPart>,
    #[prost(message, repeated, tag = "4")]
    requests: Vec<RequestPart>,
}

/// A frame that the client may lack.
#[derive(Clone, PartialEq, Message)]
struct OwedPart {
    #[prost(uint64, tag = "1")]
    seq: u64,
    /// The request that it ends.
    #[prost(message, optional, tag = "2")]
    request: Option<Id>,
    #[prost(message, optional, tag = "3")]
    frame: Option<Frame>,
}

/// A request in flight.
#[derive(Clone, PartialEq, Message)]
struct RequestPart {
    #[prost(message, optional, tag = "1")]
    request: Option<Id>,
    #[prost(message, optional, tag = "2")]
    detail: Option<Detail>,
    #[prost(enumeration = "ProgressPart", tag = "3")]
    progress: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
enum ProgressPart {
    Unspecified = 0,
    Submitted = 1,
    Recorded = 2,
    Ended = 3,
}

impl Stored for Answer {
    type Message = AnswerPart;

    fn write(&self) -> AnswerPart {
        let (kind, released) = match self {
            Self::Ended => (Kind::Ended, None),
            Self::Later => (Kind::Later, None),
            Self::Released { seq, confirmed, snapshot } => {
                (Kind::Released, Some(write_released(*seq, *confirmed, snapshot)))
            }
        };
        AnswerPart { kind: kind.into(), released }
    }

    fn read(AnswerPart { kind, released }: AnswerPart) -> Option<Self> {
        match Kind::try_from(kind).ok()? {
            Kind::Unspecified => None,
            Kind::Ended => Some(Self::Ended),
            Kind::Later => Some(Self::Later),
            Kind::Released => read_released(released?),
        }
    }
}

fn write_released(seq: u64, confirmed: u64, snapshot: &Snapshot) -> ReleasedPart {
    let owed = |Unparked { seq, request, frame }: &Unparked| OwedPart {
        seq: *seq,
        request: request.map(Id::from),
        frame: Some(frame.write()),
    };
    let request =
        |(request, detail, progress): &(RequestId, RequestDetail, Progress)| RequestPart {
            request: Some((*request).into()),
            detail: Some(detail.write()),
            progress: match progress {
                Progress::Submitted => ProgressPart::Submitted,
                Progress::Recorded => ProgressPart::Recorded,
                Progress::Ended => ProgressPart::Ended,
            }
            .into(),
        };
    ReleasedPart {
        seq,
        confirmed,
        frames: snapshot.frames.iter().map(owed).collect(),
        requests: snapshot.requests.iter().map(request).collect(),
    }
}

fn read_released(released: ReleasedPart) -> Option<Answer> {
    let ReleasedPart { seq, confirmed, frames, requests } = released;
    let owed = |OwedPart { seq, request, frame }: OwedPart| {
        let frame = wire::Frame::read(frame?)?;
        Some(Unparked { seq, request: request.map(RequestId::from), frame })
    };
    let request = |RequestPart { request, detail, progress }: RequestPart| {
        let progress = match ProgressPart::try_from(progress).ok()? {
            ProgressPart::Unspecified => return None,
            ProgressPart::Submitted => Progress::Submitted,
            ProgressPart::Recorded => Progress::Recorded,
            ProgressPart::Ended => Progress::Ended,
        };
        Some((request?.into(), RequestDetail::read(detail?)?, progress))
    };
    let frames = frames.into_iter().map(owed).collect::<Option<_>>()?;
    let requests = requests.into_iter().map(request).collect::<Option<_>>()?;
    let snapshot = Snapshot { frames, requests, replies: Vec::new() };
    Some(Answer::Released { seq, confirmed, snapshot })
}

#[cfg(test)]
mod tests;
