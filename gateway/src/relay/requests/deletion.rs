//! The deletion of one message: a record with its wire key and no value, in its partition, and the
//! answer once that is recorded.
//!
//! It waits in the pending table as a call does, so that all that ends calls ends it too: its time, a
//! broker that refuses, a caller that hangs up, a drain. Whether there is such a message nobody knows:
//! the gateway does not read the topic.

use std::sync::Arc;

use registry::Route;
use tokio::time::Instant;

use super::{
    Requests, Submission,
    call::WaitingCall,
    caller::Caller,
    outcome::refusal,
    pending::{Entry, Waiter},
    record::Written,
    recording::{Before, Record, Recording},
    submit::draining,
};
use crate::{
    bus::{Outgoing, ProduceError},
    deletable::{SUFFIX_BYTES, wire_key},
    error::{ErrorCode, Failure},
    relay::services::Service,
    telemetry::Edge,
};

/// The message that is to be deleted.
#[derive(Clone, Copy, Debug)]
pub struct Deletion<'a> {
    /// Its key, as it was given.
    pub key: &'a [u8],
    /// Its GUID.
    pub guid: &'a str,
    /// Where it is; the partition of its key when absent.
    pub partition: Option<i32>,
}

impl Requests {
    /// Deletes a message of a service. `call` is the caller's: its service and time-out count.
    ///
    /// # Errors
    /// What keeps the deletion from being produced; it is not recorded then.
    pub fn delete(
        self: &Arc<Self>,
        call: &Submission<'_>,
        deletion: &Deletion<'_>,
    ) -> Result<WaitingCall, Failure> {
        let begun = self.admit(call).and_then(|service| match self.gate.is_draining() {
            true => Err(draining()),
            false => {
                self.check_partition(&service, deletion)?;
                self.begin_deletion(&service, call, deletion)
            }
        });
        begun.map_err(|failure| self.services.refused(call.service, Edge::Rest, failure))
    }

    /// Whether the topic has the partition that the caller has named, as far as is known.
    fn check_partition(&self, service: &Service, deletion: &Deletion<'_>) -> Result<(), Failure> {
        let Some(partition) = deletion.partition else { return Ok(()) };
        match self.producer.partition_count(&service.topic) {
            Some(count) if partition >= count => {
                let topic = &service.topic;
                let message = format!("topic {topic} has {count} partitions, counted from 0");
                Err(Failure::new(ErrorCode::NotFound, message))
            }
            _ => Ok(()),
        }
    }

    fn begin_deletion(
        self: &Arc<Self>,
        service: &Arc<Service>,
        call: &Submission<'_>,
        deletion: &Deletion<'_>,
    ) -> Result<WaitingCall, Failure> {
        let (caller, mail) = Caller::new(self.limits.stream_bytes_max);
        let request = self.affinity.choose(self.environment.unix_ms(), self.environment.bytes());
        let (request, timeout) = (request.request, service.timeout(call.timeout));
        let route = Arc::new(Route {
            node: self.node.clone(),
            session: None,
            client_id: None,
            deadline_ms: self.deadline_ms(timeout),
            may_be_part: false,
        });
        let started = Instant::now();
        let entry = Entry {
            service: Arc::clone(service),
            waiter: Waiter::Deletion(caller),
            started,
            deadline: started + timeout,
            partition: None,
            recording: Recording::Unconfirmed,
            early: None,
            stream: None,
            route: Arc::clone(&route),
        };
        let completion = Arc::clone(&self.completion);
        completion.pending.insert(request, entry);
        service.metrics.in_flight.inc();
        let waiting = WaitingCall::new(&completion, request, mail);
        let key = wire_key(deletion.key, deletion.guid.as_bytes());
        let outgoing = Outgoing {
            topic: &service.topic,
            partition: deletion.partition,
            key: Some(&key),
            key_suffix_bytes: SUFFIX_BYTES,
            value: None,
            headers: &[],
        };
        let deadline_ms = route.deadline_ms;
        let record = Record { request, route, before: Before::Nothing, deadline_ms };
        let written = Written { completion: Arc::clone(&completion), record };
        let Err(error) = self.producer.produce(&outgoing, Box::new(written)) else {
            return Ok(waiting);
        };
        if completion.pending.take(request).is_some() {
            service.metrics.in_flight.dec();
            if error == ProduceError::QueueFull {
                self.telemetry.limit_hit("producer_queue");
            }
            return Err(refusal(&error, service));
        }
        // Its deadline has passed meanwhile: its caller is told that.
        Ok(waiting)
    }
}

#[cfg(test)]
mod tests;
