//! The harness: clusters of real gateway processes on a real Kafka and a real Redis, and what talks
//! to them. In reading order:
//!
//! * [`cluster`]: N nodes with their topics, and what may be done to them
//! * [`client`], [`raw`], [`http`], [`wscat`]: those who ask
//! * [`traffic`]: many of them at once, who count what they got
//! * [`worker`]: those who answer
//! * [`tokens`]: who vouches for users
//! * [`metrics`]: what a node says of itself
//! * [`infra`]: Kafka and Redis, attached to or started
//! * [`process`]: child processes that never outlive the tests, and their logs
//! * [`load`]: the load generator's parts and the yardsticks
//!
//! Nothing here knows how the gateway works inside.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep};

pub mod client;
pub mod cluster;
pub mod http;
pub mod infra;
pub mod load;
pub mod metrics;
pub mod process;
pub mod raw;
pub mod tokens;
pub mod traffic;
pub mod worker;
pub mod wscat;

/// How long anything that should happen soon may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// Shows a text in the test's output.
#[expect(clippy::print_stderr, reason = "the test runner captures it and shows it on failure")]
pub fn say(text: &str) {
    eprintln!("{text}");
}

/// Tries until it succeeds.
///
/// # Errors
/// The last attempt's error, once `within` has passed.
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
        if started.elapsed() >= within {
            return Err(failure).with_context(|| format!("not within {within:?}: {what}"));
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
