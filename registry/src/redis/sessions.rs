//! Sessions in Redis.

use std::time::Duration;

use async_trait::async_trait;

use super::RedisRegistry;
use crate::{
    error::RegistryError,
    ids::SessionId,
    tables::sessions::{
        BackedUp, Backup, Claim, Claimed, MailboxLimits, Recorded, SessionEntry, SessionRecord,
        SessionTable,
    },
};

fn refused<T>() -> Result<T, RegistryError> {
    Err(RegistryError::Refused("sessions are not in Redis yet".to_owned()))
}

#[async_trait]
impl SessionTable for RedisRegistry {
    async fn record(
        &self,
        _records: &[SessionRecord],
        _ttl: Duration,
    ) -> Result<Vec<Recorded>, RegistryError> {
        refused()
    }

    async fn back_up(
        &self,
        _backups: &[Backup],
        _limits: MailboxLimits,
    ) -> Result<Vec<BackedUp>, RegistryError> {
        refused()
    }

    async fn find_sessions(
        &self,
        _sessions: &[SessionId],
    ) -> Result<Vec<Option<SessionEntry>>, RegistryError> {
        refused()
    }

    async fn claim(&self, _claim: &Claim) -> Result<Claimed, RegistryError> {
        refused()
    }

    async fn end_sessions(&self, _sessions: &[(SessionId, u64)]) -> Result<(), RegistryError> {
        refused()
    }
}
