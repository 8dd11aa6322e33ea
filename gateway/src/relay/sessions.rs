//! The life of a session on this node: it begins, loses its connection, gets it back, and ends; and
//! what that means for the requests in flight for it and for its copy in the registry.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use registry::{BackupStep, MailboxLimits, Progress, RequestId};
use tokio::{sync::oneshot, time::Instant};

use super::{
    Relay,
    backup::{Backups, WholeBackup},
    ending::reply_frame,
    hub::Due,
    pending::{Early, Entry, Waiter},
    session::{
        Beginning, Confirmed, ConnectionId, Ended, KEPT_BYTES_MAX, KEPT_FRAMES_MAX, Pushed,
        Session, SessionLimits, Unparked,
    },
    stored::{self, RequestDetail},
    token::Token,
    window::Hold,
};
use crate::{
    config::SessionConfig,
    error::CloseCode,
    telemetry::Resume,
    wire::{ClientId, Frame},
};

/// How long a reliable session's client may take to acknowledge a frame before the mailbox gets a
/// copy of it: so one slow client does not hold a partition's offset back.
const ACK_PATIENCE: Duration = Duration::from_secs(2);
/// How long what is left of a session waits for the node that holds it now to ask for it.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(1);
/// How often sessions are looked at.
const TICK: Duration = Duration::from_millis(100);
/// One second, after which it is others' turn to be refreshed.
const TICKS_PER_TURN: u64 = 10;
/// A session's line in the registry is refreshed at least so often, and this part of the window.
const REFRESHES_PER_WINDOW: u32 = 3;
const REFRESH_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// What a session may hold, as configured.
pub(super) fn limits(config: &SessionConfig) -> SessionLimits {
    SessionLimits {
        outbox_bytes_max: config.outbox_bytes_max,
        mailbox_bytes_max: config.mailbox_bytes_max,
        mailbox_frames_max: config.mailbox_frames_max,
    }
}

/// The copies of sessions, as configured. A mailbox in the registry takes what was in the outbox
/// when the connection went, and what had been written and was kept still, beside what comes later.
pub(super) fn backups(config: &SessionConfig) -> Backups {
    let from_outbox = config.outbox_bytes_max / Frame::ENVELOPE_BYTES;
    let sum = |numbers: [usize; 3]| numbers.into_iter().fold(0, usize::saturating_add);
    let limits = MailboxLimits {
        frames_max: sum([config.mailbox_frames_max, from_outbox, KEPT_FRAMES_MAX + 1]),
        bytes_max: sum([config.mailbox_bytes_max, config.outbox_bytes_max, KEPT_BYTES_MAX]),
    };
    Backups::new(config.resume_window + 2 * refresh_interval(config.resume_window), limits)
}

fn refresh_interval(window: Duration) -> Duration {
    (window / REFRESHES_PER_WINDOW).max(REFRESH_INTERVAL_MIN)
}

/// What an ended session leaves.
struct Given {
    /// What was in flight for it.
    requests: Vec<RequestId>,
    /// Replies that nobody has got, whose offsets are held back here.
    held: Vec<(Frame, Hold)>,
}

impl Relay {
    /// Starts a session for a connection that is about to come.
    pub fn start_session(&self, is_reliable: bool) -> (Arc<Session>, ConnectionId) {
        let id = self.nature.session();
        let token = Token::random(id);
        let beginning = Beginning { epoch: 1, token, former_token: None, last_seq: 0 };
        let session = Arc::new(Session::new(id, is_reliable, self.session_limits, beginning));
        self.hub.add(&session);
        self.backups.record(&session);
        let connection = session.connection();
        (session, connection)
    }

    /// A client has come with what is no token.
    pub fn refused_token(&self) {
        self.telemetry.resumed(Resume::Refused);
    }

    /// How many sockets are open, or about to be.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// A socket is about to be opened.
    pub fn connection_opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.telemetry.connections.inc();
    }

    /// A socket is closed.
    pub fn connection_closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        self.telemetry.connections.dec();
    }

    /// A session's connection is gone, and its client may come back.
    pub fn detach(&self, session: &Arc<Session>, connection: ConnectionId) {
        if session.detach(connection) {
            self.hub.wait_for_client(session, self.resume_window);
            self.backups.rewrite(session);
        }
    }

    /// A session is over, if this connection still counts: what it waited for is given up, and
    /// counted.
    pub fn end_session_of(&self, session: &Arc<Session>, connection: ConnectionId) {
        if session.connection() == connection && session.is_held() {
            let Given { requests, held } = self.end_session(session, "session_ended");
            requests.into_iter().for_each(|request| self.routes.remove(request));
            // Its client has said so: nobody wants them, on whichever node.
            held.into_iter().for_each(|(_, hold)| hold.done());
        }
    }

    /// Ends a session without its client's word. It may have gone on elsewhere, and this node not have
    /// heard: so the routes stay until their time has passed, and replies that are held back here go
    /// after it. They are over once the registry has heard of the end, and names no other holder.
    pub(super) fn give_up_session(&self, session: &Arc<Session>, reason: &'static str) {
        for (frame, hold) in self.end_session(session, reason).held {
            self.strays.send_after(frame, Some(hold));
        }
    }

    fn end_session(&self, session: &Arc<Session>, reason: &'static str) -> Given {
        // Before it is over here: whoever looks for it knows at every moment what became of it.
        self.backups.ends(session.id(), session.epoch());
        let Ended { requests, unread, mut held } = session.end();
        self.telemetry.frames_abandoned(reason, unread as u64);
        // The answer of each is counted where nobody takes it.
        for &request in &requests {
            held.extend(self.cancel_with(request, |entry| take_early(request, entry)).flatten());
        }
        self.backups.end(session.id(), session.epoch());
        self.hub.remove(session);
        Given { requests, held }
    }

    /// A session has gathered more than it may while its client was away.
    pub(super) fn overflowed(&self, session: &Arc<Session>, limit: &'static str) {
        self.telemetry.limit_hit(limit);
        tracing::info!(limit, session = %session.id(), "mailbox full; the session ends");
        self.give_up_session(session, "mailbox_full");
    }

    /// The session is not this node's any more, as the registry has told of a write for this epoch:
    /// another node has claimed it, or has taken this one for dead. False when it is this node's all
    /// the same.
    pub(super) fn lose_session(
        &self,
        session: &Arc<Session>,
        epoch: u64,
        is_claimed: bool,
    ) -> bool {
        if self.hub.is_expected(session.id()) || session.epoch() > epoch {
            // It is this node that has claimed it, for a client that has come back.
            return false;
        }
        let code = if is_claimed { CloseCode::Resumed } else { CloseCode::Draining };
        if session.fence(code) {
            tracing::info!(session = %session.id(), "another node holds the session");
            self.hub.wait_for_holder(session, HANDOVER_PATIENCE);
        }
        true
    }

    /// A frame for a session, wherever it is.
    pub fn owe(
        &self,
        session: &Arc<Session>,
        frame: Frame,
        ends: Option<ClientId>,
        hold: Option<Hold>,
    ) {
        let pushed = session.push(frame, ends, hold);
        self.settle(session, pushed);
    }

    /// What follows from a frame's having been pushed. Takes requests out when the session has to
    /// end, so it is never called while the pending table is looked at.
    pub(super) fn settle(&self, session: &Arc<Session>, pushed: Pushed) {
        match pushed {
            Pushed::Queued => {}
            Pushed::Watch => self.hub.watch(session, Instant::now() + ACK_PATIENCE),
            Pushed::Away => self.park_due(session),
            Pushed::Ended(frame, hold) => {
                self.telemetry.frames_abandoned("session_ended", 1);
                self.go_after(frame, hold);
            }
            Pushed::Overflowed(limit, frame, hold) => {
                self.overflowed(session, limit);
                self.go_after(frame, hold);
            }
            Pushed::Moved(frame, hold) => self.strays.send_after(frame, hold),
        }
    }

    /// A frame came when its session had ended here. A reply that this node holds back goes after it.
    fn go_after(&self, frame: Frame, hold: Option<Hold>) {
        if hold.is_some() {
            self.strays.send_after(frame, hold);
        }
    }

    /// A client has every frame up to this number.
    pub fn confirm(&self, session: &Arc<Session>, seq: u64) {
        self.confirmed(session, session.confirm(seq));
    }

    /// The same, as heard on a connection.
    pub fn confirm_on(&self, session: &Arc<Session>, connection: ConnectionId, seq: u64) {
        self.confirmed(session, session.confirm_on(connection, seq));
    }

    fn confirmed(&self, session: &Arc<Session>, confirmed: Confirmed) {
        let Confirmed { over, receipts, trim } = confirmed;
        if !session.is_reliable() {
            return;
        }
        for request in receipts {
            self.pending.look(request, |entry| {
                entry.waiter.had_receipt();
                self.back_up_recorded(session, request, entry.detail());
            });
        }
        for request in over {
            self.routes.remove(request);
            self.backups.forget(session, request);
        }
        if trim > 0 {
            self.backups.step(session, BackupStep::Trim { seq: trim });
        }
    }

    /// The client is known to have read its welcome, and the token in it: whatever token it came with
    /// is of no use any more, once this has ended. Nothing less will do: what a client has sent
    /// without having read is no proof that it can come back with anything else. Cancel safe.
    pub async fn heard(&self, session: &Arc<Session>, connection: ConnectionId) {
        if session.heard(connection) {
            let (written, is_written) = oneshot::channel::<()>();
            self.backups.record_then(session, Box::new(move || drop(written)));
            // Dropped either way: nothing is ever sent.
            is_written.await.unwrap_or_default();
        }
    }

    /// Copies to the mailbox what is due.
    fn park_due(&self, session: &Arc<Session>) {
        let now = Instant::now();
        self.park_since(session, now.checked_sub(ACK_PATIENCE).unwrap_or(now));
    }

    /// Copies to the mailbox what ends requests: nobody else could say again that this node has
    /// ended one, and what the next holder says would be another end.
    pub(super) fn park_now(&self, session: &Arc<Session>) {
        if session.is_durable() {
            self.park_since(session, Instant::now());
        }
    }

    fn park_since(&self, session: &Arc<Session>, before: Instant) {
        let frames = session.unparked(before);
        if frames.is_empty() {
            return;
        }
        let (seqs, steps) = park_steps(frames);
        self.backups.park(session, seqs, steps);
    }

    /// All that the registry should have of a session, for a copy that begins anew.
    pub(super) fn whole_backup(&self, session: &Session) -> WholeBackup {
        let mut whole = WholeBackup::default();
        if !session.is_durable() {
            return whole;
        }
        whole.steps.push(BackupStep::Reset);
        let mailbox = session.mailbox();
        let receipts: Vec<RequestId> =
            mailbox.iter().filter_map(|parked| parked.frame.receipt()).collect();
        for (id, known) in session.requests() {
            let request = known.request;
            let found = self.pending.look(request, |entry| {
                entry.detail().map(|detail| (detail, Arc::clone(&entry.route)))
            });
            let detail = match found.flatten() {
                Some((detail, route)) => {
                    whole.routes.push((request, route));
                    // One that is in the mailbox is not owed beside it.
                    let receipt = detail.receipt && !receipts.contains(&request);
                    RequestDetail { receipt, ..detail }
                }
                None => RequestDetail::ended(id, &known),
            };
            let progress = match detail.position {
                Some(_) => Progress::Recorded,
                None => Progress::Submitted,
            };
            let detail = stored::encode(&detail);
            whole.steps.push(BackupStep::Request { request, progress, detail });
        }
        let (seqs, steps) = park_steps(mailbox);
        whole.parked = seqs;
        whole.steps.extend(steps);
        whole
    }

    /// The registry has lost what it held: everything is written again, sessions first, so that
    /// those which other nodes hold by now are let go of before anything else is written for them.
    pub fn write_again(&self) {
        for session in self.hub.all() {
            self.backups.rewrite(&session);
        }
        self.routes.rewrite();
    }

    /// Looks after sessions for as long as the node lives.
    pub async fn run_sessions(&self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let interval = refresh_interval(self.resume_window);
        let turns = interval.as_secs().max(1);
        for turn in 0_u64.. {
            let now = tick.tick().await;
            let Due { over, left, unparked } = self.hub.due(now, self.limits.connections_max);
            for session in over {
                match session.keeps_offsets() {
                    // The registry is away: this node cannot know that nobody else holds it by now.
                    true => self.hub.wait_for_client(&session, self.resume_window),
                    false => self.give_up_session(&session, "window_over"),
                }
            }
            for session in left {
                self.let_go(&session);
            }
            for session in unparked {
                self.park_due(&session);
                if let Some(since) = session.unwatch() {
                    self.hub.watch(&session, since + ACK_PATIENCE);
                }
            }
            // Each session has its turn, so that they do not come all at once.
            if turn.is_multiple_of(TICKS_PER_TURN) {
                for session in self.hub.turn(turn / TICKS_PER_TURN % turns, turns) {
                    self.backups.record(&session);
                }
                self.count_sessions();
            }
        }
    }

    fn count_sessions(&self) {
        let (all, attached) = (self.hub.len(), self.hub.attached());
        self.telemetry.set_sessions(attached, all - attached);
    }

    /// Closes connections one after the other, so many per second, those that wait for answers when
    /// they have them. Returns once each has had its turn.
    pub async fn close_sessions(&self, per_second: u32) {
        let mut sessions = self.hub.all();
        sessions.retain(|session| session.is_attached());
        rand::seq::SliceRandom::shuffle(&mut *sessions, &mut rand::rng());
        let per_tick = (f64::from(per_second) * TICK.as_secs_f64()).ceil().max(1.0) as usize;
        let mut tick = tokio::time::interval(TICK.max(Duration::from_secs(1) / per_second.max(1)));
        for batch in sessions.chunks(per_tick) {
            tick.tick().await;
            batch.iter().for_each(|session| session.drain());
        }
    }
}

/// The reply of a request that still waits for its receipt, where its offset is held back here.
fn take_early(request: RequestId, entry: &mut Entry) -> Option<(Frame, Hold)> {
    let Early { reply, hold, .. } = entry.early.take()?;
    let Waiter::Session { id, .. } = &entry.waiter else { return None };
    Some((reply_frame(request, id.clone(), reply), hold?))
}

fn park_steps(frames: Vec<Unparked>) -> (Vec<u64>, Vec<BackupStep>) {
    let step = |Unparked { seq, request, frame }: Unparked| {
        (seq, BackupStep::Park { seq, request, frame: stored::encode(&frame) })
    };
    frames.into_iter().map(step).unzip()
}
