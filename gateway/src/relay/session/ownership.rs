//! How a session changes its owner: what the registry is told of it, and what goes from node to
//! node.

use registry::{Generation, NodeRef, SessionRecord};

use super::{Beginning, ConnectionId, HandedOver, Phase, Session, Token};
use crate::{
    error::CloseCode,
    tasks::locked,
    wire::{ClientId, Frame},
};

/// A session as its owner sees it, and what goes from one owner to the next.
#[derive(Clone, Copy, Debug)]
pub struct Ownership<'s>(&'s Session);

impl Session {
    /// The session's ownership, and what its next owner gets.
    pub fn ownership(&self) -> Ownership<'_> {
        Ownership(self)
    }
}

impl Ownership<'_> {
    /// The session's entry in the registry, while this node owns it.
    pub fn record(&self, node: &NodeRef) -> Option<SessionRecord> {
        let state = locked(&self.0.state);
        state.is_held().then(|| SessionRecord {
            session: self.0.id,
            epoch: state.epoch,
            node: node.clone(),
            user: None,
            reliable: self.0.is_reliable,
            attached: state.phase == Phase::Attached,
            token: state.token.hash(),
            former_token: state.former_token.as_ref().map(Token::hash),
            generation: state.generation,
        })
    }

    /// Its whole checkpoint is written now, in this generation of the registry.
    pub fn copied_in(&self, generation: Option<Generation>) {
        locked(&self.0.state).generation = generation;
    }

    /// Whether this token resumes it, as far as this node knows.
    pub fn is_opened_by(&self, token: &Token) -> bool {
        let state = locked(&self.0.state);
        state.token == *token || state.former_token.as_ref() == Some(token)
    }

    /// Whether the registry has heard of it.
    pub fn is_recorded(&self) -> bool {
        locked(&self.0.state).is_recorded
    }

    /// The registry has its entry from now on. Returns whether it had it before.
    pub fn recorded(&self) -> bool {
        std::mem::replace(&mut locked(&self.0.state).is_recorded, true)
    }

    /// The registry has lost its entry.
    pub fn unrecorded(&self) {
        locked(&self.0.state).is_recorded = false;
    }

    /// Goes on for a client that has come back to this node and says that it has every frame up to
    /// `last_seq`, which is no acknowledgement; if it still has a connection, that is closed.
    /// `None` if frames after `last_seq` are not kept any more, or if `last_seq` was never sent.
    pub fn resume(&self, last_seq: u64, beginning: Beginning) -> Option<ConnectionId> {
        let mut state = locked(&self.0.state);
        if !state.is_held() || !state.outbox.resumable().contains(&last_seq) {
            return None;
        }
        state.wake();
        state.connection.0 += 1;
        state.phase = Phase::Attached;
        state.closing = None;
        // If the registry went back to an earlier state, epochs count on from there.
        state.epoch = beginning.epoch.max(state.epoch.saturating_add(1));
        state.token = beginning.token;
        state.former_token = beginning.former_token;
        state.outbox.rewind(last_seq);
        Some(state.connection)
    }

    /// Another node owns the session: from now on nothing of it is written, neither to the
    /// connection nor to the registry, and the connection closes with `code` in the end. False if
    /// that was known.
    pub fn fence(&self, code: CloseCode) -> bool {
        let mut state = locked(&self.0.state);
        if !state.is_held() {
            return false;
        }
        state.phase = Phase::Fenced(code);
        true
    }

    /// Closes the connection and takes everything out, for the node that owns the session now,
    /// whether or not it has asked: the frames that the client may lack, each with its guard, and
    /// the requests in flight. `None` if that has been done, or if the session is over: there is
    /// nothing left to go on with.
    pub fn hand_over(&self, is_asked_for: bool) -> Option<HandedOver> {
        let mut state = locked(&self.0.state);
        let code = match state.phase {
            Phase::Moved | Phase::Ended => return None,
            Phase::Fenced(code) if !is_asked_for => code,
            _ => CloseCode::Resumed,
        };
        state.close(code.into());
        state.phase = Phase::Moved;
        let (confirmed, seq) = state.outbox.resumable().into_inner();
        let (mut frames, mut guards) = (Vec::new(), Vec::new());
        for mut owed in state.outbox.drain().0.into_iter().filter(|owed| owed.seq > 0) {
            let frame = owed.copy();
            guards.extend(owed.guard.take().map(|guard| (frame.frame.clone(), guard)));
            frames.push(frame);
        }
        let in_flight = std::mem::take(&mut state.in_flight).into_iter().collect();
        Some(HandedOver { seq, confirmed, frames, guards, in_flight })
    }

    /// The client says that of the frames taken over it has those up to this number.
    pub fn skip(&self, last_seq: u64) {
        locked(&self.0.state).outbox.rewind(last_seq);
    }

    /// Takes over a frame that the former owner had queued or parked; it keeps its order, and gets
    /// the next number.
    pub fn adopt(&self, frame: Frame, ends: Option<ClientId>) {
        locked(&self.0.state).outbox.adopt(frame, ends);
    }
}
