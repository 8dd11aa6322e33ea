//! Reads one topic as a member of a group, for one *role*: what the cluster reads that topic for.
//!
//! Owns what every role needs: which partitions are assigned, how far each of them has been handled,
//! what too much of waiting records does, records that nobody can read, records that this node has
//! dropped, offsets stored, and what operators see of all that. What a record means is for its
//! [`Role`] alone. Knows no other reader: what stands still in one topic holds up no other.

use std::{collections::HashMap, fmt::Debug, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use self::partition::Partition;
use super::offsets::{Budget, OffsetGuard, OffsetTracker, TrackerLimits};
use crate::{
    bus::{BusEvent, Consumer, ConsumerControl, Incoming, Unreadable},
    telemetry::{LogThrottle, Telemetry, UnhandledGauge},
};

mod partition;

/// How many records are taken at once, before other tasks get their turn.
const BATCH_MAX: usize = 512;
/// How often offsets are stored, and paused partitions looked at.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// How often it is asked whether a partition may be read on that is held up.
const HELD_UP_TICK: Duration = Duration::from_millis(5);
/// How much may wait before partitions are paused.
const WINDOW: TrackerLimits = TrackerLimits {
    records_max: 20_000,
    bytes_max: 16 * 1024 * 1024,
    node_bytes_max: 64 * 1024 * 1024,
};

/// What a topic is read for. Called by its [`Reader`] alone, one call after the other: none may block.
pub trait Role: Debug + Send + 'static {
    /// Looks at a record of a partition that is assigned. If it has to wait, its guard comes from
    /// `window`, and what it keeps of the record comes back by [`Role::handle_again`] where a part of
    /// this node drops it.
    fn on_record(&mut self, record: &Incoming<'_>, window: &OffsetTracker) -> Handled;

    /// Handles a record again that was dropped.
    fn handle_again(&mut self, guard: OffsetGuard);

    /// These partitions are read from their beginnings from now on: see [`BusEvent::Rewound`].
    fn rewound(&mut self, _partitions: &[i32]) {}

    /// Everything that was in the partition has been looked at. Told only where the consumer tells.
    fn reached_end(&mut self, _partition: i32, _window: &OffsetTracker) {}

    /// Called for each partition now and then.
    fn tend(&mut self, _partition: i32, _window: &OffsetTracker) {}

    /// Whether no more is to be read of this partition for now. Asked after each of its records, and every
    /// few milliseconds for as long as it is so.
    fn holds_up(&mut self, _partition: i32) -> bool {
        false
    }

    /// These are the partitions that are assigned from now on, out of so many.
    fn owns(&mut self, _partitions: &[i32], _count: Option<i32>) {}
}

/// What became of a record at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// Nothing more has to be done for it.
    Done,
    /// It waits: whoever has its guard says when it is done.
    Waits,
}

/// The reader of one topic.
#[derive(Debug)]
pub struct Reader<R> {
    topic: String,
    role: R,
    telemetry: Arc<Telemetry>,
    control: Arc<dyn ConsumerControl>,
    partitions: HashMap<i32, Partition>,
    partition_count: Option<i32>,
    assigned: watch::Sender<bool>,
    budget: Budget,
    /// What the metrics know of the bytes that wait.
    told_bytes: usize,
    /// Whether the role wants no more of some partition for now.
    is_held_up: bool,
    full: LogThrottle,
    dropped: LogThrottle,
}

impl<R: Role> Reader<R> {
    /// A reader that has read nothing; and a signal for its first assignment.
    pub fn new(
        topic: &str,
        role: R,
        telemetry: &Arc<Telemetry>,
        control: Arc<dyn ConsumerControl>,
    ) -> (Self, watch::Receiver<bool>) {
        let (assigned, is_assigned) = watch::channel(false);
        let this = Self {
            topic: topic.to_owned(),
            role,
            telemetry: Arc::clone(telemetry),
            control,
            partitions: HashMap::new(),
            partition_count: None,
            assigned,
            budget: Budget::default(),
            told_bytes: 0,
            is_held_up: false,
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
        let mut look = tokio::time::interval(HELD_UP_TICK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let is_held_up = self.is_held_up;
            let mut sink = |event: BusEvent<'_>| self.on_event(event);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = tick.tick() => self.housekeep(),
                _ = look.tick(), if is_held_up => self.look_at_held_up(),
                () = consumer.next(BATCH_MAX, &mut sink) => self.pause_full(),
            }
        }
        self.store();
        self.partitions.clear();
        consumer.close(close_within).await;
    }

    pub(super) fn on_event(&mut self, event: BusEvent<'_>) {
        match event {
            BusEvent::Assigned(partitions) => {
                tracing::info!(topic = self.topic, ?partitions, "partitions assigned");
                for &number in partitions {
                    self.telemetry.reads(&self.topic, number);
                    let (window, oldest) = (OffsetTracker::new(&self.budget), self.oldest(number));
                    let (next, stored, paused) = (0, None, false);
                    let unreadable = LogThrottle::default();
                    let held_up = false;
                    let partition =
                        Partition { window, next, stored, paused, held_up, unreadable, oldest };
                    self.partitions.insert(number, partition);
                }
                self.own();
                self.assigned.send_replace(true);
            }
            BusEvent::Revoked { partitions, lost } => {
                tracing::info!(topic = self.topic, ?partitions, lost, "partitions revoked");
                for number in partitions {
                    self.partitions.remove(number);
                    self.telemetry.unhandled.forget(&self.topic, *number);
                }
                self.own();
            }
            BusEvent::Rewound(partitions) => {
                let topic = &self.topic;
                tracing::info!(topic, ?partitions, "read from their beginning");
                for number in partitions {
                    if let Some(partition) = self.partitions.get_mut(number) {
                        partition.begin_anew(&self.budget);
                    }
                }
                self.role.rewound(partitions);
            }
            BusEvent::Ended(number) => {
                if let Some(partition) = self.partitions.get(&number) {
                    self.role.reached_end(number, &partition.window);
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
            let (topic, number, offset) = (&self.topic, record.partition, record.offset);
            tracing::warn!(topic, partition = number, offset, "offsets go backwards; handled anew");
            partition.begin_anew(&self.budget);
        }
        partition.next = record.offset + 1;
        match self.role.on_record(record, &partition.window) {
            Handled::Done => partition.window.passed(record.offset),
            // Not later, because the rest of the batch may be large.
            Handled::Waits => self.pause_if_full(record.partition),
        }
        if self.role.holds_up(record.partition) {
            self.hold_up(record.partition);
        }
    }

    fn oldest(&self, partition: i32) -> UnhandledGauge {
        self.telemetry.unhandled.oldest(&self.topic, partition)
    }

    /// Nobody can know what is lost in it: what waits for that ends at its deadline.
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
                "records cannot be read; skipped to the next that can"
            );
        }
    }

    fn own(&mut self) {
        self.partition_count = self.control.partition_count();
        let owned: Vec<i32> = self.partitions.keys().copied().collect();
        self.role.owns(&owned, self.partition_count);
    }

    pub(super) fn housekeep(&mut self) {
        self.store();
        if self.control.partition_count() != self.partition_count {
            self.own();
        }
        let (now, count) = (Instant::now(), self.partitions.len());
        for (&number, partition) in &mut self.partitions {
            self.role.tend(number, &partition.window);
            let oldest = partition.window.waits_since().map_or(Duration::ZERO, |since| now - since);
            partition.oldest.set(oldest.as_secs_f64());
            if partition.paused && partition.may_go_on(count) {
                partition.paused = false;
                self.control.resume(number);
            }
        }
        let bytes = self.budget.bytes();
        self.telemetry.unhandled.bytes_changed(self.told_bytes, bytes);
        self.told_bytes = bytes;
        self.handle_again();
    }

    fn hold_up(&mut self, number: i32) {
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        (partition.held_up, self.is_held_up) = (true, true);
        if !std::mem::replace(&mut partition.paused, true) {
            self.control.pause(number);
        }
    }

    /// Reads on what is held up no longer.
    fn look_at_held_up(&mut self) {
        let count = self.partitions.len();
        self.is_held_up = false;
        for (&number, partition) in self.partitions.iter_mut().filter(|(_, p)| p.held_up) {
            if self.role.holds_up(number) {
                self.is_held_up = true;
                continue;
            }
            partition.held_up = false;
            if partition.may_go_on(count) {
                partition.paused = false;
                self.control.resume(number);
            }
        }
    }

    /// Handles the records again that a part of this node has dropped.
    fn handle_again(&mut self) {
        for (&number, partition) in &self.partitions {
            let (guards, given_up) = partition.window.take_dropped();
            if guards.is_empty() && given_up == 0 {
                continue;
            }
            let (topic, count) = (&self.topic, guards.len());
            self.telemetry.unhandled.handled_again(count);
            self.telemetry.frames_abandoned("not_handled", given_up as u64);
            if given_up > 0 {
                let reason = "dropped each time";
                tracing::error!(topic, partition = number, given_up, reason, "records given up");
            } else if let Some(muted) = self.dropped.tick(Instant::now()) {
                let again = count;
                tracing::warn!(topic, partition = number, again, muted, "records were dropped");
            }
            guards.into_iter().for_each(|guard| self.role.handle_again(guard));
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
            let topic = &self.topic;
            tracing::warn!(topic, partition = number, limit, muted, "too much waits; paused");
        }
    }

    pub(super) fn store(&mut self) {
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
