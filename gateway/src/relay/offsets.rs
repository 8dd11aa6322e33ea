//! How far a partition has been handled: the *committable offset*, below which every record is done
//! with.
//!
//! A record that must wait (for a look-up, for another node, for a client) has an [`OffsetGuard`],
//! which keeps the committable offset at or below it; all other records only raise it. The window
//! of waiting records is bounded, and whoever reads the partition pauses it when the window is
//! full. No record waits for ever because somebody forgot it: see [`OffsetGuard`].

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use registry::{Event, RequestId};
use tokio::time::Instant;

use crate::{tasks::locked, wire::Reply};

/// What a waiting record is counted with beside its payload and headers.
const RECORD_BYTES: usize = 256;
/// How often a record is handled again after it was dropped. One that is dropped each time is what
/// this node cannot handle: rather one reply less than a partition that stands still.
const DROPS_MAX: u8 = 5;

/// The handled part of one partition, for one assignment of it. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct OffsetTracker {
    state: Arc<Mutex<State>>,
    budget: Budget,
}

/// The bytes that wait in all windows of a node, including those of former assignments. Clones
/// share their state.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<AtomicUsize>);

#[derive(Debug, Default)]
struct State {
    /// One past the last record read.
    read: Option<i64>,
    /// Records that wait, by rising offset; those done behind a waiting one are still listed.
    open: VecDeque<Open>,
    waiting_bytes: usize,
    /// Waiting records whose guards were dropped before they were done.
    dropped: Vec<(i64, Box<Record>)>,
    /// The partition has been given up: nothing here means anything any more.
    is_closed: bool,
}

#[derive(Debug)]
struct Open {
    offset: i64,
    bytes: usize,
    since: Instant,
    /// How many guards it has that are not done.
    guards: usize,
}

/// The content of a waiting record, kept so that the record can be handled again.
#[derive(Debug)]
pub struct Record {
    /// What it says.
    pub content: Content,
    drops: u8,
}

/// What a waiting record says, to the role that has read it.
#[derive(Clone, Debug)]
pub enum Content {
    /// A reply.
    Reply {
        /// The request that it answers.
        request: RequestId,
        /// The reply itself.
        reply: Reply,
    },
    /// An event of a view.
    Event(Event),
}

/// What has become of a record that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It still waits.
    Waits,
    /// All that its guards stood for has been handled.
    Handled,
    /// Others read the partition, and handle it again.
    Elsewhere,
}

/// The limits of what may wait.
#[derive(Clone, Copy, Debug)]
pub struct TrackerLimits {
    /// Records in one window.
    pub records_max: usize,
    /// Bytes in one window.
    pub bytes_max: usize,
    /// Bytes in all windows of the node.
    pub node_bytes_max: usize,
}

impl Budget {
    /// How many bytes wait.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Record {
    /// A reply that was read.
    pub fn new(request: RequestId, reply: Reply) -> Self {
        Self { content: Content::Reply { request, reply }, drops: 0 }
    }

    /// An event that was read.
    pub fn of_event(event: Event) -> Self {
        Self { content: Content::Event(event), drops: 0 }
    }

    fn bytes(&self) -> usize {
        RECORD_BYTES
            + match &self.content {
                Content::Reply { reply, .. } => reply.bytes(),
                Content::Event(Event { key, content, .. }) => {
                    key.key.len() + content.as_ref().map_or(0, Bytes::len)
                }
            }
    }
}

impl OffsetTracker {
    /// A window in which nothing has been read, of a node with this budget.
    pub fn new(budget: &Budget) -> Self {
        Self { budget: budget.clone(), ..Self::default() }
    }

    /// A record was read and needs nothing more.
    pub fn passed(&self, offset: i64) {
        locked(&self.state).read = Some(offset + 1);
    }

    /// A record was read and waits: the committable offset stays at or below it until
    /// [`OffsetGuard::done`].
    pub fn guard(&self, offset: i64, record: Record) -> OffsetGuard {
        let (bytes, since) = (record.bytes(), Instant::now());
        let mut state = locked(&self.state);
        state.read = Some(offset + 1);
        state.open.push_back(Open { offset, bytes, since, guards: 1 });
        state.waiting_bytes += bytes;
        drop(state);
        self.guard_again(offset, Box::new(record))
    }

    fn guard_again(&self, offset: i64, record: Box<Record>) -> OffsetGuard {
        let bytes = record.bytes();
        self.budget.0.fetch_add(bytes, Ordering::Relaxed);
        OffsetGuard { window: self.clone(), offset, bytes, record: Some(record) }
    }

    /// The committable offset: every record below it is done with. `None` before the first record.
    pub fn committable(&self) -> Option<i64> {
        let state = locked(&self.state);
        state.open.front().map(|open| open.offset).or(state.read)
    }

    /// One past the last record that was read.
    pub fn read(&self) -> Option<i64> {
        locked(&self.state).read
    }

    /// When the oldest waiting record was read.
    pub fn waits_since(&self) -> Option<Instant> {
        locked(&self.state).open.front().map(|open| open.since)
    }

    /// The name of the limit that forbids to read on, if one does. `windows` is how many partitions
    /// this node reads.
    ///
    /// Half of the node's bytes go to whichever windows need them. The other half is shared
    /// equally: so what waits in some windows, for however long, never keeps the others from being
    /// read, and all of them together stay within the limit.
    pub fn full(&self, limits: TrackerLimits, windows: usize) -> Option<&'static str> {
        let state = locked(&self.state);
        let half = limits.node_bytes_max / 2;
        if state.open.len() >= limits.records_max || state.waiting_bytes >= limits.bytes_max {
            return Some("window");
        }
        let has_its_part = state.waiting_bytes > 0 && state.waiting_bytes >= half / windows.max(1);
        (has_its_part && self.budget.bytes() >= half).then_some("window_node")
    }

    /// Takes out the records whose guards were dropped, with new guards, to be handled again: see
    /// [`OffsetGuard`]. Also returns how many records were dropped too often: these count as done.
    pub fn take_dropped(&self) -> (Vec<OffsetGuard>, usize) {
        let dropped = std::mem::take(&mut locked(&self.state).dropped);
        let (mut again, mut given_up) = (Vec::new(), 0);
        for (offset, mut record) in dropped {
            record.drops += 1;
            let is_hopeless = record.drops > DROPS_MAX;
            let guard = self.guard_again(offset, record);
            if is_hopeless {
                given_up += 1;
                guard.done();
            } else {
                again.push(guard);
            }
        }
        (again, given_up)
    }

    /// What has become of a record that was given a guard.
    pub fn fate(&self, offset: i64) -> Fate {
        let state = locked(&self.state);
        if state.is_closed {
            return Fate::Elsewhere;
        }
        match state.open.binary_search_by_key(&offset, |open| open.offset) {
            Ok(at) if state.open[at].guards > 0 => Fate::Waits,
            _ => Fate::Handled,
        }
    }

    /// Others read the partition from now on: the records that wait here no longer influence any
    /// offset.
    pub fn close(&self) {
        let mut state = locked(&self.state);
        state.is_closed = true;
        state.open = VecDeque::new();
        state.dropped = Vec::new();
    }
}

/// Keeps the offset of one waiting record from being committed. It ends in one of two ways:
/// [`OffsetGuard::done`] says that the record has been handled; if the guard is dropped without
/// that, be it by mistake, by a panic or with an aborted task, the record goes to
/// [`OffsetTracker::take_dropped`], to be handled again. A record never counts as handled because
/// nobody said anything: a node that is about to stop drops all guards, and must not commit what it
/// has not delivered. Once the window is closed, neither end has any effect.
#[derive(Debug)]
#[must_use]
pub struct OffsetGuard {
    window: OffsetTracker,
    offset: i64,
    bytes: usize,
    /// None once it is done.
    record: Option<Box<Record>>,
}

impl OffsetGuard {
    /// The record has been handled.
    pub fn done(mut self) {
        self.record = None;
        let mut state = locked(&self.window.state);
        let Ok(at) = state.open.binary_search_by_key(&self.offset, |open| open.offset) else {
            return;
        };
        state.open[at].guards -= 1;
        if state.open[at].guards == 0 {
            state.waiting_bytes -= state.open[at].bytes;
        }
        while state.open.front().is_some_and(|open| open.guards == 0) {
            state.open.pop_front();
        }
    }

    /// Has the record wait for several things, each with a guard of its own in the place of this one:
    /// it has been handled when all of them are done. None of them means that it is done.
    pub fn share(mut self, contents: Vec<Content>) -> Vec<Self> {
        if contents.is_empty() {
            self.done();
            return Vec::new();
        }
        {
            let mut state = locked(&self.window.state);
            if let Ok(at) = state.open.binary_search_by_key(&self.offset, |open| open.offset) {
                state.open[at].guards += contents.len() - 1;
            }
        }
        let drops = self.record.take().map_or(0, |record| record.drops);
        let record = |content| Box::new(Record { content, drops });
        let guard = |content| self.window.guard_again(self.offset, record(content));
        contents.into_iter().map(guard).collect()
    }

    /// Where the record is: its window, and its offset there.
    pub fn place(&self) -> (&OffsetTracker, i64) {
        (&self.window, self.offset)
    }

    /// The content of the record.
    pub fn record(&self) -> &Record {
        self.record.as_ref().expect("only `done` takes it out, and the guard with it")
    }
}

impl Drop for OffsetGuard {
    fn drop(&mut self) {
        self.window.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
        let Some(record) = self.record.take() else { return };
        let mut state = locked(&self.window.state);
        if !state.is_closed {
            state.dropped.push((self.offset, record));
        }
    }
}

#[cfg(test)]
impl Record {
    /// A reply of so many bytes that is nobody's.
    pub(super) fn sized(bytes: usize) -> Self {
        let payload = bytes::Bytes::from(vec![b'x'; bytes]);
        let request = RequestId::from_uuid(uuid::Uuid::from_u128(7));
        Self::new(request, Reply { payload, ..Reply::default() })
    }
}

#[cfg(test)]
mod tests;
