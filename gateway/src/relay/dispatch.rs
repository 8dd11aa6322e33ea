//! Reads the reply topic: each record goes to who waits here, or on its way home, or nowhere; then,
//! and only then, its offset is stored.

use std::{collections::HashMap, sync::Arc, time::Duration};

use registry::RequestId;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Burst, Relay,
    ending::Delivery,
    homing::{Guide, Homing, Stray},
    pending::Entry,
    reply,
    service::Service,
    unix_us,
    window::{Window, WindowLimits},
};
use crate::{
    bus::{BusEvent, Consumer, ConsumerControl, Incoming},
    telemetry::Way,
};

/// Records taken at once, before anything else gets its turn.
const BATCH_MAX: usize = 512;
/// How often offsets are stored, and paused partitions looked at.
const TICK: Duration = Duration::from_millis(100);
/// What one partition may have waiting before it is paused.
const WINDOW: WindowLimits = WindowLimits { records_max: 20_000, bytes_max: 16 * 1024 * 1024 };

/// The reader of the reply topic.
#[derive(Debug)]
pub struct Dispatch {
    relay: Arc<Relay>,
    homing: Arc<Homing>,
    control: Arc<dyn ConsumerControl>,
    partitions: HashMap<i32, Partition>,
    partition_count: Option<i32>,
    assigned: watch::Sender<bool>,
    malformed: Burst,
}

#[derive(Debug, Default)]
struct Partition {
    window: Window,
    stored: Option<i64>,
    paused: bool,
}

impl Dispatch {
    /// A reader that has read nothing; and what tells when it has its first assignment.
    pub fn new(
        relay: Arc<Relay>,
        homing: Arc<Homing>,
        control: Arc<dyn ConsumerControl>,
    ) -> (Self, watch::Receiver<bool>) {
        let (assigned, is_assigned) = watch::channel(false);
        let this = Self {
            relay,
            homing,
            control,
            partitions: HashMap::new(),
            partition_count: None,
            assigned,
            malformed: Burst::default(),
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
        consumer.close(close_within).await;
    }

    fn on_event(&mut self, event: BusEvent<'_>) {
        match event {
            BusEvent::Assigned(partitions) => {
                tracing::info!(?partitions, "reply partitions assigned");
                for &partition in partitions {
                    self.partitions.insert(partition, Partition::default());
                }
                self.own();
                self.assigned.send_replace(true);
            }
            BusEvent::Revoked { partitions, lost } => {
                tracing::info!(?partitions, lost, "reply partitions revoked");
                for partition in partitions {
                    self.partitions.remove(partition);
                }
                self.own();
            }
            BusEvent::Record(record) => self.on_record(&record),
        }
    }

    fn on_record(&mut self, record: &Incoming<'_>) {
        let Some(partition) = self.partitions.get(&record.partition) else {
            // Not ours any more: its next reader will see it.
            return;
        };
        let request = match reply::correlation(record) {
            Ok(request) => request,
            Err(reason) => {
                partition.window.passed(record.offset);
                return skip(&self.relay, &mut self.malformed, record, reason.as_str());
            }
        };
        if reply::is_too_large(record) {
            skip(&self.relay, &mut self.malformed, record, "too_large");
        }
        let way = |entry: &Entry| match entry.partition {
            Some(expected) if expected == record.partition => Way::Affinity,
            _ => Way::Local,
        };
        let hold = |bytes| Some(partition.window.hold(record.offset, bytes));
        let read = |service: &Service| reply::read(record, |name| service.passes_to_client(name));
        match self.relay.deliver(request, way, None, hold, read) {
            Delivery::Delivered => return partition.window.passed(record.offset),
            // It holds its offset itself.
            Delivery::Kept(_) => return,
            Delivery::Unknown => {}
        }
        self.homing.take(stray(request, record, &partition.window));
    }

    fn own(&mut self) {
        self.partition_count = self.control.partition_count();
        let owned: Vec<i32> = self.partitions.keys().copied().collect();
        self.relay.affinity().own(&owned, self.partition_count.unwrap_or(0));
    }

    fn housekeep(&mut self) {
        self.store();
        if self.control.partition_count() != self.partition_count {
            self.own();
        }
        for (&number, partition) in &mut self.partitions {
            if partition.paused && !partition.window.is_full(WINDOW) {
                partition.paused = false;
                self.control.resume(number);
            }
        }
    }

    fn pause_full(&mut self) {
        for (&number, partition) in &mut self.partitions {
            if !partition.paused && partition.window.is_full(WINDOW) {
                partition.paused = true;
                self.control.pause(number);
                self.relay.telemetry().limit_hit("window");
                tracing::warn!(partition = number, "too many replies wait; partition paused");
            }
        }
    }

    fn store(&mut self) {
        for (&number, partition) in &mut self.partitions {
            let mark = partition.window.mark();
            if mark != partition.stored
                && let Some(offset) = mark
            {
                self.control.store(number, offset);
                partition.stored = mark;
            }
        }
    }
}

impl Relay {
    /// A reply that nobody on this node waits for has gone this way.
    pub(super) fn reply_went(&self, way: Way) {
        self.unknown.replied(way);
    }
}

/// Counts a record that is no good reply, and logs it once per burst.
fn skip(relay: &Relay, burst: &mut Burst, record: &Incoming<'_>, reason: &'static str) {
    relay.telemetry().record_skipped(reason);
    if let Some(muted) = burst.tick(Instant::now()) {
        let (partition, offset) = (record.partition, record.offset);
        tracing::warn!(partition, offset, reason, muted, "no good reply on the reply topic");
    }
}

fn stray(request: RequestId, record: &Incoming<'_>, window: &Window) -> Stray {
    // Which headers may pass is known where the request waits; all that could are taken along.
    let reply = reply::read(record, |_| true);
    let headers: usize = reply.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    Stray {
        request,
        hold: Some(window.hold(record.offset, reply.payload.len() + headers)),
        reply,
        read_at: Instant::now(),
        read_at_us: unix_us(),
        guide: Guide::default(),
        wants: None,
        is_early: false,
    }
}
