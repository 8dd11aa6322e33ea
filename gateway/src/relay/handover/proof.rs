//! Whether a client's token resumes its session, and whether the session's copy can be relied on.
//!
//! Changes nothing and holds nobody up: anybody can come with a token that is none.

use std::{sync::Arc, time::Duration};

use registry::{RegistryError, SessionEntry};

use super::{Handover, RECOVERY_TICK};
use crate::relay::{session::Session, token::Token};

/// A token may be faster than the record of its session: one that is refused is tried once more.
const SECOND_TRY: Duration = Duration::from_millis(50);

impl Handover {
    /// Whether the token resumes its session, by the word of its holder's memory, or of a registry
    /// that has not lost any of the session. Changes nothing, and holds up nobody else; waits while
    /// live nodes may be about to write again what the registry has lost.
    pub(super) async fn is_good(
        &self,
        token: &Token,
        is_wanted: &mut impl FnMut() -> bool,
    ) -> Result<bool, RegistryError> {
        let (id, hash) = (token.session(), token.hash());
        let mut is_second_try = false;
        loop {
            if self.opened_here(token).is_some() {
                return Ok(true);
            }
            let (entry, generation) =
                tokio::join!(self.registry.try_token(&id, &hash), self.registry.generation());
            self.membership.saw(generation?);
            let is_opened = match entry? {
                Some(entry) if self.is_whole(&entry) => return Ok(true),
                found => found.is_some(),
            };
            if self.membership.is_recovering() && is_wanted() {
                tokio::time::sleep(RECOVERY_TICK).await;
            } else if is_opened || std::mem::replace(&mut is_second_try, true) {
                return Ok(is_opened);
            } else {
                tokio::time::sleep(SECOND_TRY).await;
                // A table that does not know this very node has lost all others' sessions too.
                self.membership.refresh().await?;
            }
        }
    }

    /// The session of this token, if this node holds it.
    pub(super) fn opened_here(&self, token: &Token) -> Option<Arc<Session>> {
        let session = self.relay.hub().get(token.session())?;
        (session.is_held() && session.is_opened_by(token)).then_some(session)
    }

    /// Whether all of a session's copy was written to the registry as it is now, as far as can be
    /// told. One that was written before the registry went back to an earlier state may lack frames.
    pub(super) fn is_whole(&self, entry: &SessionEntry) -> bool {
        match (entry.generation, self.membership.generation()) {
            (Some(written_in), Some(present)) => written_in == present,
            _ => true,
        }
    }
}
