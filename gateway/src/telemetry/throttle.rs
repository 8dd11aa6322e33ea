//! Throttles log lines that would come in great numbers.

use std::time::Duration;

use tokio::time::Instant;

/// Logs the same kind of trouble at once when it begins, and from then on with one line per
/// interval that says how many there were.
#[derive(Debug, Default)]
pub struct LogThrottle {
    since: Option<Instant>,
    muted: u64,
}

impl LogThrottle {
    const INTERVAL: Duration = Duration::from_secs(10);

    /// Whether to log now, and how many were not logged since the last time.
    pub fn tick(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_some_and(|since| now < since + Self::INTERVAL) {
            self.muted += 1;
            return None;
        }
        self.since = Some(now);
        Some(std::mem::take(&mut self.muted))
    }
}
