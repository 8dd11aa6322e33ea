//! The sessions on this node, by their ids.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use registry::SessionId;

use super::session::Session;
use crate::{error::CloseCode, tasks::locked};

/// All sessions whose connection is on this node.
#[derive(Debug, Default)]
pub struct Hub {
    sessions: Mutex<HashMap<SessionId, Arc<Session>>>,
}

impl Hub {
    /// A session has begun.
    pub fn add(&self, session: &Arc<Session>) {
        locked(&self.sessions).insert(session.id(), Arc::clone(session));
    }

    /// A session has ended.
    pub fn remove(&self, id: SessionId) {
        locked(&self.sessions).remove(&id);
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        locked(&self.sessions).len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes every session once it is owed nothing.
    pub fn drain(&self) {
        self.all().iter().for_each(|session| session.drain());
    }

    /// Closes every session now.
    pub fn close(&self, code: CloseCode) {
        self.all().iter().for_each(|session| session.close(code));
    }

    fn all(&self) -> Vec<Arc<Session>> {
        locked(&self.sessions).values().cloned().collect()
    }
}
