//! What a session is owed: frames are queued for it, its client confirms them, and when the session
//! ends nobody will read them any more.

use std::sync::Arc;

use registry::{CheckpointStep, RequestId};
use tokio::time::Instant;

use super::{
    Completion,
    outcome::reply_frame,
    pending::{Early, Entry, Waiter},
};
use crate::{
    relay::{
        checkpoints::ACK_PATIENCE,
        offsets::OffsetGuard,
        session::{Confirmed, ConnectionId, Ended, Pushed, Session},
    },
    wire::{ClientId, Frame},
};

/// What an ended session leaves behind.
struct Given {
    /// The requests that were in flight for it.
    requests: Vec<RequestId>,
    /// Replies that nobody has received, whose offsets are held back here.
    held: Vec<(Frame, OffsetGuard)>,
}

impl Completion {
    /// Queues a frame for a session, wherever the session is.
    pub fn owe(
        &self,
        session: &Arc<Session>,
        frame: Frame,
        ends: Option<ClientId>,
        guard: Option<OffsetGuard>,
    ) {
        let pushed = session.push(frame, ends, guard);
        self.after_push(session, pushed);
    }

    /// Acts on what became of a frame that was pushed. May take requests out of the pending table,
    /// if the session has to end, so it must not be called under that table's lock.
    pub(in crate::relay) fn after_push(&self, session: &Arc<Session>, pushed: Pushed) {
        match pushed {
            Pushed::Queued => {}
            Pushed::Watch => self.sessions.watch(session, Instant::now() + ACK_PATIENCE),
            Pushed::Away => self.checkpoints.park_due(session),
            Pushed::Ended(frame, guard) => {
                self.telemetry.frames_abandoned("session_ended", 1);
                self.go_after(frame, guard);
            }
            Pushed::Overflowed(limit, frame, guard) => {
                self.overflowed(session, limit);
                self.go_after(frame, guard);
            }
            Pushed::Moved(frame, guard) => self.foreign.send_after(frame, guard),
            // Only parts are refused, and by whoever hands them on.
            Pushed::NoRoom(_, frame, guard) => self.go_after(frame, guard),
        }
    }

    /// A frame came after its session had ended here. If it is a reply whose offset this node keeps
    /// back, it is forwarded to wherever the session is.
    fn go_after(&self, frame: Frame, guard: Option<OffsetGuard>) {
        if guard.is_some() {
            self.foreign.send_after(frame, guard);
        }
    }

    /// The client of a session has every frame up to this number.
    pub fn confirm(&self, session: &Arc<Session>, seq: u64) {
        self.confirmed(session, session.confirm(seq));
    }

    /// Like [`Completion::confirm`], as heard on this connection.
    pub fn confirm_on(&self, session: &Arc<Session>, connection: ConnectionId, seq: u64) {
        self.confirmed(session, session.on(connection).confirm(seq));
    }

    fn confirmed(&self, session: &Arc<Session>, confirmed: Confirmed) {
        let Confirmed { over, receipts, parts, trim } = confirmed;
        self.streams().parts_read(session, parts);
        if !session.is_reliable() {
            return;
        }
        for request in receipts {
            self.pending.look(request, |entry| {
                entry.waiter.had_receipt();
                if let Some(detail) = entry.detail() {
                    self.checkpoints.recorded(session, request, &detail);
                }
            });
        }
        for request in over {
            self.routes.remove(request);
            self.checkpoints.forget(session, request);
        }
        if trim > 0 {
            self.checkpoints.step(session, CheckpointStep::Trim { seq: trim });
        }
    }

    /// Ends a session because its client said so: nobody wants what is left of it, on any node.
    pub(in crate::relay) fn end_session(&self, session: &Arc<Session>, reason: &'static str) {
        let Given { requests, held } = self.take_end(session, reason);
        requests.into_iter().for_each(|request| self.routes.remove(request));
        held.into_iter().for_each(|(_, guard)| guard.done());
    }

    /// Ends a session without its client's word. It may have gone on elsewhere without this node's
    /// knowledge. So the routes stay until they expire, and replies whose offsets are held back
    /// here are forwarded. They are dropped only when the registry has heard of the end and names
    /// no other owner.
    pub(in crate::relay) fn give_up_session(&self, session: &Arc<Session>, reason: &'static str) {
        for (frame, guard) in self.take_end(session, reason).held {
            self.foreign.send_after(frame, Some(guard));
        }
    }

    fn take_end(&self, session: &Arc<Session>, reason: &'static str) -> Given {
        // Noted before the session is gone from this node, so that at every moment somebody who
        // looks for it learns what became of it.
        self.checkpoints.ends(session.id(), session.epoch());
        let Ended { requests, unread, mut held } = session.end();
        self.telemetry.frames_abandoned(reason, unread as u64);
        // No client receives these ends: they only count.
        for &request in &requests {
            let early = self.cancel_with(request, |entry| take_early(request, entry));
            held.extend(early.into_iter().flatten());
        }
        self.checkpoints.end(session.id(), session.epoch());
        self.sessions.remove(session);
        Given { requests, held }
    }

    /// More has gathered for a session than may, while its client was away.
    pub(in crate::relay) fn overflowed(&self, session: &Arc<Session>, limit: &'static str) {
        self.telemetry.limit_hit(limit);
        tracing::info!(limit, session = %session.id(), "mailbox full; the session ends");
        self.give_up_session(session, "mailbox_full");
    }
}

/// What has come of the reply of a request, and its client has not, as far as its offset is held back
/// here.
fn take_early(request: RequestId, entry: &mut Entry) -> Vec<(Frame, OffsetGuard)> {
    let early = entry.take_early();
    let Waiter::Session { id, .. } = &entry.waiter else { return Vec::new() };
    let frame =
        |Early { reply, guard, .. }: Early| Some((reply_frame(request, id.clone(), reply), guard?));
    early.into_iter().filter_map(frame).collect()
}
