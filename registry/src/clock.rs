//! The time of day, for what is compared between processes. Everything else goes by tokio's clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::SystemTime,
};

use tokio::time::Instant;

use crate::tables::millis;

/// Tells the time since the Unix epoch.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The system's clock.
    #[default]
    System,
    /// A clock that goes as tokio's does, so that it stands still where that one is paused.
    Since {
        /// When it was started.
        start: Instant,
        /// What it showed then, in milliseconds.
        unix_ms: u64,
        /// How many milliseconds it is ahead; a test may change that at any time.
        ahead_ms: Arc<AtomicI64>,
    },
}

impl Clock {
    /// Milliseconds since the Unix epoch; 0 when the system's clock is before it.
    pub fn unix_ms(&self) -> u64 {
        match self {
            Self::System => {
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis)
            }
            Self::Since { start, unix_ms, ahead_ms } => unix_ms
                .saturating_add(millis(start.elapsed()))
                .saturating_add_signed(ahead_ms.load(Ordering::Relaxed)),
        }
    }
}
