//! What is to be written of sessions: changes of one, its whole state, and what has to be tried
//! again.

use std::{collections::HashMap, fmt, sync::Arc};

use registry::{CheckpointStep, RegistryError, RequestId, Route, SessionId};

use super::snapshot::Snapshot;
use crate::relay::session::Session;

/// Goes on once the registry has what it waits for, or cannot be reached.
pub type Continue = Box<dyn FnOnce() + Send + Sync>;

/// What is to be copied of one session.
pub(super) struct Work {
    pub(super) session: Arc<Session>,
    /// Its record has changed, or has to be refreshed.
    pub(super) record: bool,
    /// Its whole state has to be written anew; steps are part of it then.
    pub(super) rewrite: bool,
    pub(super) steps: Vec<CheckpointStep>,
    pub(super) routes: Vec<(RequestId, Arc<Route>)>,
    pub(super) parked: Vec<u64>,
    pub(super) then: Vec<Continue>,
    /// Some of it could not be written.
    pub(super) has_failed: bool,
}

/// What could not be written, and is tried again a little later.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// These are written anew then, as they are by then.
    pub(super) sessions: HashMap<SessionId, Arc<Session>>,
    pub(super) ends: Vec<(SessionId, u64)>,
}

impl Work {
    /// The answer to a part of it, if it is one.
    pub(super) fn heard<T>(&mut self, answer: Result<T, RegistryError>) -> Option<T> {
        let session = self.session.id();
        let failed = |error| {
            tracing::debug!(%session, %error, "session not copied");
            self.has_failed = true;
        };
        answer.map_err(failed).ok()
    }

    /// All that is to be written of the session is this, or nothing; what was queued is part of it.
    pub(super) fn write_over(&mut self, whole: Option<Snapshot>) {
        (self.steps, self.parked) = whole.map(Snapshot::into_steps).unwrap_or_default();
    }

    /// The session is another node's: nothing is produced for it here any more.
    pub(super) fn let_go(&mut self) {
        self.parked.clear();
        self.then.clear();
    }

    /// Nothing yet.
    pub(super) fn new(session: &Arc<Session>) -> Self {
        Self {
            session: Arc::clone(session),
            record: false,
            rewrite: false,
            steps: Vec::new(),
            routes: Vec::new(),
            parked: Vec::new(),
            then: Vec::new(),
            has_failed: false,
        }
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("session", &self.session).finish_non_exhaustive()
    }
}
