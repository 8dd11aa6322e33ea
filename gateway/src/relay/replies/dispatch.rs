//! What a record of the reply topic means: it goes to whoever waits for it on this node, is
//! forwarded, or is of no use.

use std::{collections::HashMap, sync::Arc};

use registry::RequestId;
use tokio::time::Instant;

use super::Forwarding;
use crate::{
    bus::Incoming,
    relay::{
        dialects::reply,
        offsets::{Content, OffsetGuard, OffsetTracker, Record},
        reading::{Handled, Role},
        requests::{
            Reception, Requests,
            foreign::{ForeignReply, Guide},
            parts::Room,
            pending::Entry,
        },
        services::Service,
    },
    telemetry::{LogThrottle, ReplyPath, Telemetry},
    wire::Reply,
};

/// What is done with replies.
#[derive(Debug)]
pub struct Dispatch {
    requests: Arc<Requests>,
    forwarding: Arc<Forwarding>,
    telemetry: Arc<Telemetry>,
    /// The requests, and the parts of their replies, for which partitions wait.
    crowds: HashMap<i32, (RequestId, Option<u32>)>,
    malformed: LogThrottle,
}

impl Dispatch {
    /// Replies of this relay's.
    pub fn new(
        requests: &Arc<Requests>,
        forwarding: &Arc<Forwarding>,
        telemetry: &Arc<Telemetry>,
    ) -> Self {
        Self {
            requests: Arc::clone(requests),
            forwarding: Arc::clone(forwarding),
            telemetry: Arc::clone(telemetry),
            crowds: HashMap::new(),
            malformed: LogThrottle::default(),
        }
    }
}

impl Role for Dispatch {
    fn on_record(&mut self, record: &Incoming<'_>, window: &OffsetTracker) -> Handled {
        let request = match reply::correlation(record) {
            Ok(request) => request,
            Err(reason) => {
                skip(&self.telemetry, &mut self.malformed, record, reason.as_str());
                return Handled::Done;
            }
        };
        if reply::is_too_large(record) {
            skip(&self.telemetry, &mut self.malformed, record, "too_large");
        }
        let path = |entry: &Entry| match entry.partition {
            Some(expected) if expected == record.partition => ReplyPath::Affinity,
            _ => ReplyPath::Local,
        };
        let guard = |reply: &Reply| {
            let copy = Record::new(request, reply.clone());
            Some(window.guard(record.offset, copy))
        };
        let mut part = None;
        let read = |service: &Service| {
            let reply = reply::read(record, |name| service.passes_to_client(name));
            part = reply.item.part;
            reply
        };
        match self.requests.completion().deliver(request, path, None, guard, read) {
            Reception::Delivered => return Handled::Done,
            Reception::Over => {
                self.requests.services.count_reply(ReplyPath::Unrouted);
                return Handled::Done;
            }
            // The session keeps the guard of its offset.
            Reception::Kept(_) => {}
            Reception::Crowded(kept) => {
                self.crowds.insert(record.partition, (request, part));
                if kept.is_none() {
                    return Handled::Done;
                }
            }
            Reception::Unknown => {
                // Only the node where the request waits knows which headers may pass, so all that
                // might are taken along.
                let reply = reply::read(record, |_| true);
                let guard = window.guard(record.offset, Record::new(request, reply));
                self.forwarding.take(foreign(guard));
            }
        }
        Handled::Waits
    }

    fn holds_up(&mut self, partition: i32) -> bool {
        if self.crowds.is_empty() {
            return false;
        }
        let Some(&(request, part)) = self.crowds.get(&partition) else { return false };
        let is_crowded = self.requests.completion().streams().room(request, part) == Room::Crowded;
        if !is_crowded {
            self.crowds.remove(&partition);
        }
        is_crowded
    }

    fn handle_again(&mut self, guard: OffsetGuard) {
        self.forwarding.take(foreign(guard));
    }

    fn owns(&mut self, partitions: &[i32], count: Option<i32>) {
        self.requests.affinity.own(partitions, count.unwrap_or(0));
    }
}

/// Counts a record that is no good reply, and logs it, throttled.
fn skip(
    telemetry: &Telemetry,
    throttle: &mut LogThrottle,
    record: &Incoming<'_>,
    reason: &'static str,
) {
    telemetry.record_skipped(reason);
    if let Some(muted) = throttle.tick(Instant::now()) {
        let (partition, offset) = (record.partition, record.offset);
        tracing::warn!(partition, offset, reason, muted, "no good reply on the reply topic");
    }
}

/// The reply of a waiting record for which nobody on this node waits.
pub(super) fn foreign(guard: OffsetGuard) -> ForeignReply {
    let Content::Reply { request, reply } = guard.record().content.clone() else {
        unreachable!("an event waits under a guard of its own kind until it is written")
    };
    ForeignReply {
        request,
        reply,
        guard: Some(guard),
        read_at: Instant::now(),
        guide: Guide::default(),
        wants: None,
        is_early: false,
        unread: 0,
    }
}

#[cfg(test)]
mod tests;
