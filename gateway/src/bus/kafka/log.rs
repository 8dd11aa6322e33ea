//! librdkafka's log lines as tracing events, limited in number.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rdkafka::{config::RDKafkaLogLevel, error::KafkaError};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::{
    connection::{Connections, Failure},
    is_connectivity,
};
use crate::tasks::locked;

/// How many lines a client may log in one [`WINDOW`].
const LINES_MAX: u32 = 5;

/// The time in which [`LINES_MAX`] lines may be logged.
const WINDOW: Duration = Duration::from_secs(30);

/// The log of one client. A broker that is down makes librdkafka repeat itself with every attempt
/// to connect; what is too much is counted, and the count is told with the next line that is let
/// through.
#[derive(Debug)]
pub(super) struct ClientLog {
    /// Which client, as the operator knows it.
    client: String,
    window: Mutex<Window>,
    connections: Mutex<Connections>,
}

impl ClientLog {
    pub(super) fn new(client: String) -> Self {
        let window = Window { began: Instant::now(), lines: 0, suppressed: 0 };
        Self { client, window: Mutex::new(window), connections: Mutex::default() }
    }

    /// One line of librdkafka's own log.
    pub(super) fn line(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Every client is handed all properties, and takes what concerns it.
        let is_expected = facility == "CONFWARN" && message.contains("will be ignored by this");
        if facility == "FAIL" {
            if let Some(failure) = Failure::of_log(message) {
                return self.failed(&failure);
            }
            let is_error = matches!(level, RDKafkaLogLevel::Error | RDKafkaLogLevel::Critical);
            if is_error {
                // The client reports the same as an error, too.
                debug!(target: "librdkafka", client = %self.client, facility, "{message}");
                return;
            }
        }
        if matches!(level, RDKafkaLogLevel::Debug) || is_expected {
            // The former only when the user asked for it with the property `debug`: no limit then.
            debug!(target: "librdkafka", client = %self.client, facility, "{message}");
            return;
        }
        let Some(suppressed) = self.admit() else { return };
        let client = &self.client;
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => {
                error!(target: "librdkafka", %client, facility, suppressed, "{message}");
            }
            RDKafkaLogLevel::Warning => {
                warn!(target: "librdkafka", %client, facility, suppressed, "{message}");
            }
            _ => info!(target: "librdkafka", %client, facility, suppressed, "{message}"),
        }
    }

    /// What librdkafka reports as an error of the whole client. A broker that cannot be talked to is
    /// told once, and again when the reason changes.
    pub(super) fn error(&self, error: &KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if let Some(failure) = code.and_then(|code| Failure::of(code, reason)) {
            self.failed(&failure);
        } else if code.is_some_and(is_connectivity) {
            debug!(target: "librdkafka", client = %self.client, %error, "{reason}");
        } else {
            self.warning(&format!("{error}: {reason}"));
        }
    }

    fn failed(&self, failure: &Failure) {
        let client = &self.client;
        if locked(&self.connections).failed(failure, Instant::now()) {
            warn!(target: "librdkafka", %client, "kafka: {failure}");
        } else {
            debug!(target: "librdkafka", %client, "kafka: {failure}");
        }
    }

    /// A broker has answered.
    pub(super) fn connected(&self) {
        locked(&self.connections).answered();
    }

    /// Why no broker answers, as far as is known.
    pub(super) fn disconnected(&self) -> Option<String> {
        locked(&self.connections).latest(Instant::now()).map(ToString::to_string)
    }

    /// Something the adapter itself has to say about the client.
    pub(super) fn warning(&self, message: &str) {
        if let Some(suppressed) = self.admit() {
            warn!(target: "librdkafka", client = %self.client, suppressed, "{message}");
        }
    }

    fn admit(&self) -> Option<u32> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now())
    }
}

#[derive(Debug)]
struct Window {
    began: Instant,
    lines: u32,
    suppressed: u32,
}

impl Window {
    /// Whether one more line may go out, and how many were held back before it.
    fn admit(&mut self, now: Instant) -> Option<u32> {
        if now.duration_since(self.began) >= WINDOW {
            self.began = now;
            self.lines = 0;
        }
        if self.lines == LINES_MAX {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_over_the_limit_are_counted_and_told_later() {
        let start = Instant::now();
        let mut window = Window { began: start, lines: 0, suppressed: 0 };
        for _ in 0..LINES_MAX {
            assert_eq!(window.admit(start), Some(0));
        }
        assert_eq!(window.admit(start), None);
        assert_eq!(window.admit(start), None);
        assert_eq!(window.admit(start + WINDOW), Some(2));
        assert_eq!(window.admit(start + WINDOW), Some(0));
    }
}
