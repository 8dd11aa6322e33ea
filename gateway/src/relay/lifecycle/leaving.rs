//! How a session leaves this node: because another node asks for it, or because another one owns it
//! and does not ask.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use registry::{Progress, RequestId, SessionId};
use tokio::time::Instant;

use super::answer::Answer;
use crate::{
    error::CloseCode,
    relay::{
        checkpoints::{
            Checkpoints, Snapshot,
            format::{self, RequestDetail},
        },
        requests::{Completion, pending::Entry, recording::Recording},
        session::{HandedOver, InFlight, Session, Sessions},
    },
    wire::ClientId,
};

/// The pause between two looks at something that will soon be so.
const TICK: Duration = Duration::from_millis(5);
/// How long a release waits for the broker to confirm what has just been produced, because the next
/// owner would never learn of it.
const RECORDING_PATIENCE: Duration = Duration::from_millis(200);
/// How long a release waits for a session that is itself just arriving at this node.
const ARRIVAL_PATIENCE: Duration = Duration::from_millis(500);

/// Takes sessions out of this node.
#[derive(Debug)]
pub struct Leaving {
    /// The sessions of this node.
    pub sessions: Arc<Sessions>,
    /// Their checkpoints.
    pub checkpoints: Arc<Checkpoints>,
    /// The requests that wait for them.
    pub completion: Arc<Completion>,
}

impl Leaving {
    /// Sessions whose requests wait there.
    pub fn new(completion: &Arc<Completion>) -> Self {
        Self {
            sessions: Arc::clone(&completion.sessions),
            checkpoints: Arc::clone(&completion.checkpoints),
            completion: Arc::clone(completion),
        }
    }

    /// Hands a session over that was held here for one of `epochs` to the node that holds it from
    /// their end on, or says that it has ended here. `None` when nothing is known of it (any more),
    /// or only what is outdated.
    pub async fn release(&self, id: SessionId, epochs: Range<u64>) -> Option<Bytes> {
        if self.checkpoints.is_ending(id, epochs.start) {
            return Some(format::encode(&Answer::Ended));
        }
        // Another client that has come back a moment earlier comes first.
        let deadline = Instant::now() + ARRIVAL_PATIENCE;
        while self.sessions.is_expected_before(id, epochs.end) && Instant::now() < deadline {
            tokio::time::sleep(TICK).await;
        }
        self.leave(id, &epochs).await.map(|answer| format::encode(&answer))
    }

    /// Takes a session out, with all that its owner from the end of `epochs` on has to have of it.
    pub(super) async fn leave(&self, id: SessionId, epochs: &Range<u64>) -> Option<Answer> {
        let session = self.sessions.get(id)?;
        if session.epoch() < epochs.start {
            self.give_up(&session);
            return None;
        }
        if session.epoch() >= epochs.end {
            // The caller has claimed an earlier state of the registry.
            return session.is_held().then(|| {
                self.checkpoints.rewrite(&session);
                Answer::Later
            });
        }
        self.wait_for_recordings(&session).await;
        let answer = self.take_out(&session, true)?;
        tracing::debug!(session = %id, "handed over");
        Some(answer)
    }

    /// Gives up what this node has of a session that others have held since. Where the registry
    /// names this node as its owner all the same, that is by a claim of which it has not heard.
    pub(super) fn give_up(&self, session: &Arc<Session>) {
        session.ownership().fence(CloseCode::Resumed);
        self.let_go(session);
    }

    /// Nobody has asked for the rest of a session that another node owns: its replies are
    /// forwarded.
    pub(super) fn let_go(&self, session: &Arc<Session>) {
        if !session.is_held() {
            self.take_out(session, false);
        }
    }

    /// Takes a session out, with all that goes to its next owner if that has asked for it. Its
    /// undelivered replies are forwarded.
    fn take_out(&self, session: &Arc<Session>, is_asked_for: bool) -> Option<Answer> {
        self.sessions.remove(session);
        let HandedOver { seq, confirmed, frames, guards, in_flight } =
            session.ownership().hand_over(is_asked_for)?;
        let mut requests = Vec::with_capacity(in_flight.len());
        for (id, known) in in_flight {
            let mut entry =
                self.completion.take_quietly(known.request, |waiter| waiter.is_of(session));
            for early in entry.iter_mut().flat_map(Entry::take_early) {
                self.completion.foreign.send(known.request, early.reply, early.guard);
            }
            requests.push(request_as_left(id, &known, entry.as_ref()));
        }
        for (frame, guard) in guards {
            self.completion.foreign.send_after(frame, Some(guard));
        }
        Some(Answer::Released {
            seq,
            confirmed,
            snapshot: Snapshot { frames, requests, replies: Vec::new() },
        })
    }

    /// Waits, because a client in a hurry may leave before the broker has confirmed its requests.
    async fn wait_for_recordings(&self, session: &Session) {
        let is_open = |(_, known): &(_, InFlight)| {
            let look = |entry: &mut Entry| !entry.recording.is_confirmed();
            self.completion.pending.look(known.request, look) == Some(true)
        };
        let deadline = Instant::now() + RECORDING_PATIENCE;
        while session.requests().all().iter().any(is_open) && Instant::now() < deadline {
            tokio::time::sleep(TICK).await;
        }
    }
}

/// A request for its session's next owner; `entry` is what has waited for it on this node.
fn request_as_left(
    id: ClientId,
    known: &InFlight,
    entry: Option<&Entry>,
) -> (RequestId, RequestDetail, Progress) {
    let is_waiting = |entry: &Entry| entry.recording == Recording::Waiting;
    let progress = match entry {
        _ if known.has_ended => Progress::Ended,
        Some(entry) if is_waiting(entry) => Progress::Submitted,
        // The record is in the hands of the producer, which goes on.
        _ => Progress::Recorded,
    };
    let parts = entry.as_ref().and_then(|entry| Some(entry.stream.as_ref()?.parts()));
    let detail = entry.and_then(Entry::detail);
    let detail = detail.unwrap_or_else(|| RequestDetail::ended(id, known));
    // The receipt is among the frames, or the client has it; so are the parts.
    (known.request, RequestDetail { receipt: false, parts, ..detail }, progress)
}
