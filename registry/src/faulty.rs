//! A registry in memory that can be away, and remembers what was copied to it: for the tests of those
//! who use one.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    Announcement, BackedUp, Backup, Claim, Claimed, Generation, MailboxLimits, MemoryRegistry,
    NodeEntry, NodeRef, NodeTable, Nodes, Recorded, RegistryError, RequestId, RequestTable, Route,
    SessionEntry, SessionId, SessionRecord, SessionTable, TokenHash,
};
use async_trait::async_trait;

/// The registry. A clone is another handle of the same.
#[derive(Clone, Debug, Default)]
pub struct FaultyRegistry {
    /// What is in it, also while it is away.
    pub memory: MemoryRegistry,
    away: Arc<AtomicBool>,
    backups: Arc<Mutex<Vec<Backup>>>,
}

impl FaultyRegistry {
    /// From now on every call fails, or none.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// The backups that it was given since the last time, in order.
    pub fn take_backups(&self) -> Vec<Backup> {
        std::mem::take(&mut *self.backups())
    }

    /// How many backups it was given since they were taken.
    pub fn backup_count(&self) -> usize {
        self.backups().len()
    }

    fn backups(&self) -> MutexGuard<'_, Vec<Backup>> {
        self.backups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self) -> Result<&MemoryRegistry, RegistryError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(RegistryError::Unreachable("away".into()));
        }
        Ok(&self.memory)
    }
}

#[async_trait]
impl RequestTable for FaultyRegistry {
    async fn put_routes(&self, routes: &[(RequestId, Arc<Route>)]) -> Result<(), RegistryError> {
        self.answer()?.put_routes(routes).await
    }

    async fn find_routes(
        &self,
        requests: &[RequestId],
    ) -> Result<Vec<Option<Route>>, RegistryError> {
        self.answer()?.find_routes(requests).await
    }

    async fn remove_routes(&self, requests: &[RequestId]) -> Result<(), RegistryError> {
        self.answer()?.remove_routes(requests).await
    }
}

#[async_trait]
impl NodeTable for FaultyRegistry {
    async fn announce(
        &self,
        entry: &NodeEntry,
        ttl: Duration,
    ) -> Result<Announcement, RegistryError> {
        self.answer()?.announce(entry, ttl).await
    }

    async fn nodes(&self) -> Result<Nodes, RegistryError> {
        self.answer()?.nodes().await
    }

    async fn generation(&self) -> Result<Option<Generation>, RegistryError> {
        self.answer()?.generation().await
    }

    async fn leave(&self, node: &NodeRef) -> Result<(), RegistryError> {
        self.answer()?.leave(node).await
    }
}

#[async_trait]
impl SessionTable for FaultyRegistry {
    async fn record(
        &self,
        records: &[SessionRecord],
        ttl: Duration,
    ) -> Result<Vec<Recorded>, RegistryError> {
        self.answer()?.record(records, ttl).await
    }

    async fn back_up(
        &self,
        backups: &[Backup],
        limits: MailboxLimits,
    ) -> Result<Vec<BackedUp>, RegistryError> {
        let memory = self.answer()?;
        self.backups().extend_from_slice(backups);
        memory.back_up(backups, limits).await
    }

    async fn find_sessions(
        &self,
        sessions: &[SessionId],
    ) -> Result<Vec<Option<SessionEntry>>, RegistryError> {
        self.answer()?.find_sessions(sessions).await
    }

    async fn try_token(
        &self,
        session: &SessionId,
        token: &TokenHash,
    ) -> Result<Option<SessionEntry>, RegistryError> {
        self.answer()?.try_token(session, token).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, RegistryError> {
        self.answer()?.claim(claim).await
    }

    async fn end_sessions(&self, sessions: &[(SessionId, u64)]) -> Result<(), RegistryError> {
        self.answer()?.end_sessions(sessions).await
    }
}
