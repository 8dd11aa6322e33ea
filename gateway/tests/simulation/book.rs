//! What has happened, as far as it is checked, and what was wrong.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Mutex,
    time::Duration,
};

use tokio::time::Instant;

/// How long a node is cut off at most, with the time that it takes to notice.
const CUT_OFF_MAX: Duration = Duration::from_secs(5);

/// How long a node sleeps at most.
const SLEEP_MAX: Duration = Duration::from_secs(9);

/// The book of one simulation.
#[derive(Default)]
pub(crate) struct Book {
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    /// The first things that were wrong.
    wrong: Vec<String>,
    /// What has happened, for who reads a failure.
    log: Vec<String>,
    /// When the first reply to a request was in the log, by the request's id.
    replied: HashMap<String, Instant>,
    /// One past the last record of each reply partition.
    ends: BTreeMap<i32, i64>,
    /// Up to where each partition is said to be handled.
    stored: BTreeMap<i32, i64>,
    counts: BTreeMap<&'static str, u64>,
    /// When the registry has lost everything.
    wiped: Option<Instant>,
    /// When the registry has gone back to what it held some time before.
    went_back: Option<Instant>,
    /// When a node was cut off from others, or from the registry or a part of it; in order.
    cut_off: Vec<Instant>,
    /// When a node was cut off from the registry.
    unheard: Option<Instant>,
    /// When a node has died, or has lost its sessions in its sleep.
    died: Option<Instant>,
    /// Sessions of which the registry has ever heard.
    recorded: HashSet<String>,
    /// When a node has stopped in order: the registry alone has its sessions since then.
    stopped: Option<Instant>,
}

impl Book {
    fn pages(&self) -> std::sync::MutexGuard<'_, Pages> {
        self.pages.lock().unwrap()
    }

    pub(crate) fn wrong(&self, at: f64, what: String) {
        self.log(at, &format!("WRONG: {what}"));
        self.pages().wrong.push(what);
    }

    pub(crate) fn log(&self, at: f64, what: &str) {
        let line = format!("{at:8.3} {what}");
        tracing::info!("{line}");
        self.pages().log.push(line);
    }

    pub(crate) fn count(&self, what: &'static str) {
        *self.pages().counts.entry(what).or_default() += 1;
    }

    pub(crate) fn replied(&self, request: &str, partition: i32, offset: i64) {
        let mut pages = self.pages();
        pages.replied.entry(request.to_owned()).or_insert_with(Instant::now);
        pages.ends.insert(partition, offset + 1);
    }

    pub(crate) fn replied_at(&self, request: &str) -> Option<Instant> {
        self.pages().replied.get(request).copied()
    }

    pub(crate) fn stored(&self, partition: i32, offset: i64) {
        self.pages().stored.insert(partition, offset);
    }

    pub(crate) fn died(&self) {
        self.pages().died = Some(Instant::now());
    }

    /// The registry has heard of these sessions.
    pub(crate) fn recorded(&self, sessions: impl IntoIterator<Item = String>) {
        self.pages().recorded.extend(sessions);
    }

    /// Whether the registry has never heard of the session, and a node has died since it began.
    /// While the registry cannot be reached, requests go on without it, so the session may have
    /// died with its only owner.
    pub(crate) fn died_unheard(&self, session: &str, began_at: Instant) -> bool {
        let pages = self.pages();
        !pages.recorded.contains(session) && pages.died.is_some_and(|died| died >= began_at)
    }

    pub(crate) fn stopped(&self) {
        self.pages().stopped = Some(Instant::now());
    }

    /// Whether a node has died since, or was cut off for so long that another one took its sessions
    /// from their copies: the next owner does not know what had not been written by then.
    pub(crate) fn forgot_since(&self, since: Option<Instant>) -> bool {
        let pages = self.pages();
        pages.died >= since || pages.cut_off.last().map(|at| *at + CUT_OFF_MAX) >= since
    }

    pub(crate) fn unheard(&self) {
        self.cut_off();
        self.pages().unheard = Some(Instant::now());
    }

    /// Whether a node may take requests while the others take it for dead: it has slept, and has
    /// not reached the registry since. When others read the replies to such requests, they find
    /// nobody who waits for them.
    pub(crate) fn is_missed(&self) -> bool {
        let pages = self.pages();
        let since = pages.unheard.filter(|at| at.elapsed() <= CUT_OFF_MAX);
        since.is_some_and(|at| pages.died.is_some_and(|died| at <= died + SLEEP_MAX))
    }

    pub(crate) fn wiped(&self) {
        self.pages().wiped = Some(Instant::now());
    }

    pub(crate) fn wiped_at(&self) -> Option<Instant> {
        self.pages().wiped
    }

    pub(crate) fn went_back(&self) {
        self.pages().went_back = Some(Instant::now());
    }

    pub(crate) fn cut_off(&self) {
        self.pages().cut_off.push(Instant::now());
    }

    /// Whether, since then, the registry has gone back and a node was cut off or has died: its
    /// sessions were perhaps taken from their copies, and the registry does not know of that any
    /// more. What their former owner then parks gives way to the later epoch.
    pub(crate) fn forgot_a_takeover_since(&self, since: Instant) -> bool {
        let pages = self.pages();
        let recent = |at: Option<Instant>| at.is_some_and(|at| since < at);
        recent(pages.went_back) && (recent(pages.cut_off.last().copied()) || recent(pages.died))
    }

    /// Whether, since then, the registry has gone back and a node has died or stopped: so the last
    /// copy of what that one held may be lost.
    pub(crate) fn lost_a_copy_since(&self, since: Instant) -> bool {
        let pages = self.pages();
        let recent = |at: Option<Instant>| at.is_some_and(|at| since < at);
        recent(pages.went_back) && (recent(pages.died) || recent(pages.stopped))
    }

    /// Partitions whose replies have not all been handled.
    pub(crate) fn unhandled(&self) -> Vec<String> {
        let pages = self.pages();
        let stored = |partition: &i32| pages.stored.get(partition).copied().unwrap_or_default();
        let unhandled = pages.ends.iter().filter(|(partition, end)| stored(partition) != **end);
        let tell = |(partition, end): (&i32, &i64)| {
            format!("partition {partition}: {} of {end} handled", stored(partition))
        };
        unhandled.map(tell).collect()
    }

    /// What was wrong, what happened, and how often.
    pub(crate) fn close(&self) -> (Vec<String>, Vec<String>, BTreeMap<&'static str, u64>) {
        let pages = std::mem::take(&mut *self.pages());
        (pages.wrong, pages.log, pages.counts)
    }
}
