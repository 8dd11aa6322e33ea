//! How a session changes its holder: what the registry is told of it, and what goes from node to node.

use registry::{Generation, NodeRef, SessionRecord};

use super::{Beginning, ConnectionId, HandedOver, Phase, Session, Token};
use crate::{
    error::CloseCode,
    tasks::locked,
    wire::{ClientId, Frame},
};

/// Who holds a session, and what goes from one holder to the next.
#[derive(Clone, Copy, Debug)]
pub struct Ownership<'s>(&'s Session);

impl Session {
    /// Who holds it, and what its next holder gets.
    pub fn ownership(&self) -> Ownership<'_> {
        Ownership(self)
    }
}

impl Ownership<'_> {
    /// The session's line in the registry, while this node holds it.
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

    /// All of its copy is written now, in this generation of the registry.
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

    /// The registry has its record from now on; whether it had it before.
    pub fn recorded(&self) -> bool {
        std::mem::replace(&mut locked(&self.0.state).is_recorded, true)
    }

    /// The registry has lost its record.
    pub fn unrecorded(&self) {
        locked(&self.0.state).is_recorded = false;
    }

    /// Goes on for a client that has come back to this node and says that it has every frame up to
    /// `last_seq`, which is no acknowledgement; a connection that it still has is told. `None` when
    /// that cannot be: frames after `last_seq` are not kept any more, or it was never sent.
    pub fn resume(&self, last_seq: u64, beginning: Beginning) -> Option<ConnectionId> {
        let mut state = locked(&self.0.state);
        if !state.is_held() || !state.outbox.resumable().contains(&last_seq) {
            return None;
        }
        state.wake();
        state.connection.0 += 1;
        state.phase = Phase::Attached;
        state.closing = None;
        // A registry that went back to an earlier state counts from there.
        state.epoch = beginning.epoch.max(state.epoch.saturating_add(1));
        state.token = beginning.token;
        state.former_token = beginning.former_token;
        state.outbox.rewind(last_seq);
        Some(state.connection)
    }

    /// Another node holds the session: nothing of it is written any more, neither to the connection
    /// nor to the registry; the connection closes with `code` in the end. False when that was known.
    pub fn fence(&self, code: CloseCode) -> bool {
        let mut state = locked(&self.0.state);
        if !state.is_held() {
            return false;
        }
        state.phase = Phase::Fenced(code);
        true
    }

    /// Closes the connection and takes everything out, for the node that holds the session now and
    /// has asked for it, or because it does not ask: the frames that the client
    /// may lack, each with its hold, and the requests in flight. `None` when that has been done, or
    /// the session is over: there is nothing left to go on with.
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
        let (mut frames, mut holds) = (Vec::new(), Vec::new());
        for mut owed in state.outbox.drain().0.into_iter().filter(|owed| owed.seq > 0) {
            let frame = owed.copy();
            holds.extend(owed.hold.take().map(|hold| (frame.frame.clone(), hold)));
            frames.push(frame);
        }
        let in_flight = std::mem::take(&mut state.in_flight).into_iter().collect();
        Some(HandedOver { seq, confirmed, frames, holds, in_flight })
    }

    /// Of the frames taken over, the client says that it has those up to this number.
    pub fn skip(&self, last_seq: u64) {
        locked(&self.0.state).outbox.rewind(last_seq);
    }

    /// Takes over a frame that the former holder had queued or parked; it keeps its order, and gets
    /// the next number.
    pub fn adopt(&self, frame: Frame, ends: Option<ClientId>) {
        locked(&self.0.state).outbox.adopt(frame, ends);
    }
}
