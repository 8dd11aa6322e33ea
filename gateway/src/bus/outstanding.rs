//! Counts what a producer has taken and not yet reported.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A count that can be waited on until it is zero.
#[derive(Debug, Default)]
pub(super) struct Outstanding {
    count: AtomicUsize,
    idle: Notify,
}

impl Outstanding {
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    pub(super) fn add(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn remove(&self) {
        if self.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.idle.notify_waiters();
        }
    }

    /// Waits until nothing is outstanding.
    pub(super) async fn none(&self) {
        loop {
            // Registered before the look, so that a removal in between is not missed.
            let idle = self.idle.notified();
            if self.count() == 0 {
                return;
            }
            idle.await;
        }
    }
}
