//! How much is asked, how fast, for how long.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

/// A load on an echo service.
#[derive(Args, Clone, Debug, Serialize)]
pub struct Plan {
    /// Open loop: requests per second, sent at their times whether or not others are answered.
    /// Without it: closed loop, `--depth` requests always in flight on each socket.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Requests in flight per socket, in a closed loop.
    #[arg(long, default_value_t = 16)]
    pub depth: usize,
    /// Sockets, spread over the addresses.
    #[arg(long, default_value_t = 50)]
    pub sockets: usize,
    /// Bytes of each payload.
    #[arg(long, default_value_t = 300)]
    pub bytes: usize,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 20.0)]
    pub seconds: f64,
    /// Seconds before that: a cold JVM costs two to three times as much.
    #[arg(long, default_value_t = 20.0)]
    pub warm_up: f64,
    /// Sessions that acknowledge: what survives a dead node, and what that costs.
    #[arg(long)]
    pub reliable: bool,
    /// The service that is asked.
    #[arg(long, default_value = "echo")]
    pub service: String,
}

impl Plan {
    /// The time before the measurement.
    pub fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up)
    }

    /// The time that is measured.
    pub fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// A payload: a JSON string of that many bytes, quotes among them.
    pub fn payload(&self) -> String {
        format!("\"{}\"", "x".repeat(self.bytes.saturating_sub(2)))
    }
}
