//! Sessions in this process's memory.
//!
//! Owns a session's checkpoint and what each step does to it. Knows neither connections nor which
//! nodes are alive: a writer names the epoch for which it writes.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::MemoryRegistry;
use crate::{
    error::RegistryError,
    ids::{RequestId, SessionId},
    tables::{
        Answers,
        sessions::{
            CheckpointStep, CheckpointUpdate, Checkpointed, Claim, Claimed, HeldRequest, Holding,
            MailboxLimits, ParkedFrame, Progress, Recorded, SESSION_TTL_MAX, SESSION_TTL_MIN,
            SessionEntry, SessionRecord, SessionTable, TokenHash, Written,
        },
    },
};

/// A session with its checkpoint: one entry, so that they end together.
#[derive(Clone, Debug)]
pub(super) struct Session {
    record: SessionRecord,
    /// Whether nobody holds it: its record still names who did.
    is_orphan: bool,
    written: Written,
    /// With when each was written.
    requests: HashMap<RequestId, (Progress, Bytes, Instant)>,
    mailbox: Mailbox,
}

#[derive(Clone, Debug, Default)]
struct Mailbox {
    frames: VecDeque<ParkedFrame>,
    bytes: usize,
    overflowed: bool,
}

#[async_trait]
impl SessionTable for MemoryRegistry {
    async fn record(&self, records: &[SessionRecord], ttl: Duration) -> Answers<Recorded> {
        let (now, ttl) = (Instant::now(), ttl.clamp(SESSION_TTL_MIN, SESSION_TTL_MAX));
        let table = &mut self.lock().sessions;
        let mut write = |record: &SessionRecord| {
            let known = table.get(&record.session, now).map(|known| known.record.epoch);
            if known.is_some_and(|known| known > record.epoch) {
                return Recorded::Superseded;
            }
            // A record of an earlier epoch comes from a table that went back: its owner is right.
            if known == Some(record.epoch)
                && let Some(session) = table.refresh(&record.session, now, ttl)
            {
                session.written = record.written();
                session.record = record.clone();
                session.is_orphan = false;
                return Recorded::Refreshed;
            }
            table.insert(record.session, Session::new(record.clone()), now, ttl);
            Recorded::Created
        };
        records.iter().map(|record| Ok(write(record))).collect()
    }

    async fn update_checkpoints(
        &self,
        checkpoints: &[CheckpointUpdate],
        limits: MailboxLimits,
    ) -> Answers<Checkpointed> {
        let now = Instant::now();
        let table = &mut self.lock().sessions;
        let mut change = |checkpoint: &CheckpointUpdate| match table
            .get_mut(&checkpoint.session, now)
        {
            None => Checkpointed::Missing,
            Some(session) if session.record.epoch < checkpoint.epoch => Checkpointed::Missing,
            Some(session) if session.record.epoch > checkpoint.epoch => Checkpointed::Superseded,
            Some(session) => {
                if checkpoint.orphan {
                    session.record.epoch = session.record.epoch.saturating_add(1);
                    session.is_orphan = true;
                    session.written = Written { epoch: session.record.epoch, node: None };
                }
                session.change(&checkpoint.steps, limits)
            }
        };
        checkpoints.iter().map(|checkpoint| Ok(change(checkpoint))).collect()
    }

    async fn find_sessions(&self, sessions: &[SessionId]) -> Answers<Option<SessionEntry>> {
        let now = Instant::now();
        let table = &self.lock().sessions;
        sessions.iter().map(|id| Ok(table.get(id, now).map(Session::entry))).collect()
    }

    async fn try_token(
        &self,
        session: &SessionId,
        token: &TokenHash,
    ) -> Result<Option<SessionEntry>, RegistryError> {
        let table = &self.lock().sessions;
        let held = table.get(session, Instant::now());
        Ok(held.filter(|held| held.record.is_opened_by(token)).map(Session::entry))
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, RegistryError> {
        let now = Instant::now();
        let table = &mut self.lock().sessions;
        let Some(Session { record, .. }) = table.get(&claim.session, now) else {
            return Ok(Claimed::Refused);
        };
        // A session that has used up all epochs cannot change its owner any more.
        let Some(epoch) = record.epoch.checked_add(1).filter(|_| record.is_opened_by(&claim.token))
        else {
            return Ok(Claimed::Refused);
        };
        if record.user != claim.user {
            return Ok(Claimed::OtherUser);
        }
        let ttl = claim.ttl.clamp(SESSION_TTL_MIN, SESSION_TTL_MAX);
        let holding = table.refresh(&claim.session, now, ttl).map(|session| {
            let former = session.entry();
            session.record.change_owner(claim, epoch);
            session.is_orphan = false;
            session.holding(former)
        });
        Ok(holding.map_or(Claimed::Refused, |holding| Claimed::Taken(Box::new(holding))))
    }

    async fn end_sessions(&self, sessions: &[(SessionId, u64)]) -> Answers<()> {
        let now = Instant::now();
        let table = &mut self.lock().sessions;
        for (session, epoch) in sessions {
            if table.get(session, now).is_some_and(|held| held.record.epoch == *epoch) {
                table.remove(session);
            }
        }
        vec![Ok(()); sessions.len()]
    }
}

impl SessionRecord {
    fn is_opened_by(&self, token: &TokenHash) -> bool {
        self.token == *token || self.former_token == Some(*token)
    }

    fn written(&self) -> Written {
        Written { epoch: self.epoch, node: Some(self.node.clone()) }
    }

    /// The client has come to the claimer, so it has a connection.
    fn change_owner(&mut self, claim: &Claim, epoch: u64) {
        self.epoch = epoch;
        self.node = claim.node.clone();
        self.attached = true;
        self.token = claim.next_token;
        self.former_token = Some(claim.token);
    }
}

impl Session {
    fn new(record: SessionRecord) -> Self {
        Self {
            written: record.written(),
            record,
            is_orphan: false,
            requests: HashMap::new(),
            mailbox: Mailbox::default(),
        }
    }

    fn entry(&self) -> SessionEntry {
        let SessionRecord { epoch, node, user, reliable, attached, generation, .. } = &self.record;
        SessionEntry {
            epoch: *epoch,
            node: (!self.is_orphan).then(|| node.clone()),
            user: user.clone(),
            reliable: *reliable,
            attached: *attached,
            overflowed: self.mailbox.overflowed,
            generation: *generation,
        }
    }

    fn holding(&self, former: SessionEntry) -> Holding {
        let held = |(request, (progress, detail, written)): (&RequestId, &(_, Bytes, Instant))| {
            let (request, progress, detail) = (*request, *progress, detail.clone());
            HeldRequest { request, progress, detail, age: written.elapsed() }
        };
        Holding {
            epoch: self.record.epoch,
            former,
            written: self.written.clone(),
            requests: self.requests.iter().map(held).collect(),
            mailbox: self.mailbox.frames.iter().cloned().collect(),
            is_whole: true,
        }
    }

    fn change(&mut self, steps: &[CheckpointStep], limits: MailboxLimits) -> Checkpointed {
        let mut answer = Checkpointed::Done;
        for step in steps {
            match step {
                CheckpointStep::Request { request, progress, detail } => {
                    self.note(*request, *progress, detail);
                }
                CheckpointStep::Park { seq, request, frame } => {
                    let frame = ParkedFrame { seq: *seq, request: *request, frame: frame.clone() };
                    self.park(frame, limits);
                    if self.mailbox.overflowed {
                        answer = Checkpointed::Overflowed;
                    }
                }
                CheckpointStep::Trim { seq } => self.mailbox.trim(*seq),
                CheckpointStep::Reset => {
                    self.mailbox.clear();
                    self.requests.clear();
                }
                CheckpointStep::Forget { request } => {
                    self.requests.remove(request);
                }
            }
        }
        answer
    }

    fn note(&mut self, request: RequestId, progress: Progress, detail: &Bytes) {
        let now = Instant::now();
        let held = self.requests.entry(request).or_insert_with(|| (progress, Bytes::new(), now));
        if held.0 != Progress::Ended {
            *held = (progress, detail.clone(), now);
        }
    }

    fn park(&mut self, parked: ParkedFrame, limits: MailboxLimits) {
        let Some(request) = parked.request else {
            self.mailbox.add(parked, limits);
            return;
        };
        let Some((progress, ..)) = self.requests.get_mut(&request) else { return };
        if *progress != Progress::Ended && self.mailbox.add(parked, limits) {
            *progress = Progress::Ended;
        }
    }
}

impl Mailbox {
    /// Whether the frame is in it.
    fn add(&mut self, parked: ParkedFrame, limits: MailboxLimits) -> bool {
        let bytes = self.bytes + parked.frame.len();
        if self.frames.len() >= limits.frames_max || bytes > limits.bytes_max {
            self.overflowed = true;
            self.clear();
        }
        if self.overflowed {
            return false;
        }
        self.bytes = bytes;
        self.frames.push_back(parked);
        true
    }

    fn trim(&mut self, seq: u64) {
        self.frames.retain(|parked| parked.seq == 0 || parked.seq > seq);
        self.bytes = self.frames.iter().map(|parked| parked.frame.len()).sum();
    }

    fn clear(&mut self) {
        self.frames.clear();
        self.bytes = 0;
    }
}
