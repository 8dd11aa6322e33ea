//! The harness: clusters of real gateway processes on a real Kafka and a real Redis, and what talks
//! to them. In reading order:
//!
//! * [`cluster`]: N nodes with their topics, and what may be done to them
//! * [`client`], [`ticket`], [`raw`], [`http`], [`terminal`]: those who ask
//! * [`traffic`]: many of them at once, who count what they got
//! * [`reliable`], [`account`]: clients whose sessions survive, and what became of their requests
//! * [`worker`]: those who answer
//! * [`faults`], [`drill`]: what may happen to a cluster meanwhile
//! * [`metrics`]: what a node says of itself; [`meter`]: what processes use
//! * [`infra`]: Kafka and Redis, attached to or started
//! * [`process`]: child processes that never outlive the tests, and their logs
//!
//! Nothing here knows how the gateway works inside.

use std::{
    error::Error,
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep};

pub mod account;
pub mod client;
pub mod cluster;
pub mod drill;
pub mod faults;
pub mod http;
pub mod infra;
pub mod meter;
pub mod metrics;
pub mod process;
pub mod raw;
pub mod reliable;
pub mod terminal;
pub mod ticket;
pub mod traffic;
pub mod worker;

/// How long anything that should happen soon may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// Shows a text in the test's output.
#[expect(clippy::print_stderr, reason = "the test runner captures it and shows it on failure")]
pub fn say(text: &str) {
    eprintln!("{text}");
}

/// Milliseconds since the Unix epoch.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What was waited for cannot come any more: its process has ended.
#[derive(Debug)]
pub struct Hopeless(pub String);

impl fmt::Display for Hopeless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Hopeless {}

/// Tries until it succeeds.
///
/// # Errors
/// The last attempt's error, once `within` has passed; at once when it is [`Hopeless`].
pub async fn eventually<T>(
    within: Duration,
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        let failure = match attempt().await {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        if failure.is::<Hopeless>() {
            return Err(failure).with_context(|| format!("never: {what}"));
        }
        if started.elapsed() >= within {
            return Err(failure).with_context(|| format!("not within {within:?}: {what}"));
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
