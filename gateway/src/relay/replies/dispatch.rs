//! Reads the reply topic. Each record goes to whoever waits for it on this node, is forwarded, or
//! is of no use; only when that is known is its offset committed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Forwarding, partition::Partition};
use crate::{
    bus::{BusEvent, Consumer, ConsumerControl, Incoming, Unreadable},
    relay::{
        dialects::reply,
        offsets::{Budget, OffsetGuard, OffsetTracker, Record, TrackerLimits},
        requests::{
            Reception, Requests,
            foreign::{ForeignReply, Guide},
            pending::Entry,
        },
        services::Service,
    },
    telemetry::{LogThrottle, ReplyPath, Telemetry, UnhandledGauge},
    wire::Reply,
};

/// How many records are taken at once, before other tasks get their turn.
const BATCH_MAX: usize = 512;
/// How often offsets are stored, and paused partitions looked at.
const TICK: Duration = Duration::from_millis(100);
/// How much may wait before partitions are paused.
const WINDOW: TrackerLimits = TrackerLimits {
    records_max: 20_000,
    bytes_max: 16 * 1024 * 1024,
    node_bytes_max: 64 * 1024 * 1024,
};

/// The reader of the reply topic.
#[derive(Debug)]
pub struct Dispatch {
    topic: String,
    requests: Arc<Requests>,
    forwarding: Arc<Forwarding>,
    telemetry: Arc<Telemetry>,
    control: Arc<dyn ConsumerControl>,
    partitions: HashMap<i32, Partition>,
    partition_count: Option<i32>,
    assigned: watch::Sender<bool>,
    budget: Budget,
    malformed: LogThrottle,
    full: LogThrottle,
    dropped: LogThrottle,
}

impl Dispatch {
    /// A reader that has read nothing; and a signal for its first assignment.
    pub fn new(
        requests: Arc<Requests>,
        forwarding: Arc<Forwarding>,
        telemetry: Arc<Telemetry>,
        control: Arc<dyn ConsumerControl>,
    ) -> (Self, watch::Receiver<bool>) {
        let (assigned, is_assigned) = watch::channel(false);
        let this = Self {
            topic: requests.reply_topic().to_owned(),
            requests,
            forwarding,
            telemetry,
            control,
            partitions: HashMap::new(),
            partition_count: None,
            assigned,
            budget: Budget::default(),
            malformed: LogThrottle::default(),
            full: LogThrottle::default(),
            dropped: LogThrottle::default(),
        };
        (this, is_assigned)
    }

    /// Reads until `stop`, then stores what has been handled and leaves the group.
    pub async fn run(
        mut self,
        mut consumer: Box<dyn Consumer>,
        stop: CancellationToken,
        close_within: Duration,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut sink = |event: BusEvent<'_>| self.on_event(event);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = tick.tick() => self.housekeep(),
                () = consumer.next(BATCH_MAX, &mut sink) => self.pause_full(),
            }
        }
        self.store();
        self.partitions.clear();
        consumer.close(close_within).await;
    }

    fn on_event(&mut self, event: BusEvent<'_>) {
        match event {
            BusEvent::Assigned(partitions) => {
                tracing::info!(?partitions, "reply partitions assigned");
                for &number in partitions {
                    self.telemetry.reads(&self.topic, number);
                    let (window, oldest) = (OffsetTracker::new(&self.budget), self.oldest(number));
                    let (next, stored, paused) = (0, None, false);
                    let unreadable = LogThrottle::default();
                    let partition = Partition { window, next, stored, paused, unreadable, oldest };
                    self.partitions.insert(number, partition);
                }
                self.own();
                self.assigned.send_replace(true);
            }
            BusEvent::Revoked { partitions, lost } => {
                tracing::info!(?partitions, lost, "reply partitions revoked");
                for number in partitions {
                    self.partitions.remove(number);
                    self.telemetry.unhandled.forget(&self.topic, *number);
                }
                self.own();
            }
            BusEvent::Rewound(partitions) => {
                tracing::warn!(
                    ?partitions,
                    "the reply topic was made anew; read from its beginning"
                );
                for number in partitions {
                    if let Some(partition) = self.partitions.get_mut(number) {
                        partition.begin_anew(&self.budget);
                    }
                }
            }
            BusEvent::Unreadable(batch) => self.on_unreadable(batch),
            BusEvent::Record(record) => self.on_record(&record),
        }
    }

    fn on_record(&mut self, record: &Incoming<'_>) {
        let Some(partition) = self.partitions.get_mut(&record.partition) else {
            // The partition has been revoked; its next reader will read the record.
            return;
        };
        if record.offset < partition.next {
            let (number, offset) = (record.partition, record.offset);
            tracing::warn!(partition = number, offset, "offsets go backwards; handled anew");
            partition.begin_anew(&self.budget);
        }
        partition.next = record.offset + 1;
        let request = match reply::correlation(record) {
            Ok(request) => request,
            Err(reason) => {
                partition.window.passed(record.offset);
                return skip(&self.telemetry, &mut self.malformed, record, reason.as_str());
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
            Some(partition.window.guard(record.offset, copy))
        };
        let read = |service: &Service| reply::read(record, |name| service.passes_to_client(name));
        match self.requests.completion().deliver(request, path, None, guard, read) {
            Reception::Delivered => return partition.window.passed(record.offset),
            // The session keeps the guard of its offset.
            Reception::Kept(_) => {}
            Reception::Unknown => {
                // Only the node where the request waits knows which headers may pass, so all that
                // might are taken along.
                let reply = reply::read(record, |_| true);
                let guard = partition.window.guard(record.offset, Record::new(request, reply));
                self.forwarding.take(foreign(guard));
            }
        }
        // Not later, because the rest of the batch may be large.
        self.pause_if_full(record.partition);
    }

    fn oldest(&self, partition: i32) -> UnhandledGauge {
        self.telemetry.unhandled.oldest(&self.topic, partition)
    }

    /// Nobody can know which requests' replies are lost in it: these requests end at their
    /// deadlines.
    fn on_unreadable(&mut self, batch: &Unreadable) {
        let Unreadable { topic, partition: number, offset, next, reason, cause } = batch;
        let Some(partition) = self.partitions.get_mut(number) else { return };
        if let Some(next) = next.filter(|next| *next > partition.next) {
            partition.window.passed(next - 1);
            partition.next = next;
        }
        let reason = reason.as_str();
        self.telemetry.consumer_error(topic, *number, reason);
        if let Some(muted) = partition.unreadable.tick(Instant::now()) {
            let next = next.map_or_else(|| "nowhere".to_owned(), |next| next.to_string());
            tracing::warn!(
                topic,
                partition = number,
                offset,
                next,
                reason,
                cause,
                muted,
                "replies cannot be read; skipped to the next that can"
            );
        }
    }

    fn own(&mut self) {
        self.partition_count = self.control.partition_count();
        let owned: Vec<i32> = self.partitions.keys().copied().collect();
        self.requests.affinity.own(&owned, self.partition_count.unwrap_or(0));
    }

    fn housekeep(&mut self) {
        self.store();
        if self.control.partition_count() != self.partition_count {
            self.own();
        }
        let (now, count) = (Instant::now(), self.partitions.len());
        for (&number, partition) in &mut self.partitions {
            let oldest = partition.window.waits_since().map_or(Duration::ZERO, |since| now - since);
            partition.oldest.set(oldest.as_secs_f64());
            if partition.paused && partition.window.full(WINDOW, count).is_none() {
                partition.paused = false;
                self.control.resume(number);
            }
        }
        self.telemetry.unhandled.set_bytes(self.budget.bytes());
        self.handle_again();
    }

    /// Handles the records again that a part of this node has dropped.
    fn handle_again(&mut self) {
        for (&number, partition) in &self.partitions {
            let (guards, given_up) = partition.window.take_dropped();
            if guards.is_empty() && given_up == 0 {
                continue;
            }
            self.telemetry.unhandled.handled_again(guards.len());
            self.telemetry.frames_abandoned("not_handled", given_up as u64);
            if given_up > 0 {
                tracing::error!(
                    partition = number,
                    given_up,
                    "replies given up: dropped each time"
                );
            } else if let Some(muted) = self.dropped.tick(Instant::now()) {
                let count = guards.len();
                tracing::warn!(partition = number, count, muted, "replies dropped; handled again");
            }
            guards.into_iter().for_each(|guard| self.forwarding.take(foreign(guard)));
        }
    }

    fn pause_full(&mut self) {
        let numbers: Vec<i32> = self.partitions.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.pause_if_full(number));
    }

    fn pause_if_full(&mut self, number: i32) {
        let count = self.partitions.len();
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        if partition.paused {
            return;
        }
        let Some(limit) = partition.window.full(WINDOW, count) else { return };
        partition.paused = true;
        self.control.pause(number);
        self.telemetry.limit_hit(limit);
        if let Some(muted) = self.full.tick(Instant::now()) {
            tracing::warn!(partition = number, limit, muted, "too many replies wait; paused");
        }
    }

    fn store(&mut self) {
        for (&number, partition) in &mut self.partitions {
            let committable = partition.window.committable();
            if committable != partition.stored
                && let Some(offset) = committable
            {
                self.control.store(number, offset);
                partition.stored = committable;
            }
        }
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
fn foreign(guard: OffsetGuard) -> ForeignReply {
    let Record { request, reply, .. } = guard.record();
    ForeignReply {
        request: *request,
        reply: reply.clone(),
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
