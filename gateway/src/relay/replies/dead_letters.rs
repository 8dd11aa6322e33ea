//! What a record of a dead-letter topic means: its service has given the request up. It is a reply
//! that says so, and takes the way of any reply that this node has read and somebody else may wait
//! for.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Forwarding, dispatch::foreign};
use crate::{
    bus::Incoming,
    relay::{
        dialects::dead_letter,
        offsets::{OffsetGuard, OffsetTracker, Record},
        reading::{Handled, Role},
    },
    telemetry::{LogThrottle, Telemetry},
};

/// What is done with dead letters.
#[derive(Debug)]
pub struct DeadLetters {
    forwarding: Arc<Forwarding>,
    telemetry: Arc<Telemetry>,
    malformed: LogThrottle,
}

impl DeadLetters {
    /// Dead letters of this relay's services.
    pub fn new(forwarding: &Arc<Forwarding>, telemetry: &Arc<Telemetry>) -> Self {
        let (forwarding, telemetry) = (Arc::clone(forwarding), Arc::clone(telemetry));
        Self { forwarding, telemetry, malformed: LogThrottle::default() }
    }
}

impl Role for DeadLetters {
    fn on_record(&mut self, record: &Incoming<'_>, window: &OffsetTracker) -> Handled {
        match dead_letter::read(record) {
            Ok((request, reply)) => {
                let guard = window.guard(record.offset, Record::new(request, reply));
                self.forwarding.take(foreign(guard));
                Handled::Waits
            }
            Err(reason) => {
                let (partition, offset, reason) =
                    (record.partition, record.offset, reason.as_str());
                self.telemetry.record_skipped(reason);
                if let Some(muted) = self.malformed.tick(Instant::now()) {
                    tracing::warn!(partition, offset, reason, muted, "a dead letter of no request");
                }
                Handled::Done
            }
        }
    }

    fn handle_again(&mut self, guard: OffsetGuard) {
        self.forwarding.take(foreign(guard));
    }
}
