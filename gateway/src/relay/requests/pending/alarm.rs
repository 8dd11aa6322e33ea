//! Lets the task that looks for passed deadlines sleep until the next one, however many come and
//! go.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// The time of the next look at the deadlines; whoever adds an earlier one moves it.
#[derive(Debug)]
pub(super) struct Alarm {
    origin: Instant,
    /// Nanoseconds after `origin`; [`Self::ANY`] while the table is looked through.
    at: AtomicU64,
    earlier: Notify,
}

impl Alarm {
    const ANY: u64 = u64::MAX;

    /// Later than every deadline.
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
            // A deadline that is added from here on wakes the task.
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
