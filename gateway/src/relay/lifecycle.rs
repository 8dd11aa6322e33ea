//! The life of a session on this node: it begins, loses its connection, gets it back ([`resume`]),
//! leaves for another node ([`leaving`]), and ends.
//!
//! Decides when these things happen. The session knows its own content, and `checkpoints`, whose
//! [`Owner`] this is, knows what is written of it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use registry::{NodeRef, Progress, RequestId, Route};
use tokio::sync::oneshot;

use super::{
    checkpoints::{ACK_PATIENCE, Checkpoints, Owner, Snapshot, format::RequestDetail},
    cluster::NodeTag,
    environment::Environment,
    gate::Gate,
    requests::Completion,
    session::{
        Beginning, ConnectionId, InFlight, Session, SessionLimits, Sessions, Token, table::Due,
    },
    surroundings::Surroundings,
};
use crate::{
    config::Config,
    error::CloseCode,
    telemetry::{Resume, Telemetry},
    wire::ClientId,
};

mod answer;
pub mod leaving;
pub mod resume;

use leaving::Leaving;

/// How long the rest of a session waits for its new owner to ask for it.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(1);
/// How often sessions are looked at.
const TICK: Duration = Duration::from_millis(100);
/// After one second it is the turn of other sessions to be refreshed.
const TICKS_PER_TURN: u64 = 10;

/// The sessions of this node, and how they come and go.
#[derive(Debug)]
pub struct Lifecycle {
    gate: Arc<Gate>,
    sessions: Arc<Sessions>,
    checkpoints: Arc<Checkpoints>,
    completion: Arc<Completion>,
    leaving: Arc<Leaving>,
    environment: Arc<Environment>,
    node: NodeRef,
    /// This node's tag, which is in the id of each session that begins here.
    tag: NodeTag,
    telemetry: Arc<Telemetry>,
    limits: SessionLimits,
    resume_window: Duration,
    /// How many sessions without a connection are kept; beyond that the oldest end.
    waiting_max: usize,
}

impl Lifecycle {
    /// Sessions as `config` has them.
    pub fn new(
        config: &Config,
        around: &Surroundings,
        gate: &Arc<Gate>,
        leaving: &Arc<Leaving>,
    ) -> Self {
        Self {
            gate: Arc::clone(gate),
            sessions: Arc::clone(&leaving.sessions),
            checkpoints: Arc::clone(&leaving.checkpoints),
            completion: Arc::clone(&leaving.completion),
            leaving: Arc::clone(leaving),
            environment: Arc::clone(&around.environment),
            node: around.node.clone(),
            tag: NodeTag::of(&around.node),
            telemetry: Arc::clone(&around.telemetry),
            limits: SessionLimits::new(config),
            resume_window: config.session.resume_window,
            waiting_max: config.limits.connections_max,
        }
    }

    /// Starts a session for a connection that is about to come.
    pub fn start(&self, is_reliable: bool) -> (Arc<Session>, ConnectionId) {
        let id = self.tag.write_session(self.environment.session());
        let token = Token::random(id);
        let beginning = Beginning { epoch: 1, token, former_token: None, last_seq: 0 };
        let session = Arc::new(Session::new(id, is_reliable, self.limits, beginning));
        self.sessions.add(&session);
        self.checkpoints.record(&session);
        attached(&self.gate, &session);
        let connection = session.connection();
        (session, connection)
    }

    /// A client has come with something that is no token.
    pub fn refused_token(&self) {
        self.telemetry.resumed(Resume::Refused);
    }

    /// A session's connection is gone, and its client may come back.
    pub fn detach(&self, session: &Arc<Session>, connection: ConnectionId) {
        if session.on(connection).detach() {
            self.sessions.wait_for_client(session, self.resume_window);
            self.checkpoints.rewrite(session);
        }
    }

    /// A session is over, if this connection still counts. What it waited for is given up and
    /// counted.
    pub fn end(&self, session: &Arc<Session>, connection: ConnectionId) {
        if session.connection() == connection && session.is_held() {
            self.completion.end_session(session, "session_ended");
        }
    }

    /// The client is known to have read its welcome, and the token in it, so its former token is of
    /// no use any more once this has returned. Nothing less will do: that a client has sent
    /// something does not prove that it has read the new token. Cancel safe.
    pub async fn heard(&self, session: &Arc<Session>, connection: ConnectionId) {
        if session.on(connection).heard() {
            let (written, is_written) = oneshot::channel::<()>();
            self.checkpoints.record_then(session, Box::new(move || drop(written)));
            // Both mean that the sender was dropped: nothing is ever sent.
            is_written.await.unwrap_or_default();
        }
    }

    /// The registry has lost what it held, so everything is written again. Sessions come first, so
    /// that those which other nodes hold by now are let go of before anything else is written for
    /// them.
    pub fn write_again(&self) {
        for session in self.sessions.all() {
            self.checkpoints.rewrite(&session);
        }
        self.completion.routes.rewrite();
    }

    /// Looks after sessions for as long as the node lives.
    pub async fn run(&self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let interval = self.checkpoints.refresh_interval();
        let turns = interval.as_secs().max(1);
        for turn in 0_u64.. {
            let now = tick.tick().await;
            let Due { over, left, unparked } = self.sessions.due(now, self.waiting_max);
            for session in over {
                match session.mailbox().keeps_offsets() {
                    // The registry is away, so this node cannot know whether another one holds the
                    // session by now.
                    true => self.sessions.wait_for_client(&session, self.resume_window),
                    false => self.completion.give_up_session(&session, "window_over"),
                }
            }
            for session in left {
                self.leaving.let_go(&session);
            }
            for session in unparked {
                self.checkpoints.park_due(&session);
                if let Some(since) = session.mailbox().unwatch() {
                    self.sessions.watch(&session, since + ACK_PATIENCE);
                }
            }
            // Sessions are refreshed in turns, so that they do not come all at once.
            if turn.is_multiple_of(TICKS_PER_TURN) {
                for session in self.sessions.turn(turn / TICKS_PER_TURN % turns, turns) {
                    self.checkpoints.record(&session);
                }
                self.count_sessions();
            }
        }
    }

    fn count_sessions(&self) {
        let (all, attached) = (self.sessions.len(), self.sessions.attached());
        self.telemetry.set_sessions(attached, all - attached);
    }

    /// Closes connections one after the other, so many per second; those that wait for answers are
    /// closed when they have them. Returns once each has had its turn.
    pub async fn close_connections(&self, per_second: u32) {
        let mut sessions = self.sessions.all();
        sessions.retain(|session| session.is_attached());
        self.environment.shuffle(&mut sessions);
        let per_tick = (f64::from(per_second) * TICK.as_secs_f64()).ceil().max(1.0) as usize;
        let mut tick = tokio::time::interval(TICK.max(Duration::from_secs(1) / per_second.max(1)));
        for batch in sessions.chunks(per_tick) {
            tick.tick().await;
            batch.iter().for_each(|session| session.drain());
        }
    }
}

/// A session has a connection from now on. On a node that drains it has its turn at once: its
/// handshake was over before, and those who were here then may all have had theirs.
fn attached(gate: &Gate, session: &Session) {
    if gate.is_draining() {
        session.drain();
    }
}

impl Owner for Lifecycle {
    fn whole(&self, session: &Session) -> Option<Snapshot> {
        if !session.is_durable() {
            return None;
        }
        let frames = session.mailbox().all();
        let receipts: HashMap<RequestId, _> =
            frames.iter().filter_map(|parked| parked.frame.receipt()).collect();
        let request = |(id, known): (ClientId, InFlight)| {
            let request = known.request;
            let found = self.completion.pending.look(request, |entry| {
                let parts = entry.stream.as_ref().map(|stream| stream.parts());
                Some((entry.detail()?, parts))
            });
            let detail = match found.flatten() {
                Some((detail, parts)) => {
                    // A frame in the mailbox counts there, and not as owed as well.
                    let receipt = detail.receipt && !receipts.contains_key(&request);
                    // Parts before the first that is owed and not in the mailbox are the client's, or
                    // are there.
                    let first = session.mailbox().first_unparked_part(request);
                    let parts = parts.map(|parts| first.unwrap_or(parts));
                    RequestDetail { receipt, parts, ..detail }
                }
                // Its reply is owed, and may be read again when this node is gone.
                None => {
                    let parts = session.mailbox().first_unparked_part(request);
                    RequestDetail { parts, ..RequestDetail::ended(id, &known) }
                }
            };
            let progress = match detail.position {
                Some(_) => Progress::Recorded,
                None => Progress::Submitted,
            };
            (request, detail, progress)
        };
        let requests = session.requests().all().into_iter().map(request).collect();
        Some(Snapshot { frames, requests, replies: Vec::new() })
    }

    fn route(&self, session: &Session, request: RequestId, detail: &RequestDetail) -> Arc<Route> {
        let noted = self.completion.pending.look(request, |entry| Arc::clone(&entry.route));
        noted.unwrap_or_else(|| {
            Arc::new(Route {
                node: self.node.clone(),
                session: Some(session.id()),
                client_id: Some(detail.id.as_json().into()),
                deadline_ms: self.environment.unix_ms().saturating_add(detail.left_ms),
                may_be_part: false,
            })
        })
    }

    fn lost(&self, session: &Arc<Session>, epoch: u64, is_claimed: bool) -> bool {
        if self.sessions.is_expected(session.id()) || session.epoch() > epoch {
            // This node itself has claimed it, for a client that has come back.
            return false;
        }
        let code = if is_claimed { CloseCode::Resumed } else { CloseCode::Draining };
        if session.ownership().fence(code) {
            tracing::info!(session = %session.id(), "another node holds the session");
            self.sessions.wait_for_owner(session, HANDOVER_PATIENCE);
        }
        true
    }

    fn unrouted(&self, requests: Vec<RequestId>) {
        self.completion.routes.failed(requests);
    }

    fn overflowed(&self, session: &Arc<Session>, limit: &'static str) {
        self.completion.overflowed(session, limit);
    }
}

#[cfg(test)]
mod tests;
