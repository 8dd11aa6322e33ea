//! Whether a client's token resumes its session, and whether the session's checkpoint can be relied
//! on.
//!
//! Changes nothing, and delays nobody, because anybody can come with a token that is not valid.

use std::{ops::Range, sync::Arc, time::Duration};

use registry::{RegistryError, SessionEntry, all};
use tokio::time::Instant;

use super::{RECOVERY_PATIENCE, RELEASE_TIMEOUT, Resumption, Undecided};
use crate::relay::{
    checkpoints::format,
    cluster::NodeTag,
    lifecycle::answer::Answer,
    session::{Session, Token},
};

/// A token may arrive before the session's entry is written, so one that is not found is tried once
/// more.
const SECOND_TRY: Duration = Duration::from_millis(50);
/// No session has this epoch, so nothing is handed over: the owner only answers that it holds the
/// session.
const NO_EPOCHS: Range<u64> = 0..0;

impl Resumption {
    /// Whether the token resumes its session, according to its owner's memory, or to a registry
    /// that has not lost any of the session. Changes nothing, and delays nobody else; waits while
    /// live nodes may be about to write again what the registry has lost.
    pub(super) async fn is_good(
        &self,
        token: &Token,
        is_wanted: &mut impl FnMut() -> bool,
    ) -> Result<bool, Undecided> {
        let give_up = Instant::now() + RECOVERY_PATIENCE;
        loop {
            if self.opened_here(token).is_some() {
                return Ok(true);
            }
            let found = self.try_token(token).await?;
            // Asked only now, so that a registry which goes back to an earlier state in between is
            // found out.
            match &found {
                Some(_) => self.membership.saw(self.registry.generation().await?),
                // A table that does not know this very node has lost all others' sessions too.
                None => self.membership.refresh().await?,
            }
            let is_whole = found.as_ref().is_some_and(|entry| self.is_whole(entry));
            if is_whole || !is_wanted() {
                return Ok(found.is_some());
            }
            let is_to_come = self.membership.is_recovering()
                || (found.is_none()
                    && Instant::now() < give_up
                    && self.is_unrecorded(token).await?);
            if !is_to_come {
                return Ok(found.is_some());
            }
            self.wait_for_recovery().await?;
        }
    }

    /// What the token opens, according to the registry.
    async fn try_token(&self, token: &Token) -> Result<Option<SessionEntry>, RegistryError> {
        let (id, hash) = (token.session(), token.hash());
        let found = self.registry.try_token(&id, &hash).await?;
        if found.is_some() {
            return Ok(found);
        }
        tokio::time::sleep(SECOND_TRY).await;
        self.registry.try_token(&id, &hash).await
    }

    /// Whether the registry had not heard of the session although the node on which it began owns it,
    /// because that node has not reached the registry since. The node writes it as soon as it can.
    async fn is_unrecorded(&self, token: &Token) -> Result<bool, RegistryError> {
        let id = token.session();
        let first = self.membership.find_tagged(NodeTag::read_session(id));
        let Some(entry) = first.and_then(|node| self.membership.find(&node)) else {
            return Ok(false);
        };
        // A session that is known was asked for with a token that is not valid, unless it has been
        // written since the token was tried.
        if all(self.registry.find_sessions(&[id]).await)?.iter().any(Option::is_some) {
            return Ok(self.registry.try_token(&id, &token.hash()).await?.is_some());
        }
        let answer = self.link.release(&entry, id, NO_EPOCHS, RELEASE_TIMEOUT).await;
        let answer = answer.ok().flatten();
        let answer = answer.and_then(|answer| format::decode::<Answer>(&answer));
        Ok(matches!(answer, Some(Answer::Later)))
    }

    /// The session of this token, if this node holds it.
    pub(super) fn opened_here(&self, token: &Token) -> Option<Arc<Session>> {
        let session = self.sessions.get(token.session())?;
        (session.is_held() && session.ownership().is_opened_by(token)).then_some(session)
    }

    /// Whether the whole checkpoint of a session was written to the registry in its present
    /// generation, as far as can be told. One that was written before the registry went back to an
    /// earlier state may lack frames.
    pub(super) fn is_whole(&self, entry: &SessionEntry) -> bool {
        match (entry.generation, self.membership.generation()) {
            (Some(written_in), Some(present)) => written_in == present,
            _ => true,
        }
    }
}
