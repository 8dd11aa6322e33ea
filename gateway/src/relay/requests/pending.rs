//! The requests that wait on this node: who waits, until when, and what is known of the record.
//!
//! A sharded table. Whoever takes an entry out ends the request; nothing else may.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use registry::{RequestId, Route};
use tokio::{sync::oneshot, time::Instant};

use self::alarm::Alarm;
use super::recording::Recording;
use crate::{
    error::Failure,
    relay::{
        checkpoints::format::{RequestDetail, millis},
        offsets::OffsetGuard,
        services::Service,
        session::{Digest, Session},
    },
    tasks::locked,
    telemetry::Edge,
    wire::{ClientId, Reply},
};

mod alarm;

/// Enough shards that two threads seldom meet in one.
const SHARDS: usize = 64;

/// How a request ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// With the service's reply, good or bad.
    Reply(Reply),
    /// Without a reply.
    Failure(Failure),
}

/// How long the stages of a request took, for a caller to whom that is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Until the broker acknowledged it.
    pub produce: Option<Duration>,
    /// From there until its reply was read.
    pub service: Option<Duration>,
    /// From the node that read the reply to this one.
    pub forward: Option<Duration>,
}

/// What a waiting HTTP call gets in the end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// How the request ended.
    pub outcome: Outcome,
    /// How long its stages took.
    pub timing: Timing,
}

/// Who waits.
#[derive(Debug)]
pub enum Waiter {
    /// A session, which knows the request under an id of its own.
    Session {
        /// The session.
        session: Arc<Session>,
        /// The client's id.
        id: ClientId,
        /// The request's fingerprint, by which a repeated one is recognised.
        digest: Digest,
        /// Whether it is to be told when the broker has recorded the request.
        receipt: bool,
    },
    /// An HTTP call.
    Call(oneshot::Sender<Answer>),
}

impl Waiter {
    /// Through which edge the request came.
    pub const fn edge(&self) -> Edge {
        match self {
            Self::Session { .. } => Edge::Ws,
            Self::Call(_) => Edge::Rest,
        }
    }

    /// Whether somebody is waiting to be told that the broker has recorded the request.
    pub const fn wants_receipt(&self) -> bool {
        matches!(self, Self::Session { receipt: true, .. })
    }

    /// Whether it is this session that waits.
    pub fn is_of(&self, session: &Arc<Session>) -> bool {
        matches!(self, Self::Session { session: waiting, .. } if Arc::ptr_eq(waiting, session))
    }

    /// The client wants a receipt.
    pub fn want_receipt(&mut self) {
        if let Self::Session { receipt, .. } = self {
            *receipt = true;
        }
    }

    /// The client has its receipt.
    pub fn had_receipt(&mut self) {
        if let Self::Session { receipt, .. } = self {
            *receipt = false;
        }
    }
}

impl Entry {
    /// The session that waits, if it must survive this node.
    pub fn durable_session(&self) -> Option<&Arc<Session>> {
        match &self.waiter {
            Waiter::Session { session, .. } => Some(session).filter(|session| session.is_durable()),
            Waiter::Call(_) => None,
        }
    }

    /// What the session's next owner has to know; `None` for an HTTP call.
    pub fn detail(&self) -> Option<RequestDetail> {
        let Waiter::Session { id, digest, receipt, .. } = &self.waiter else { return None };
        let position = match self.recording {
            Recording::Confirmed { position, .. } => Some((position.partition, position.offset)),
            Recording::Waiting | Recording::Unconfirmed => None,
        };
        let now = Instant::now();
        Some(RequestDetail {
            id: id.clone(),
            digest: digest.0,
            service: (&*self.service.name).into(),
            age_ms: millis(now.saturating_duration_since(self.started)),
            left_ms: millis(self.deadline.saturating_duration_since(now)),
            receipt: *receipt,
            position,
        })
    }
}

/// A reply that came before the receipt, which its client has to see first.
#[derive(Debug)]
pub struct Early {
    /// The reply itself.
    pub reply: Reply,
    /// How long it took from another node.
    pub forward: Option<Duration>,
    /// Keeps the reply's offset from being committed.
    pub guard: Option<OffsetGuard>,
}

/// One waiting request.
#[derive(Debug)]
pub struct Entry {
    /// The service that answers.
    pub service: Arc<Service>,
    /// Who waits.
    pub waiter: Waiter,
    /// When it was submitted.
    pub started: Instant,
    /// When it ends by itself.
    pub deadline: Instant,
    /// The owned partition on which its reply is expected.
    pub partition: Option<i32>,
    /// What is known of its record.
    pub recording: Recording,
    /// The reply, when it has to wait for the receipt.
    pub early: Option<Early>,
    /// Its route in the registry.
    pub route: Arc<Route>,
}

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
        let deadline = entry.deadline;
        let mut shard = locked(self.shard(request));
        shard.earliest = Some(shard.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        if shard.entries.insert(request, entry).is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        drop(shard);
        self.alarm.mind(deadline);
    }

    /// Takes a request out, to end it.
    pub fn take(&self, request: RequestId) -> Option<Entry> {
        self.take_if(request, |_| true)
    }

    /// Takes a request out if `ready` says so; `ready` may change the entry and leave it.
    pub fn take_if(
        &self,
        request: RequestId,
        ready: impl FnOnce(&mut Entry) -> bool,
    ) -> Option<Entry> {
        let mut shard = locked(self.shard(request));
        if !ready(shard.entries.get_mut(&request)?) {
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
            let is_call =
                |_: &RequestId, entry: &mut Entry| matches!(entry.waiter, Waiter::Call(_));
            calls.extend(locked(shard).entries.extract_if(is_call));
        }
        self.count.fetch_sub(calls.len(), Ordering::Relaxed);
        calls
    }

    /// How many HTTP calls wait.
    pub fn calls(&self) -> usize {
        let calls = |shard: &Mutex<Shard>| {
            let shard = locked(shard);
            shard.entries.values().filter(|entry| matches!(entry.waiter, Waiter::Call(_))).count()
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
