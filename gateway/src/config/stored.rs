//! The options of responses that are stored, as types.

use std::time::Duration;

/// Results that are kept for callers who come for them later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestConfig {
    /// How long, 100 ms to 7 days.
    pub response_retention: Duration,
    /// Bytes of one of them, 1 B to 256 MiB.
    pub response_bytes_max: usize,
}
