//! The lanes of all partitions, and the limits of what is kept back in them together.
//!
//! Knows librdkafka only through the functions that it is given: one that sends, and one that
//! pauses.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::{
    kept::Kept,
    lane::{Entered, Lane, Sent},
    turns::{Turn, Turns},
};
use crate::{
    bus::{OnDelivery, Outgoing, ProduceError, RecordSize},
    tasks::locked,
};

/// Records that a lane gets in one go once it is acknowledged again: about what fits one request.
const HAND_OVER_MAX: usize = 2_000;

/// How long records are kept back for a broker that has never answered yet.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// The lane of a record; librdkafka's report on the record names it.
pub(super) type SharedLane = Arc<Place>;

/// The destination of a lane.
pub(super) struct Place {
    pub(super) topic: String,
    /// `None`: to a partition that is librdkafka's choice, or not known yet.
    pub(super) partition: Option<i32>,
    pub(super) lane: Lane<Kept>,
}

#[derive(Clone)]
struct Topic {
    unplaced: SharedLane,
    partitions: Vec<SharedLane>,
}

/// All lanes of a producer.
pub(super) struct Lanes {
    topics: ArcSwap<HashMap<String, Topic>>,
    /// How many partitions the topics of the cluster have, as last told.
    counts: Mutex<HashMap<String, usize>>,
    /// No broker has answered yet.
    is_cold: AtomicBool,
    cold_until: Instant,
    kept_bytes: AtomicUsize,
    limits: Limits,
    turns: Turns,
}

/// The limits of what may be kept back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// All records together.
    pub(super) bytes_max: usize,
    /// Key and value of one record: librdkafka would refuse it at once, and nobody is to learn of it
    /// later.
    pub(super) record_bytes_max: usize,
}

/// The partitions that librdkafka has to pause and to resume, in this order.
#[derive(Default)]
pub(super) struct Orders {
    pub(super) resume: Vec<SharedLane>,
    pub(super) pause: Vec<SharedLane>,
}

impl Lanes {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            topics: ArcSwap::default(),
            counts: Mutex::default(),
            is_cold: AtomicBool::new(true),
            cold_until: Instant::now() + START_PATIENCE,
            kept_bytes: AtomicUsize::new(0),
            limits,
            turns: Turns::default(),
        }
    }

    /// Whether no broker has answered yet, for so short that one may at any moment.
    pub(super) fn is_cold(&self) -> bool {
        self.is_cold.load(Ordering::Acquire)
    }

    /// A broker has answered, and has these topics with so many partitions.
    pub(super) fn met(&self, counts: HashMap<String, usize>) {
        *locked(&self.counts) = counts;
        let topics: Vec<String> = self.topics.load().keys().cloned().collect();
        topics.iter().for_each(|topic| self.lay_out(topic));
        self.is_cold.store(false, Ordering::Release);
        self.turns.wake();
    }

    /// The lane of a record, and whether its topic is not known yet.
    pub(super) fn place(&self, record: &Outgoing<'_>) -> (SharedLane, bool) {
        if let Some(found) = self.find(record) {
            return (found, false);
        }
        self.lay_out(record.topic);
        let is_known = locked(&self.counts).contains_key(record.topic);
        let found = self.find(record).expect("it has just been laid out, and none is taken away");
        (found, !is_known)
    }

    /// How many partitions a topic has, as last told.
    pub(super) fn partition_count(&self, topic: &str) -> Option<i32> {
        locked(&self.counts).get(topic).and_then(|count| i32::try_from(*count).ok())
    }

    fn find(&self, record: &Outgoing<'_>) -> Option<SharedLane> {
        let topics = self.topics.load();
        let topic = topics.get(record.topic)?;
        let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        let known =
            record.partition_among(count).and_then(|partition| usize::try_from(partition).ok());
        let placed = known.and_then(|partition| topic.partitions.get(partition));
        // What was kept back before the partitions were known stays ahead.
        let place = placed.filter(|_| !topic.unplaced.lane.keeps()).unwrap_or(&topic.unplaced);
        Some(Arc::clone(place))
    }

    /// Gives a topic a lane for each of its partitions, as far as they are known.
    fn lay_out(&self, name: &str) {
        let count = locked(&self.counts).get(name).copied().unwrap_or(0);
        self.topics.rcu(|topics| {
            let known = topics.get(name);
            let place = |partition| {
                let lane = Lane::new(self.is_cold());
                Arc::new(Place { topic: name.to_owned(), partition, lane })
            };
            let unplaced = known.map_or_else(|| place(None), |topic| Arc::clone(&topic.unplaced));
            let mut partitions = known.map(|topic| topic.partitions.clone()).unwrap_or_default();
            for partition in partitions.len()..count {
                partitions.push(place(i32::try_from(partition).ok()));
            }
            let mut topics: HashMap<_, _> =
                topics.iter().map(|(name, topic)| (name.clone(), topic.clone())).collect();
            topics.insert(name.to_owned(), Topic { unplaced, partitions });
            topics
        });
    }

    /// A record was written to this partition. Whether that one was not known.
    pub(super) fn is_news(&self, place: &Place, partition: i32) -> bool {
        if place.partition == Some(partition) {
            return false;
        }
        let partition = usize::try_from(partition).unwrap_or(0);
        let known = self.topics.load().get(&place.topic).map_or(0, |topic| topic.partitions.len());
        partition >= known
    }

    /// Whether the record may go to librdkafka at once; else it is kept back.
    ///
    /// # Errors
    /// It would have to be kept back, and there is no room for it.
    pub(super) fn enter(
        &self,
        place: &Place,
        record: &Outgoing<'_>,
        on_delivery: OnDelivery,
    ) -> Result<Option<OnDelivery>, ProduceError> {
        let mut on_delivery = Some(on_delivery);
        let entered = place.lane.enter(|| {
            let on_delivery = on_delivery.take().expect("it is kept once");
            let mut kept = Kept::new(record, on_delivery);
            let bytes = kept.bytes();
            let content_bytes = kept.content_bytes();
            if content_bytes > self.limits.record_bytes_max {
                return Err(ProduceError::TooLarge(self.size(content_bytes)));
            }
            let all = self.kept_bytes.load(Ordering::Relaxed).saturating_add(bytes);
            if all > self.limits.bytes_max {
                return Err(ProduceError::QueueFull);
            }
            self.kept_bytes.fetch_add(bytes, Ordering::Relaxed);
            kept.on_delivery.kept_back();
            Ok(kept)
        })?;
        if entered != (Entered::Goes { is_beyond: false }) {
            self.turns.wake();
        }
        Ok(on_delivery)
    }

    /// Takes back a record of this partition that was refused because its batch was too large. From now
    /// on each record of the partition goes alone.
    pub(super) fn again(&self, place: &SharedLane, partition: i32, mut kept: Kept) {
        let topics = self.topics.load();
        let places = topics.get(&place.topic).map_or(&[][..], |topic| &topic.partitions);
        let known = usize::try_from(partition).ok().and_then(|partition| places.get(partition));
        let place = known.unwrap_or(place);
        let is_news = !places.iter().any(|place| place.lane.is_single());
        self.kept_bytes.fetch_add(kept.bytes(), Ordering::Relaxed);
        kept.on_delivery.kept_back();
        if place.lane.again(kept) && is_news {
            tracing::warn!(
                topic = place.topic,
                "a batch was larger than the topic's max.message.bytes: its records go one at a time \
                 from now on; a batch.size below that in kafka.properties is faster"
            );
        }
        self.turns.wake();
    }

    /// The size of a record, beside what librdkafka takes.
    pub(super) fn size(&self, bytes: usize) -> RecordSize {
        RecordSize { bytes, bytes_max: Some(self.limits.record_bytes_max) }
    }

    /// librdkafka has told of a record that came this way, or has refused it.
    pub(super) fn finish(&self, place: &Place) {
        if place.lane.finish() {
            self.turns.wake();
        }
    }

    /// Looks after all lanes. `send` hands a record to librdkafka. What is kept back and has ended
    /// without it is `given_up`, with the reason where somebody still waits.
    pub(super) fn look_after(
        &self,
        turn: Turn,
        mut send: impl FnMut(Kept, &SharedLane) -> Sent<Kept>,
        mut give_up: impl FnMut(Kept, Option<ProduceError>),
    ) -> Orders {
        let (mut orders, mut is_busy) = (Orders::default(), false);
        let is_over = self.is_cold() && Instant::now() >= self.cold_until;
        if is_over {
            self.is_cold.store(false, Ordering::Release);
        }
        for place in self.all() {
            if is_over {
                let unsent = place.lane.take_kept(|_| false);
                self.drop_all(unsent, |kept| give_up(kept, Some(ProduceError::Unreachable)));
            } else if turn.is_sweep {
                let unwanted = place.lane.take_kept(|kept| kept.on_delivery.is_wanted());
                self.drop_all(unwanted, |kept| give_up(kept, None));
            }
            let step = place.lane.step(turn.is_tick, !self.is_cold());
            is_busy |= step.is_busy;
            if step.hand_over {
                place.lane.hand_over(HAND_OVER_MAX, |kept| {
                    let bytes = kept.bytes();
                    let sent = send(kept, &place);
                    if !matches!(sent, Sent::Full(_)) {
                        self.kept_bytes.fetch_sub(bytes, Ordering::Relaxed);
                    }
                    sent
                });
            }
            match step.pause {
                Some(true) => orders.pause.push(place),
                Some(false) => orders.resume.push(place),
                None => {}
            }
        }
        self.turns.set_busy(is_busy);
        orders
    }

    /// Takes out everything that is kept back.
    pub(super) fn take_all(&self) -> Vec<Kept> {
        self.all().iter().flat_map(|place| place.lane.take_kept(|_| false)).collect()
    }

    fn drop_all(&self, kept: Vec<Kept>, mut give_up: impl FnMut(Kept)) {
        for kept in kept {
            self.kept_bytes.fetch_sub(kept.bytes(), Ordering::Relaxed);
            give_up(kept);
        }
    }

    fn all(&self) -> Vec<SharedLane> {
        let topics = self.topics.load();
        let places =
            |topic: &Topic| [&topic.partitions[..], &[Arc::clone(&topic.unplaced)]].concat();
        topics.values().flat_map(places).collect()
    }

    /// Waits until they have to be looked after; `None` once stopped.
    pub(super) fn next_turn(&self) -> Option<Turn> {
        self.turns.next()
    }

    /// Ends [`Lanes::next_turn`].
    pub(super) fn stop(&self) {
        self.turns.stop();
    }
}
