//! One partition of a topic, as its reader sees it.

use super::WINDOW;
use crate::{
    relay::offsets::{Budget, OffsetTracker},
    telemetry::{LogThrottle, UnhandledGauge},
};

/// A partition for as long as it is assigned.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) window: OffsetTracker,
    /// The lowest offset that the next record may have.
    pub(super) next: i64,
    pub(super) stored: Option<i64>,
    pub(super) paused: bool,
    /// Whether its role wants no more of it for now.
    pub(super) held_up: bool,
    pub(super) unreadable: LogThrottle,
    /// How long its oldest record has waited.
    pub(super) oldest: UnhandledGauge,
}

impl Drop for Partition {
    fn drop(&mut self) {
        self.window.close();
    }
}

impl Partition {
    /// Whether it may be read on, as one of so many.
    pub(super) fn may_go_on(&self, partitions: usize) -> bool {
        !self.held_up && self.window.full(WINDOW, partitions).is_none()
    }

    /// Separates what was handled so far from what is read from here on. What still waits in the
    /// former window holds nothing back any more: its records are gone, or are read again.
    pub(super) fn begin_anew(&mut self, budget: &Budget) {
        self.window.close();
        self.window = OffsetTracker::new(budget);
        (self.next, self.stored) = (0, None);
    }
}
