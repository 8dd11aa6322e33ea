//! Counts the entries in the table that this version cannot read: they are skipped, but never
//! silently.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// The kinds of such entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A route.
    Route,
    /// A node's entry.
    Node,
    /// A session's record.
    Session,
    /// A request in flight of a session.
    Request,
    /// A frame of a mailbox.
    Frame,
    /// The latest event of a key of a view.
    Event,
    /// What is known of a result.
    Result,
}

/// How many entries could not be read so far, by their kinds, and the last one of each.
///
/// A clone is another handle of the same counts.
#[derive(Clone, Debug, Default)]
pub struct Unreadable(Arc<[Count; EntryKind::ALL.len()]>);

#[derive(Debug, Default)]
struct Count {
    count: AtomicU64,
    last: Mutex<String>,
}

impl EntryKind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Route,
        Self::Node,
        Self::Session,
        Self::Request,
        Self::Frame,
        Self::Event,
        Self::Result,
    ];

    /// Its name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Node => "node",
            Self::Session => "session",
            Self::Request => "request",
            Self::Frame => "frame",
            Self::Event => "event",
            Self::Result => "result",
        }
    }
}

impl Unreadable {
    /// How many there are of this kind, and where the last one was.
    pub fn of(&self, kind: EntryKind) -> (u64, String) {
        let count = &self.0[kind as usize];
        (count.count.load(Ordering::Relaxed), count.last().clone())
    }

    /// Counts one more, at this place. The text must not contain a client's data or a secret.
    pub fn add(&self, kind: EntryKind, place: impl FnOnce() -> String) {
        let count = &self.0[kind as usize];
        count.count.fetch_add(1, Ordering::Relaxed);
        *count.last() = place();
    }
}

impl Count {
    fn last(&self) -> MutexGuard<'_, String> {
        // A panic elsewhere leaves the text whole.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
