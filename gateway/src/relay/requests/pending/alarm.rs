//! Lets whoever looks through a table of deadlines sleep until the next one, however many come and go.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// When deadlines are looked at next: who adds an earlier one says so.
#[derive(Debug)]
pub(super) struct Alarm {
    origin: Instant,
    /// Nanoseconds after `origin`; [`Self::ANY`] while the table is looked through.
    at: AtomicU64,
    earlier: Notify,
}

impl Alarm {
    const ANY: u64 = u64::MAX;

    /// One that every deadline is earlier than.
    pub(super) fn new() -> Self {
        let (at, earlier) = (AtomicU64::new(Self::ANY), Notify::new());
        Self { origin: Instant::now(), at, earlier }
    }

    /// A deadline has been added to the table.
    pub(super) fn mind(&self, deadline: Instant) {
        if self.nanos(deadline) < self.at.load(Ordering::SeqCst) {
            self.earlier.notify_one();
        }
    }

    /// Waits until the earliest deadline of the table has passed, as `earliest` found it. Cancel safe.
    pub(super) async fn due(&self, earliest: impl Fn() -> Option<Instant>) {
        loop {
            // What is added from here on, behind the back of the look, says so.
            self.at.store(Self::ANY, Ordering::SeqCst);
            let Some(next) = earliest() else {
                self.earlier.notified().await;
                continue;
            };
            self.at.store(self.nanos(next), Ordering::SeqCst);
            tokio::select! {
                biased;
                () = sleep_until(next) => return,
                () = self.earlier.notified() => {}
            }
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from((at - self.origin).as_nanos()).unwrap_or(Self::ANY - 1)
    }
}
