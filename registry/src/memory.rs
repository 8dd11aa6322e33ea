//! The table of one process: what dev mode and fast tests run on.
//!
//! Owns no task and no thread: an entry that has expired is not found from that moment on, and is
//! dropped by a later write. Never talks to anything outside of the process.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use self::{expiring::Expiring, results::HeldResult, sessions::Session, views::Views};
use crate::{
    clock::Clock,
    error::RegistryError,
    ids::{NodeId, NodeRef, RequestId, SessionId},
    tables::{
        Announcement, Answers, Generation, NODE_TTL_MAX, NODE_TTL_MIN, NodeEntry, NodeTable, Nodes,
        RequestTable, Route,
    },
};

mod expiring;
mod results;
mod sessions;
mod views;

/// A registry inside this process. A clone is another handle of the same table.
///
/// No call fails or waits. Entries expire by tokio's clock, so a test that pauses it decides when;
/// what is held is bounded by what has been written and has not expired, times two.
#[derive(Clone, Debug, Default)]
pub struct MemoryRegistry {
    clock: Clock,
    tables: Arc<Mutex<Tables>>,
}

impl MemoryRegistry {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty table that goes by this clock.
    pub fn with_clock(clock: Clock) -> Self {
        Self { clock, ..Self::default() }
    }

    /// Loses everything at once, as a Redis does that comes back empty.
    pub fn wipe(&self) {
        self.restore(&Snapshot::default());
    }

    /// What it holds now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.lock().clone())
    }

    /// Goes back to what it held then, as a Redis does that comes back from a dump. What would have
    /// ended since has ended.
    pub fn restore(&self, snapshot: &Snapshot) {
        let mut tables = self.lock();
        let generation = tables.generation + 1;
        *tables = Tables { generation, ..snapshot.0.clone() };
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        // A panic between two writes leaves a table of whole entries, which is still one.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl RequestTable for MemoryRegistry {
    async fn put_routes(&self, routes: &[(RequestId, Arc<Route>)]) -> Answers<()> {
        let (now, now_ms) = (Instant::now(), self.clock.unix_ms());
        let table = &mut self.lock().routes;
        for (request, route) in routes {
            table.insert(*request, Arc::clone(route), now, route.ttl(now_ms));
        }
        vec![Ok(()); routes.len()]
    }

    async fn find_routes(&self, requests: &[RequestId]) -> Answers<Option<Route>> {
        let now = Instant::now();
        let table = &self.lock().routes;
        let find = |id| Ok(table.get(id, now).map(|route| (**route).clone()));
        requests.iter().map(find).collect()
    }

    async fn remove_routes(&self, requests: &[RequestId]) -> Answers<()> {
        let table = &mut self.lock().routes;
        for request in requests {
            table.remove(request);
        }
        vec![Ok(()); requests.len()]
    }
}

#[async_trait]
impl NodeTable for MemoryRegistry {
    async fn announce(
        &self,
        entry: &NodeEntry,
        ttl: Duration,
    ) -> Result<Announcement, RegistryError> {
        let now = Instant::now();
        let table = &mut self.lock().nodes;
        let known = table.get(&entry.node.id, now).map(|known| known.node.incarnation);
        let announcement = match known {
            Some(known) if known > entry.node.incarnation => return Ok(Announcement::Superseded),
            Some(known) if known == entry.node.incarnation => Announcement::Refreshed,
            _ => Announcement::Fresh,
        };
        let ttl = ttl.clamp(NODE_TTL_MIN, NODE_TTL_MAX);
        table.insert(entry.node.id.clone(), entry.clone(), now, ttl);
        Ok(announcement)
    }

    async fn nodes(&self) -> Result<Nodes, RegistryError> {
        let now = Instant::now();
        let mut entries: Vec<_> = self.lock().nodes.live(now).cloned().collect();
        entries.sort_unstable_by(|a, b| a.node.id.cmp(&b.node.id));
        Ok(Nodes { entries, unread: Vec::new() })
    }

    async fn generation(&self) -> Result<Option<Generation>, RegistryError> {
        Ok(Some(Generation(self.lock().generation)))
    }

    async fn leave(&self, node: &NodeRef) -> Result<(), RegistryError> {
        let table = &mut self.lock().nodes;
        if table.get(&node.id, Instant::now()).is_some_and(|held| held.node == *node) {
            table.remove(&node.id);
        }
        Ok(())
    }
}

/// What a registry held at some time.
#[derive(Clone, Debug, Default)]
pub struct Snapshot(Tables);

#[derive(Clone, Debug, Default)]
struct Tables {
    /// How often they went back to an earlier state.
    generation: u64,
    routes: Expiring<RequestId, Arc<Route>>,
    nodes: Expiring<NodeId, NodeEntry>,
    sessions: Expiring<SessionId, Session>,
    views: Views,
    results: Expiring<RequestId, HeldResult>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[tokio::test(start_paused = true)]
    async fn passes_the_conformance_suite() {
        conformance::run_all(async || MemoryRegistry::new()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_clone_is_the_same_table_and_a_wipe_empties_it() {
        let registry = MemoryRegistry::new();
        let entry = conformance::node_entry("gw-1", 1);
        let ttl = Duration::from_secs(6);
        assert_eq!(registry.announce(&entry, ttl).await, Ok(Announcement::Fresh));
        assert_eq!(registry.clone().announce(&entry, ttl).await, Ok(Announcement::Refreshed));
        registry.wipe();
        assert_eq!(registry.nodes().await, Ok(Nodes::default()));
        assert_eq!(registry.announce(&entry, ttl).await, Ok(Announcement::Fresh));
    }
}
