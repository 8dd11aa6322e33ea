//! The requests that wait on this node.
//!
//! A sharded table. Whoever takes an entry out ends the request; nothing else may.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use registry::{RequestId, Route};
use tokio::time::Instant;

use self::alarm::Alarm;
pub use self::entry::{Accepted, Entry, Waiter};
pub use super::{
    answer::{Answer, Outcome, Timing},
    stream::Early,
};
use crate::tasks::locked;

mod alarm;
mod entry;

/// Enough shards that two threads seldom meet in one.
const SHARDS: usize = 64;

type Entries = HashMap<RequestId, Entry>;

#[derive(Debug, Default)]
struct Shard {
    entries: Entries,
    /// No entry's deadline is before this; `None` when the shard is empty.
    earliest: Option<Instant>,
}

/// All waiting requests of a node.
#[derive(Debug)]
pub struct Pending {
    shards: Box<[Mutex<Shard>]>,
    count: AtomicUsize,
    alarm: Alarm,
}

impl Pending {
    /// An empty table.
    pub fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, count: AtomicUsize::new(0), alarm: Alarm::new() }
    }

    /// How many requests wait.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether no request waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a request that waits from now on.
    pub fn insert(&self, request: RequestId, entry: Entry) {
        let Ok(()) = self.insert_if(request, entry, |_| Ok::<_, Infallible>(()));
    }

    /// Adds a request that waits from now on, if it begins. Whoever sees that it has begun, and looks
    /// here, finds it.
    ///
    /// # Errors
    /// What `begins` says; nothing was added.
    pub fn insert_if<E>(
        &self,
        request: RequestId,
        entry: Entry,
        begins: impl FnOnce(&Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        let deadline = entry.deadline;
        let mut shard = locked(self.shard(request));
        begins(&entry)?;
        shard.earliest = Some(shard.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        if shard.entries.insert(request, entry).is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        drop(shard);
        self.alarm.mind(deadline);
        Ok(())
    }

    /// Takes a request out, to end it.
    pub fn take(&self, request: RequestId) -> Option<Entry> {
        self.take_if(request, |_| true)
    }

    /// Takes a request out if `ready` says so; `ready` may change the entry, its deadline too, and
    /// leave it.
    pub fn take_if(
        &self,
        request: RequestId,
        ready: impl FnOnce(&mut Entry) -> bool,
    ) -> Option<Entry> {
        let mut shard = locked(self.shard(request));
        let entry = shard.entries.get_mut(&request)?;
        let before = entry.deadline;
        if !ready(entry) {
            let deadline = entry.deadline;
            if deadline < before {
                shard.earliest = shard.earliest.map(|earliest| earliest.min(deadline));
                drop(shard);
                self.alarm.mind(deadline);
            }
            return None;
        }
        let entry = shard.entries.remove(&request)?;
        if shard.entries.is_empty() {
            shard.earliest = None;
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some(entry)
    }

    /// Whether the request waits here; `look` may read and change its entry.
    pub fn look<T>(&self, request: RequestId, look: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        locked(self.shard(request)).entries.get_mut(&request).map(look)
    }

    /// Takes out every request whose deadline has passed, in the order of their ids. Cheap while
    /// none has passed: a shard is searched only if one of its entries may be due.
    pub fn take_expired(&self, now: Instant) -> Vec<(RequestId, Entry)> {
        let mut expired = Vec::new();
        for shard in &self.shards {
            let mut shard = locked(shard);
            if shard.earliest.is_some_and(|earliest| earliest <= now) {
                expired.extend(shard.entries.extract_if(|_, entry| entry.deadline <= now));
                shard.earliest = shard.entries.values().map(|entry| entry.deadline).min();
            }
        }
        self.count.fetch_sub(expired.len(), Ordering::Relaxed);
        expired.sort_unstable_by_key(|(request, _)| *request);
        expired
    }

    /// Waits until a deadline has passed, or may have: the request may have ended meanwhile. Wakes
    /// up only for that, however many requests come and go. Cancel safe.
    pub async fn due(&self) {
        let earliest = || self.shards.iter().filter_map(|shard| locked(shard).earliest).min();
        self.alarm.due(earliest).await;
    }

    /// Takes out every HTTP call.
    pub fn take_calls(&self) -> Vec<(RequestId, Entry)> {
        let mut calls = Vec::new();
        for shard in &self.shards {
            let is_call = |_: &RequestId, entry: &mut Entry| entry.waiter.is_call();
            calls.extend(locked(shard).entries.extract_if(is_call));
        }
        self.count.fetch_sub(calls.len(), Ordering::Relaxed);
        calls
    }

    /// How many HTTP calls wait.
    pub fn calls(&self) -> usize {
        let calls = |shard: &Mutex<Shard>| {
            let shard = locked(shard);
            shard.entries.values().filter(|entry| entry.waiter.is_call()).count()
        };
        self.shards.iter().map(calls).sum()
    }

    /// The routes of all waiting requests.
    pub fn routes(&self) -> Vec<(RequestId, Arc<Route>)> {
        let mut routes = Vec::with_capacity(self.len());
        for shard in &self.shards {
            let shard = locked(shard);
            routes.extend(shard.entries.iter().map(|(id, entry)| (*id, Arc::clone(&entry.route))));
        }
        routes
    }

    fn shard(&self, request: RequestId) -> &Mutex<Shard> {
        // The last random byte before this node's tag, which all ids share, and before the word
        // that affinity chooses.
        let at = request.as_uuid().as_bytes()[9] as usize % SHARDS;
        &self.shards[at]
    }
}

impl Default for Pending {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
pub(super) mod tests;
