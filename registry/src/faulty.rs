//! A registry in memory that can be away, whole or in part, and remembers what was copied to it:
//! for the tests of those who use one.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    Announcement, Answers, Arrival, CheckpointUpdate, Checkpointed, Claim, Claimed, Event,
    Expectation, Generation, Latest, MailboxLimits, MemoryRegistry, NodeEntry, NodeRef, NodeTable,
    Nodes, Recorded, RegistryError, RequestId, RequestTable, ResultEntry, ResultTable, Route,
    SessionEntry, SessionId, SessionRecord, SessionTable, StateWait, Stored, TokenHash, ViewKey,
    ViewTable, Waiting,
};

/// The registry. A clone is another handle of the same.
#[derive(Clone, Debug, Default)]
pub struct FaultyRegistry {
    /// What is in it, also while it is away.
    pub memory: MemoryRegistry,
    away: Arc<Mutex<Away>>,
    checkpoints: Arc<Mutex<Vec<CheckpointUpdate>>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Away {
    #[default]
    Nothing,
    Part(usize),
    All,
}

/// One of the parts into which such a registry can fall: requests and sessions are spread over
/// them, and the first one has the node table.
pub const PARTS: usize = 3;

/// Which part has a request or a session.
pub fn part_of(id: &Uuid) -> usize {
    usize::from(id.as_bytes()[15]) % PARTS
}

/// Which part has a key of a view.
fn part_of_key(key: &ViewKey) -> usize {
    usize::from(key.key.last().copied().unwrap_or_default()) % PARTS
}

impl FaultyRegistry {
    /// This one, of which nothing is away.
    pub fn in_memory(memory: MemoryRegistry) -> Self {
        Self { memory, ..Self::default() }
    }

    /// From now on every call fails, or none.
    pub fn set_away(&self, away: bool) {
        *self.away() = if away { Away::All } else { Away::Nothing };
    }

    /// From now on calls fail as far as they are about what is in this part.
    pub fn set_part_away(&self, part: usize) {
        *self.away() = Away::Part(part);
    }

    /// The checkpoints that it was given since the last time, in order.
    pub fn take_checkpoints(&self) -> Vec<CheckpointUpdate> {
        std::mem::take(&mut *self.checkpoints())
    }

    /// How many checkpoints it was given since they were taken.
    pub fn checkpoint_count(&self) -> usize {
        self.checkpoints().len()
    }

    fn checkpoints(&self) -> MutexGuard<'_, Vec<CheckpointUpdate>> {
        self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn away(&self) -> MutexGuard<'_, Away> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is in this part can be had.
    fn has(&self, part: usize) -> Result<(), RegistryError> {
        match *self.away() {
            Away::All => Err(RegistryError::Unreachable("away".into())),
            Away::Part(away) if away == part => {
                Err(RegistryError::PartlyUnreachable("away".into()))
            }
            Away::Part(_) | Away::Nothing => Ok(()),
        }
    }

    /// Those of these things that can be had, and whether each can.
    fn there<I: Clone>(&self, of: &[I], id: impl Fn(&I) -> &Uuid) -> (Vec<I>, Answers<()>) {
        self.there_of(of, |one| part_of(id(one)))
    }

    fn there_of<I: Clone>(&self, of: &[I], part: impl Fn(&I) -> usize) -> (Vec<I>, Answers<()>) {
        let has: Answers<()> = of.iter().map(|one| self.has(part(one))).collect();
        let there = of.iter().zip(&has).filter(|(_, has)| has.is_ok());
        (there.map(|(one, _)| one.clone()).collect(), has)
    }
}

/// The answers to what could be had, each in its place.
fn placed<T>(answers: Answers<T>, has: Answers<()>) -> Answers<T> {
    let mut answers = answers.into_iter();
    let answer = |has: Result<(), _>| has.and_then(|()| answers.next().expect("one for each"));
    has.into_iter().map(answer).collect()
}

#[async_trait]
impl RequestTable for FaultyRegistry {
    async fn put_routes(&self, routes: &[(RequestId, Arc<Route>)]) -> Answers<()> {
        let (there, has) = self.there(routes, |(id, _)| id.as_uuid());
        placed(self.memory.put_routes(&there).await, has)
    }

    async fn find_routes(&self, requests: &[RequestId]) -> Answers<Option<Route>> {
        let (there, has) = self.there(requests, RequestId::as_uuid);
        placed(self.memory.find_routes(&there).await, has)
    }

    async fn remove_routes(&self, requests: &[RequestId]) -> Answers<()> {
        let (there, has) = self.there(requests, RequestId::as_uuid);
        placed(self.memory.remove_routes(&there).await, has)
    }
}

#[async_trait]
impl NodeTable for FaultyRegistry {
    async fn announce(
        &self,
        entry: &NodeEntry,
        ttl: Duration,
    ) -> Result<Announcement, RegistryError> {
        self.has(0)?;
        self.memory.announce(entry, ttl).await
    }

    async fn nodes(&self) -> Result<Nodes, RegistryError> {
        self.has(0)?;
        self.memory.nodes().await
    }

    fn trouble(&self) -> Option<RegistryError> {
        (0..PARTS).find_map(|part| self.has(part).err()).filter(RegistryError::is_partial)
    }

    async fn generation(&self) -> Result<Option<Generation>, RegistryError> {
        // Parts that are away are as they were.
        match self.has(0) {
            Err(error) if !error.is_partial() => Err(error),
            _ => self.memory.generation().await,
        }
    }

    async fn leave(&self, node: &NodeRef) -> Result<(), RegistryError> {
        self.has(0)?;
        self.memory.leave(node).await
    }
}

#[async_trait]
impl SessionTable for FaultyRegistry {
    async fn record(&self, records: &[SessionRecord], ttl: Duration) -> Answers<Recorded> {
        let (there, has) = self.there(records, |record| record.session.as_uuid());
        placed(self.memory.record(&there, ttl).await, has)
    }

    async fn update_checkpoints(
        &self,
        checkpoints: &[CheckpointUpdate],
        limits: MailboxLimits,
    ) -> Answers<Checkpointed> {
        let (there, has) = self.there(checkpoints, |checkpoint| checkpoint.session.as_uuid());
        self.checkpoints().extend_from_slice(&there);
        placed(self.memory.update_checkpoints(&there, limits).await, has)
    }

    async fn find_sessions(&self, sessions: &[SessionId]) -> Answers<Option<SessionEntry>> {
        let (there, has) = self.there(sessions, SessionId::as_uuid);
        placed(self.memory.find_sessions(&there).await, has)
    }

    async fn try_token(
        &self,
        session: &SessionId,
        token: &TokenHash,
    ) -> Result<Option<SessionEntry>, RegistryError> {
        self.has(part_of(session.as_uuid()))?;
        self.memory.try_token(session, token).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, RegistryError> {
        self.has(part_of(claim.session.as_uuid()))?;
        self.memory.claim(claim).await
    }

    async fn end_sessions(&self, sessions: &[(SessionId, u64)]) -> Answers<()> {
        let (there, has) = self.there(sessions, |(id, _)| id.as_uuid());
        placed(self.memory.end_sessions(&there).await, has)
    }
}

#[async_trait]
impl ViewTable for FaultyRegistry {
    async fn write_events(&self, events: &[Event], ttl: Duration) -> Answers<Vec<RequestId>> {
        let (there, has) = self.there_of(events, |event| part_of_key(&event.key));
        placed(self.memory.write_events(&there, ttl).await, has)
    }

    async fn begin_waits(&self, waits: &[StateWait]) -> Answers<Waiting> {
        let (there, has) = self.there_of(waits, |wait| part_of_key(&wait.key));
        placed(self.memory.begin_waits(&there).await, has)
    }

    async fn forget_waits(&self, waits: &[(ViewKey, RequestId)]) -> Answers<()> {
        let (there, has) = self.there_of(waits, |(key, _)| part_of_key(key));
        placed(self.memory.forget_waits(&there).await, has)
    }

    async fn find_latest(&self, keys: &[ViewKey]) -> Answers<Option<Latest>> {
        let (there, has) = self.there_of(keys, part_of_key);
        placed(self.memory.find_latest(&there).await, has)
    }

    async fn put_marks(&self, marks: &[(Arc<str>, i32, Box<str>)], ttl: Duration) -> Answers<()> {
        let (there, has) = self.there_of(marks, |_| 0);
        placed(self.memory.put_marks(&there, ttl).await, has)
    }

    async fn find_marks(&self, of: &[(Arc<str>, i32)]) -> Answers<Option<Box<str>>> {
        let (there, has) = self.there_of(of, |_| 0);
        placed(self.memory.find_marks(&there).await, has)
    }
}

#[async_trait]
impl ResultTable for FaultyRegistry {
    async fn expect_results(&self, expected: &[Expectation]) -> Answers<()> {
        let (there, has) = self.there(expected, |one| one.request.as_uuid());
        placed(self.memory.expect_results(&there).await, has)
    }

    async fn store_results(&self, results: &[Arrival]) -> Answers<Stored> {
        let (there, has) = self.there(results, |one| one.request.as_uuid());
        placed(self.memory.store_results(&there).await, has)
    }

    async fn find_results(&self, requests: &[RequestId]) -> Answers<Option<ResultEntry>> {
        let (there, has) = self.there(requests, RequestId::as_uuid);
        placed(self.memory.find_results(&there).await, has)
    }
}
