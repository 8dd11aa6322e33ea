//! Strays whose session is not where their route says: its node is dead, or has handed it over. They
//! follow the session to its present holder, or go to its mailbox when it has none.

use std::collections::{HashMap, HashSet};

use registry::{
    Answers, BackedUp, Backup, BackupStep, EntryKind, NodeRef, RequestId, SessionEntry, SessionId,
};
use tokio::time::Instant;

use super::{Forwarding, Waiting};
use crate::{
    relay::{
        checkpoints::format,
        requests::{
            foreign::{ForeignReply, Wants},
            outcome,
        },
    },
    telemetry::Way,
    wire::ClientId,
};

/// Where a session's stray goes.
enum Course {
    /// To the live node that holds the session, for this epoch.
    To(NodeRef, u64),
    /// Into the mailbox: nobody holds the session. With whom the registry takes for its holder.
    Park(SessionEntry),
    /// Nowhere yet.
    Later,
    /// Nowhere any more.
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
    /// Sends strays after their sessions.
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
            let course = entry.map(|entry| self.course(&item.stray, entry.as_ref(), &word));
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
            match self.course(&item.stray, entry.as_ref(), &word) {
                Course::To(node, epoch) => {
                    if let Some(wants) = &mut item.stray.wants {
                        wants.epoch = Some(epoch);
                    }
                    waiting.extend(self.forward(item, &node));
                }
                Course::Later => waiting.push(item.later()),
                Course::Over => {
                    // Its session may have come here since the route was looked up.
                    if let Some(item) = self.deliver_here(item) {
                        self.unrouted(item.stray);
                    }
                }
                Course::Park(_) if park_step(&item.stray).is_none() => {
                    self.telemetry.registry_unreadable(EntryKind::Route, 1);
                    self.unrouted(item.stray);
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
    fn course(&self, stray: &ForeignReply, entry: Option<&SessionEntry>, word: &Word) -> Course {
        let Some(Wants { session, epoch, .. }) = stray.wants else { return Course::Over };
        if self.sessions.is_expected(session) {
            return Course::Later;
        }
        // One that has gone on elsewhere while this node slept is not here, whatever it still has.
        let is_present = |here: u64| entry.is_none_or(|entry| entry.epoch <= here);
        let here = self.sessions.get(session).filter(|session| session.is_held());
        let here = here.filter(|session| is_present(session.epoch()));
        let is_here = here.is_some();
        match entry {
            // Read again, while the first one is owed still.
            _ if here.is_some_and(|session| session.mailbox().is_unsafe(stray.request)) => {
                Course::Later
            }
            // It waited here and has ended: a late or second reply. An empty table cannot say so.
            _ if is_here && word.is_complete => Course::Over,
            _ if is_here => Course::Later,
            None if !word.is_complete => Course::Later,
            None => Course::Over,
            // What the holder has denied is denied for that epoch: the session may have left it since,
            // and come back.
            Some(SessionEntry { node: Some(node), epoch: present, .. })
                if self.is_alive(node)
                    && *node != self.node
                    && !(stray.is_denied_by(node) && epoch == Some(*present)) =>
            {
                Course::To(node.clone(), *present)
            }
            _ if !word.is_complete => Course::Later,
            // It is not here any more; and another node may have claimed it before the registry heard.
            Some(_) if word.were_here.contains(&session) => Course::Later,
            Some(entry) if self.checkpoints.is_ending(session, entry.epoch) => Course::Over,
            // Nobody will ask for it: what was on the wire cannot be known.
            Some(entry) if entry.attached && !entry.reliable => Course::Over,
            Some(entry) => Course::Park(entry.clone()),
        }
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

    /// Puts replies into the mailboxes of sessions that nobody holds. A holder that only slept
    /// loses the session by it.
    async fn park(
        &self,
        parks: HashMap<SessionId, (SessionEntry, Vec<Waiting>)>,
        waiting: &mut Vec<Waiting>,
    ) {
        let (mut backups, mut items) = (Vec::new(), Vec::new());
        for (session, (entry, of_session)) in parks {
            let steps = of_session.iter().filter_map(|item| park_step(&item.stray)).collect();
            let (epoch, orphan) = (entry.epoch, entry.node.is_some());
            backups.push(Backup { session, epoch, orphan, steps });
            items.push(of_session);
        }
        let limits = self.checkpoints.limits();
        let started = Instant::now();
        let answers = self.registry.back_up(&backups, limits).await;
        self.telemetry.registry_call("back_up", started.elapsed());
        for (items, answer) in items.into_iter().zip(answers) {
            match answer {
                Ok(BackedUp::Done) => items.into_iter().for_each(|item| {
                    self.services.reply_went(Way::Parked);
                    item.stray.done();
                }),
                Ok(BackedUp::Overflowed) => {
                    self.telemetry.limit_hit("mailbox_bytes_max");
                    self.telemetry.frames_abandoned("mailbox_full", items.len() as u64);
                    items.into_iter().for_each(|item| item.stray.done());
                }
                // Somebody else has touched the session: look again.
                Ok(BackedUp::Superseded | BackedUp::Missing) => {
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
    item.stray.wants.as_ref().map(|wants| wants.session)
}

fn park_step(stray: &ForeignReply) -> Option<BackupStep> {
    let request: RequestId = stray.request;
    let client_id = ClientId::from_json(&stray.wants.as_ref()?.client_id)?;
    let frame = outcome::reply_frame(request, client_id, stray.reply.clone());
    Some(BackupStep::Park { seq: 0, request: Some(request), frame: format::encode(&frame) })
}
