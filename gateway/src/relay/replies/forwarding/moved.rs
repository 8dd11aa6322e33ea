//! Foreign replies whose session is not where their route says, because its node is dead or has
//! handed it over. They follow the session to its present owner, or go into its mailbox if it has
//! none.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use registry::{
    Answers, CheckpointStep, CheckpointUpdate, Checkpointed, EntryKind, NodeRef, RequestId,
    SessionEntry, SessionId,
};
use tokio::time::Instant;

use super::{Forwarding, Waiting};
use crate::{
    relay::{
        checkpoints::format::{self, Letter},
        requests::{
            foreign::{ForeignReply, Wants},
            outcome,
            parts::Room,
        },
        session::Session,
    },
    telemetry::ReplyPath,
    wire::ClientId,
};

/// How long the replies of a node that is taken for dead wait for it where no other node can have use for
/// them. Meanwhile their partitions' offsets stand still.
pub(super) const SLEEP_PATIENCE: Duration = Duration::from_secs(10);

/// Where the reply of a session goes.
enum Course {
    /// To the live node that owns the session, for this epoch.
    To(NodeRef, u64),
    /// Into the mailbox, because nobody owns the session. With what the registry has of it.
    Park(SessionEntry),
    /// It has to wait.
    Later,
    /// It has to wait for a node that may wake up.
    Asleep,
    /// It is dropped.
    Over,
}

/// How far what the registry says can be relied on.
struct Word {
    /// It has lost nothing, so what is missing there is not to be had.
    is_complete: bool,
    /// These sessions were on this node when it was asked: it perhaps had not heard of their end.
    were_here: HashSet<SessionId>,
}

impl Forwarding {
    /// Forwards replies to wherever their sessions are.
    pub(super) async fn follow(&self, moved: Vec<Waiting>, waiting: &mut Vec<Waiting>) {
        let mut ids: Vec<SessionId> = moved.iter().filter_map(session_of).collect();
        ids.sort_unstable_by_key(|id| *id.as_uuid());
        ids.dedup();
        // What the registry says then, it may say without having heard that one of these has ended.
        let was_here = |session: &SessionId| {
            self.sessions.get(*session).is_some() || self.checkpoints.is_end_unwritten(*session)
        };
        let were_here = ids.iter().copied().filter(was_here).collect();
        let found = self.find_sessions(&ids).await;
        // Of those that the registry could not be asked for nothing is known.
        let sessions: HashMap<SessionId, Option<SessionEntry>> =
            ids.into_iter().zip(found).filter_map(|(id, found)| Some((id, found.ok()?))).collect();
        // A session that is missing may be lost, with all else that the registry held.
        let is_doubtful = |entry: &Option<SessionEntry>| {
            entry.as_ref().is_none_or(|entry| self.is_doubtful(entry))
        };
        // Nothing is parked on the word of a table that may have gone back to an earlier state.
        let mut word = Word { were_here, is_complete: !self.membership.is_incomplete() };
        let would_park = |item: &Waiting| {
            let entry = session_of(item).and_then(|session| sessions.get(&session));
            let course = entry.map(|entry| self.course(&item.foreign, entry.as_ref(), &word));
            matches!(course, Some(Course::Park(_)))
        };
        if sessions.values().any(is_doubtful) || moved.iter().any(would_park) {
            let is_sure = self.is_refreshed().await;
            word.is_complete = is_sure && !self.membership.is_incomplete();
        }
        let mut parks: HashMap<SessionId, (SessionEntry, Vec<Waiting>)> = HashMap::new();
        for mut item in moved {
            let session = session_of(&item).expect("it is a session's");
            let Some(entry) = sessions.get(&session) else {
                waiting.push(item.unasked());
                continue;
            };
            match self.course(&item.foreign, entry.as_ref(), &word) {
                Course::To(node, epoch) => {
                    if let Some(wants) = &mut item.foreign.wants {
                        wants.epoch = Some(epoch);
                    }
                    waiting.extend(self.forward(item, &node));
                }
                Course::Later => waiting.push(item.later()),
                Course::Asleep => waiting.push(item.rarely()),
                Course::Over => {
                    // Its session may have come here since the route was looked up.
                    if let Some(item) = self.deliver_here(item) {
                        self.unrouted(item.foreign);
                    }
                }
                Course::Park(_) if park_step(&item.foreign).is_none() => {
                    self.telemetry.registry_unreadable(EntryKind::Route, 1);
                    self.unrouted(item.foreign);
                }
                Course::Park(entry) => {
                    parks.entry(session).or_insert_with(|| (entry, Vec::new())).1.push(item);
                }
            }
        }
        if !parks.is_empty() {
            self.park(parks, waiting).await;
        }
    }

    fn is_doubtful(&self, entry: &SessionEntry) -> bool {
        let is_known = |node: &NodeRef| *node == self.node || self.is_alive(node);
        !entry.node.as_ref().is_some_and(is_known)
    }

    /// Where it goes, by what the registry says of its session.
    fn course(&self, foreign: &ForeignReply, entry: Option<&SessionEntry>, word: &Word) -> Course {
        let Some(Wants { session, epoch, .. }) = foreign.wants else { return Course::Over };
        if self.sessions.is_expected(session) {
            return Course::Later;
        }
        // A session that has gone on elsewhere while this node slept is not here, whatever is still
        // left of it.
        let is_present = |here: u64| entry.is_none_or(|entry| entry.epoch <= here);
        let here = self.sessions.get(session).filter(|session| session.is_held());
        let here = here.filter(|session| is_present(session.epoch()));
        let is_here = here.is_some();
        match entry {
            // It was read again while the first one is still owed.
            _ if self.is_kept(foreign, here.as_deref()) => Course::Later,
            // The request waited here and has ended, so this is a late or second reply. While the
            // table is incomplete, that cannot be concluded.
            _ if is_here && word.is_complete => Course::Over,
            _ if is_here => Course::Later,
            None if !word.is_complete => Course::Later,
            None => Course::Over,
            // A denial by the owner counts for that epoch only: the session may have left it since,
            // and come back.
            Some(SessionEntry { node: Some(node), epoch: present, .. })
                if self.is_alive(node)
                    && *node != self.node
                    && !(foreign.is_denied_by(node) && epoch == Some(*present)) =>
            {
                Course::To(node.clone(), *present)
            }
            _ if !word.is_complete => Course::Later,
            // It is not here any more; and another node may have claimed it before the registry
            // heard.
            Some(_) if word.were_here.contains(&session) => Course::Later,
            Some(entry) if self.checkpoints.is_ending(session, entry.epoch) => Course::Over,
            // Its client cannot go on elsewhere, because what was on the wire is not known. But its node
            // may only be asleep, and the client still be there.
            Some(entry) if entry.attached && !entry.reliable => {
                match foreign.read_at.elapsed() < SLEEP_PATIENCE {
                    true => Course::Asleep,
                    false => Course::Over,
                }
            }
            Some(entry) => Course::Park(entry.clone()),
        }
    }

    /// Whether it is owed here, or is about to be: its client has to read earlier parts first.
    fn is_kept(&self, foreign: &ForeignReply, here: Option<&Session>) -> bool {
        let (request, item) = (foreign.request, &foreign.reply.item);
        self.completion.streams().keeps(request, item, here)
            || self.completion.streams().room(request, item.part) == Room::Crowded
    }

    async fn find_sessions(&self, sessions: &[SessionId]) -> Answers<Option<SessionEntry>> {
        let started = Instant::now();
        let found = self.registry.find_sessions(sessions).await;
        self.telemetry.registry_call("find_sessions", started.elapsed());
        self.health.heard(&found);
        if let Some(error) = found.iter().find_map(|found| found.as_ref().err()) {
            tracing::debug!(%error, "sessions not found");
        }
        found
    }

    /// Puts replies into the mailboxes of sessions that nobody owns. If the owner was only asleep,
    /// it loses the session by that.
    async fn park(
        &self,
        parks: HashMap<SessionId, (SessionEntry, Vec<Waiting>)>,
        waiting: &mut Vec<Waiting>,
    ) {
        let (mut checkpoints, mut items) = (Vec::new(), Vec::new());
        for (session, (entry, of_session)) in parks {
            let steps = of_session.iter().filter_map(|item| park_step(&item.foreign)).collect();
            let (epoch, orphan) = (entry.epoch, entry.node.is_some());
            checkpoints.push(CheckpointUpdate { session, epoch, orphan, steps });
            items.push(of_session);
        }
        let limits = self.checkpoints.limits();
        let started = Instant::now();
        let answers = self.registry.update_checkpoints(&checkpoints, limits).await;
        self.telemetry.registry_call("back_up", started.elapsed());
        for (items, answer) in items.into_iter().zip(answers) {
            match answer {
                Ok(Checkpointed::Done) => items.into_iter().for_each(|item| {
                    self.services.count_reply(ReplyPath::Parked);
                    item.foreign.done();
                }),
                Ok(Checkpointed::Overflowed) => {
                    self.telemetry.limit_hit("mailbox_bytes_max");
                    self.telemetry.frames_abandoned("mailbox_full", items.len() as u64);
                    items.into_iter().for_each(|item| item.foreign.done());
                }
                // Somebody else has touched the session: look again.
                Ok(Checkpointed::Superseded | Checkpointed::Missing) => {
                    waiting.extend(items.into_iter().map(Waiting::later));
                }
                Err(error) => {
                    tracing::debug!(%error, "replies not parked");
                    waiting.extend(items.into_iter().map(Waiting::unasked));
                }
            }
        }
    }
}

fn session_of(item: &Waiting) -> Option<SessionId> {
    item.foreign.wants.as_ref().map(|wants| wants.session)
}

fn park_step(foreign: &ForeignReply) -> Option<CheckpointStep> {
    let request: RequestId = foreign.request;
    let wants = foreign.wants.as_ref()?;
    let client_id = ClientId::from_json(&wants.client_id)?;
    let reply = foreign.reply.clone();
    if wants.may_be_part || reply.item.is_of_a_stream() {
        // Only the session's next owner knows which part it is, and whether it is the end.
        let frame = format::encode(&Letter::Reply(request, reply));
        return Some(CheckpointStep::Park { seq: 0, request: None, frame });
    }
    let frame = outcome::reply_frame(request, client_id, reply);
    Some(CheckpointStep::Park { seq: 0, request: Some(request), frame: format::encode(&frame) })
}
