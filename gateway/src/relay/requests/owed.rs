//! What a session is owed: frames that are pushed, that its client confirms, and that nobody will read
//! any more when it ends.

use std::sync::Arc;

use registry::{BackupStep, RequestId};
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

/// What an ended session leaves.
struct Given {
    /// What was in flight for it.
    requests: Vec<RequestId>,
    /// Replies that nobody has got, whose offsets are held back here.
    held: Vec<(Frame, OffsetGuard)>,
}

impl Completion {
    /// A frame for a session, wherever it is.
    pub fn owe(
        &self,
        session: &Arc<Session>,
        frame: Frame,
        ends: Option<ClientId>,
        hold: Option<OffsetGuard>,
    ) {
        let pushed = session.push(frame, ends, hold);
        self.settle(session, pushed);
    }

    /// What follows from a frame's having been pushed. Takes requests out when the session has to
    /// end, so it is never called while the pending table is looked at.
    pub(in crate::relay) fn settle(&self, session: &Arc<Session>, pushed: Pushed) {
        match pushed {
            Pushed::Queued => {}
            Pushed::Watch => self.sessions.watch(session, Instant::now() + ACK_PATIENCE),
            Pushed::Away => self.checkpoints.park_due(session),
            Pushed::Ended(frame, hold) => {
                self.telemetry.frames_abandoned("session_ended", 1);
                self.go_after(frame, hold);
            }
            Pushed::Overflowed(limit, frame, hold) => {
                self.overflowed(session, limit);
                self.go_after(frame, hold);
            }
            Pushed::Moved(frame, hold) => self.foreign.send_after(frame, hold),
        }
    }

    /// A frame came when its session had ended here. A reply that this node holds back goes after it.
    fn go_after(&self, frame: Frame, hold: Option<OffsetGuard>) {
        if hold.is_some() {
            self.foreign.send_after(frame, hold);
        }
    }

    /// A client has every frame up to this number.
    pub fn confirm(&self, session: &Arc<Session>, seq: u64) {
        self.confirmed(session, session.confirm(seq));
    }

    /// The same, as heard on a connection.
    pub fn confirm_on(&self, session: &Arc<Session>, connection: ConnectionId, seq: u64) {
        self.confirmed(session, session.on(connection).confirm(seq));
    }

    fn confirmed(&self, session: &Arc<Session>, confirmed: Confirmed) {
        let Confirmed { over, receipts, trim } = confirmed;
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
            self.checkpoints.step(session, BackupStep::Trim { seq: trim });
        }
    }

    /// Ends a session at its client's word: nobody wants what is left of it, on whichever node.
    pub(in crate::relay) fn end_session(&self, session: &Arc<Session>, reason: &'static str) {
        let Given { requests, held } = self.take_end(session, reason);
        requests.into_iter().for_each(|request| self.routes.remove(request));
        held.into_iter().for_each(|(_, hold)| hold.done());
    }

    /// Ends a session without its client's word. It may have gone on elsewhere, and this node not have
    /// heard: so the routes stay until their time has passed, and replies that are held back here go
    /// after it. They are over once the registry has heard of the end, and names no other holder.
    pub(in crate::relay) fn give_up_session(&self, session: &Arc<Session>, reason: &'static str) {
        for (frame, hold) in self.take_end(session, reason).held {
            self.foreign.send_after(frame, Some(hold));
        }
    }

    fn take_end(&self, session: &Arc<Session>, reason: &'static str) -> Given {
        // Before it is over here: whoever looks for it knows at every moment what became of it.
        self.checkpoints.ends(session.id(), session.epoch());
        let Ended { requests, unread, mut held } = session.end();
        self.telemetry.frames_abandoned(reason, unread as u64);
        // The answer of each is counted where nobody takes it.
        for &request in &requests {
            held.extend(self.cancel_with(request, |entry| take_early(request, entry)).flatten());
        }
        self.checkpoints.end(session.id(), session.epoch());
        self.sessions.remove(session);
        Given { requests, held }
    }

    /// A session has gathered more than it may while its client was away.
    pub(in crate::relay) fn overflowed(&self, session: &Arc<Session>, limit: &'static str) {
        self.telemetry.limit_hit(limit);
        tracing::info!(limit, session = %session.id(), "mailbox full; the session ends");
        self.give_up_session(session, "mailbox_full");
    }
}

/// The reply of a request that still waits for its receipt, where its offset is held back here.
fn take_early(request: RequestId, entry: &mut Entry) -> Option<(Frame, OffsetGuard)> {
    let Early { reply, hold, .. } = entry.early.take()?;
    let Waiter::Session { id, .. } = &entry.waiter else { return None };
    Some((reply_frame(request, id.clone(), reply), hold?))
}
