//! A session's state on its way to its next owner: handed over from node to node, or by way of its
//! checkpoint in the registry.

use registry::{CheckpointStep, Progress, RequestId};

use super::format::{self, RequestDetail};
use crate::{relay::session::Unparked, wire::Reply};

/// What the next owner of a session has to have of it, beside its entry in the registry.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The frames that its client may lack, in order.
    pub frames: Vec<Unparked>,
    /// The requests in flight, in any order, and how far each is.
    pub requests: Vec<(RequestId, RequestDetail, Progress)>,
    /// Replies, or parts of them, that came while nobody owned it; only in a checkpoint.
    pub replies: Vec<(RequestId, Reply)>,
}

impl Snapshot {
    /// The steps that write it as a checkpoint in place of whatever was there, and the numbers of
    /// the frames that they park.
    pub(super) fn into_steps(self) -> (Vec<CheckpointStep>, Vec<u64>) {
        let request = |(request, detail, progress): (RequestId, RequestDetail, Progress)| {
            CheckpointStep::Request { request, progress, detail: format::encode(&detail) }
        };
        let requests = self.requests.into_iter().map(request);
        let (seqs, frames) = park_steps(self.frames);
        let steps = std::iter::once(CheckpointStep::Reset).chain(requests).chain(frames);
        (steps.collect(), seqs)
    }
}

/// The numbers of frames, and the steps that put them into the mailbox.
pub(super) fn park_steps(frames: Vec<Unparked>) -> (Vec<u64>, Vec<CheckpointStep>) {
    let step = |Unparked { seq, request, frame }: Unparked| {
        (seq, CheckpointStep::Park { seq, request, frame: format::encode(&frame) })
    };
    frames.into_iter().map(step).unzip()
}
