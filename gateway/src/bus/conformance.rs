//! What every bus must do, checked alike on each: call [`checks!`] with a [`Bed`].
//!
//! Owns no broker: it is given one. A check panics with what was expected.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{
    BusEvent, Consumer, Incoming, Outgoing, Position, ProduceError, Producer, Unreadable,
    partitioner::partition_for,
};
use crate::tasks::locked;

/// Nothing takes longer than this, or it does not happen at all. Rebalances of the mock broker take
/// three session time-outs.
const DEADLINE: Duration = Duration::from_secs(40);

/// A bus to be checked, and what has to be done to it from outside.
#[async_trait(?Send)]
pub trait Bed {
    /// A producer whose queue takes `queue` records.
    fn producer(&self, queue: usize) -> Arc<dyn Producer>;

    /// A member of the group.
    fn consumer(&self, group: &str, topic: &str) -> Box<dyn Consumer>;

    /// Creates a topic under a new name.
    async fn topic(&self, partitions: i32) -> String;

    /// Takes the bus away, or brings it back.
    async fn set_reachable(&self, reachable: bool);
}

/// A bed whose topics can be deleted.
#[async_trait(?Send)]
pub trait Mutable: Bed {
    /// Deletes a topic and creates it again, under the same name.
    async fn make_anew(&self, topic: &str, partitions: i32);
}

/// Makes a test of each check. `bed` makes a [`Bed`] that is left alone, `doomed` one that is taken
/// away for a while; a bed may serve several tests at a time, a doomed one is its test's own.
#[macro_export]
macro_rules! bus_checks {
    (bed: $bed:expr, doomed: $doomed:expr) => {
        $crate::bus::conformance::checks!($bed;
            records_come_as_they_were_written,
            a_group_goes_on_where_it_stored,
            members_share_the_partitions_and_hand_them_over,
            a_member_that_gets_nothing_is_told_so,
            a_paused_partition_waits_alone,
            oversized_records_are_refused,
        );
        $crate::bus::conformance::checks!($doomed;
            deliveries_are_told_once_and_a_full_queue_at_once,
        );
    };
    ($bed:expr; $($check:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $check() {
                $crate::bus::conformance::$check(&$bed).await;
            }
        )*
    };
}
pub use bus_checks as checks;

/// An event, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Assigned(Vec<i32>),
    Revoked(Vec<i32>),
    Rewound(Vec<i32>),
    Unreadable(Unreadable),
    Record(Record),
}

impl Seen {
    fn offset(&self) -> Option<i64> {
        match self {
            Self::Record(record) => Some(record.position.offset),
            _ => None,
        }
    }
}

/// A record, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) position: Position,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl From<Incoming<'_>> for Record {
    fn from(record: Incoming<'_>) -> Self {
        let headers = record.headers.iter();
        Self {
            position: Position { partition: record.partition, offset: record.offset },
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: headers.map(|(k, v)| ((*k).to_owned(), v.map(<[u8]>::to_vec))).collect(),
        }
    }
}

/// A consumer and all that it has met.
pub(super) struct Reader {
    pub(super) consumer: Box<dyn Consumer>,
    pub(super) seen: Vec<Seen>,
    /// What is assigned now, as told.
    pub(super) assigned: BTreeSet<i32>,
    deadline: Instant,
}

impl Reader {
    pub(super) fn new(consumer: Box<dyn Consumer>) -> Self {
        let deadline = Instant::now() + DEADLINE;
        Self { consumer, seen: Vec::new(), assigned: BTreeSet::new(), deadline }
    }

    /// One batch, if there is one in time; keeps the order of events.
    pub(super) async fn read(&mut self, within: Duration) {
        let (seen, assigned) = (&mut self.seen, &mut self.assigned);
        let mut sink = |event: BusEvent<'_>| match event {
            BusEvent::Assigned(partitions) => {
                assigned.extend(partitions);
                seen.push(Seen::Assigned(partitions.to_vec()));
            }
            BusEvent::Revoked { partitions, .. } => {
                assigned.retain(|partition| !partitions.contains(partition));
                seen.push(Seen::Revoked(partitions.to_vec()));
            }
            BusEvent::Rewound(partitions) => seen.push(Seen::Rewound(partitions.to_vec())),
            BusEvent::Unreadable(batch) => seen.push(Seen::Unreadable(batch.clone())),
            BusEvent::Record(record) => {
                assert!(assigned.contains(&record.partition), "a record before its assignment");
                seen.push(Seen::Record(record.into()));
            }
        };
        let _none_in_time =
            timeout_at(Instant::now() + within, self.consumer.next(64, &mut sink)).await;
    }

    /// Reads until `enough`.
    pub(super) async fn read_until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            assert!(Instant::now() < self.deadline, "in vain waited for {what}: {:?}", self.seen);
            self.read(Duration::from_millis(200)).await;
        }
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.seen.iter().filter_map(|seen| match seen {
            Seen::Record(record) => Some(record),
            _ => None,
        })
    }

    pub(super) fn of_partition(&self, partition: i32) -> Vec<&Record> {
        self.records().filter(|record| record.position.partition == partition).collect()
    }

    async fn close(self) {
        self.consumer.close(DEADLINE).await;
    }
}

/// The group goes on in partition 0 with the record at this offset.
pub async fn records_come_from(bed: &dyn Bed, group: &str, topic: &str, offset: i64) {
    let mut reader = joined(bed, group, topic, 1).await;
    let from = |reader: &Reader| {
        let mut offsets = reader.of_partition(0).into_iter().map(|record| record.position.offset);
        offsets.any(|found| found == offset)
    };
    reader.read_until("the first record", from).await;
    let offsets: Vec<_> = reader.of_partition(0).iter().map(|r| r.position.offset).collect();
    assert!(offsets.iter().all(|found| *found >= offset), "{offsets:?}");
    reader.close().await;
}

/// What is there now is read from its beginning, also where the former topic's offsets lie within it,
/// and is gone on with from what is stored of it.
pub async fn a_topic_made_anew_is_read_from_its_beginning(bed: &dyn Mutable) {
    let (topic, producer) = (bed.topic(1).await, bed.producer(100));
    for _ in 0..5 {
        write(&*producer, &plain(&topic, 0, b"former")).await;
    }
    let mut reader = joined(bed, "g", &topic, 1).await;
    reader.read_until("the former records", |reader| reader.records().count() == 5).await;
    reader.consumer.control().store(0, 5);
    reader.read(Duration::from_secs(2)).await;

    bed.make_anew(&topic, 1).await;
    let written = 9;
    for _ in 0..written {
        write(&*bed.producer(100), &plain(&topic, 0, b"new")).await;
    }
    let since_rewound = |reader: &Reader| {
        let seen = reader.seen.iter().rev();
        let since = seen.take_while(|seen| !matches!(seen, Seen::Rewound(_)));
        let mut offsets: Vec<i64> = since.filter_map(Seen::offset).collect();
        offsets.reverse();
        offsets
    };
    let all: Vec<i64> = (0..written).collect();
    // Before that it may have gone on from the former offset: with the former records these look alike.
    let is_rewound = |reader: &Reader| reader.seen.contains(&Seen::Rewound(vec![0]));
    reader
        .read_until("all that is new", |reader| is_rewound(reader) && since_rewound(reader) == all)
        .await;

    reader.consumer.control().store(0, 2);
    reader.read(Duration::from_secs(2)).await;
    reader.close().await;
    let mut next = joined(bed, "g", &topic, 1).await;
    next.read_until("what was not handled", |reader| reader.records().count() == 7).await;
    assert_eq!(next.of_partition(0)[0].position.offset, 2);
}

/// A record without a key and headers.
pub fn plain<'a>(topic: &'a str, partition: i32, value: &'a [u8]) -> Outgoing<'a> {
    Outgoing { topic, partition: Some(partition), key: None, value: Some(value), headers: &[] }
}

/// Writes and waits for the broker's word.
pub async fn write(producer: &dyn Producer, record: &Outgoing<'_>) -> Position {
    let (told, mut delivery) = mpsc::channel(1);
    let on_delivery = Box::new(move |result| told.try_send(result).expect("told once"));
    producer.produce(record, on_delivery).expect("the queue has room");
    let told = timeout_at(Instant::now() + DEADLINE, delivery.recv()).await;
    told.expect("delivery in time").expect("told before it is dropped").expect("recorded")
}

async fn joined(bed: &dyn Bed, group: &str, topic: &str, partitions: i32) -> Reader {
    let mut reader = Reader::new(bed.consumer(group, topic));
    let all = usize::try_from(partitions).expect("positive");
    reader.read_until("the assignment", |reader| reader.assigned.len() == all).await;
    reader
}

/// Keys, values and headers pass byte for byte, in order, by the Java default partitioner.
///
/// # Panics
/// When the bus does otherwise.
pub async fn records_come_as_they_were_written(bed: &dyn Bed) {
    let (topic, producer) = (bed.topic(3).await, bed.producer(1000));
    let headers: [(&str, &[u8]); 4] = [("a", b"1"), ("b", b""), ("a", b"2"), ("", b"\xff\0")];
    let mut written = Vec::new();
    for (key, value) in [
        (Some(&b"k"[..]), Some(&b"v"[..])),
        (Some(b"k"), None),
        (Some(b"k"), Some(b"")),
        (Some(b""), Some(b"\0\xff")),
    ] {
        let record = Outgoing { topic: &topic, partition: None, key, value, headers: &headers };
        let position = write(&*producer, &record).await;
        assert_eq!(position.partition, partition_for(key.unwrap_or_default(), 3));
        written.push(Record {
            position,
            key: key.map(<[u8]>::to_vec),
            value: value.map(<[u8]>::to_vec),
            headers: headers.map(|(k, v)| (k.to_owned(), Some(v.to_vec()))).to_vec(),
        });
    }
    let position = write(&*producer, &plain(&topic, 2, b"placed")).await;
    assert_eq!(position.partition, 2);

    let mut reader = Reader::new(bed.consumer("as-written", &topic));
    reader.read_until("five records", |reader| reader.records().count() == 5).await;
    for expected in &written {
        assert_eq!(reader.records().find(|r| r.position == expected.position), Some(expected));
    }
    let placed = reader.records().find(|record| record.position == position).expect("it came");
    assert_eq!((&placed.key, placed.headers.len()), (&None, 0));
    for partition in 0..3 {
        assert!(reader.of_partition(partition).is_sorted_by_key(|record| record.position.offset));
    }
    assert_eq!(reader.consumer.control().partition_count(), Some(3));
    reader.close().await;
}

/// What was stored is not read again, and nothing else is left out.
///
/// # Panics
/// When the bus does otherwise.
pub async fn a_group_goes_on_where_it_stored(bed: &dyn Bed) {
    let (topic, producer) = (bed.topic(1).await, bed.producer(1000));
    let mut offsets = Vec::new();
    for value in [b"0", b"1", b"2", b"3"] {
        offsets.push(write(&*producer, &plain(&topic, 0, value)).await.offset);
    }
    let mut first = Reader::new(bed.consumer("stored", &topic));
    first.read_until("all records", |reader| reader.records().count() == 4).await;
    let control = first.consumer.control();
    control.store(0, offsets[1]);
    control.store(0, offsets[2]);
    control.store(7, 3);
    first.close().await;
    control.store(0, offsets[3]);

    let mut second = Reader::new(bed.consumer("stored", &topic));
    second.read_until("the rest", |reader| reader.records().count() >= 2).await;
    let read: Vec<i64> = second.records().map(|record| record.position.offset).collect();
    assert_eq!(read, offsets[2..]);
    second.close().await;
}

/// Two members share a topic; the one that stays gets everything back, unpaused.
///
/// # Panics
/// When the bus does otherwise.
pub async fn members_share_the_partitions_and_hand_them_over(bed: &dyn Bed) {
    let (topic, producer) = (bed.topic(4).await, bed.producer(1000));
    let mut first = joined(bed, "shared", &topic, 4).await;
    let control = first.consumer.control();
    (0..4).for_each(|partition| control.pause(partition));
    let mut second = Reader::new(bed.consumer("shared", &topic));
    while (first.assigned.len(), second.assigned.len()) != (2, 2) {
        assert!(Instant::now() < first.deadline, "{:?}\n{:?}", first.seen, second.seen);
        first.read(Duration::from_millis(50)).await;
        second.read(Duration::from_millis(50)).await;
    }
    assert!(first.assigned.is_disjoint(&second.assigned));
    for partition in 0..4 {
        write(&*producer, &plain(&topic, partition, b"shared")).await;
    }
    // Those that the second member has are not paused with it.
    second.read_until("its own", |reader| reader.records().count() == 2).await;
    second.close().await;

    let deadline = Instant::now() + DEADLINE;
    first.deadline = deadline;
    first.read_until("everything back", |reader| reader.assigned.len() == 4).await;
    // What came back is not paused, though it was when it left; what stayed still is.
    (0..4).for_each(|partition| control.resume(partition));
    let all = BTreeSet::from([0, 1, 2, 3]);
    let partitions = |reader: &Reader| {
        reader.records().map(|record| record.position.partition).collect::<BTreeSet<_>>()
    };
    // The second member stored nothing, so its records come once more.
    first.read_until("all four", |reader| partitions(reader) == all).await;
    first.close().await;
}

/// A member for which no partition is left has an assignment all the same.
///
/// # Panics
/// When the bus does otherwise.
pub async fn a_member_that_gets_nothing_is_told_so(bed: &dyn Bed) {
    let topic = bed.topic(1).await;
    let mut first = joined(bed, "surplus", &topic, 1).await;
    let mut second = Reader::new(bed.consumer("surplus", &topic));
    while first.assigned.len() + second.assigned.len() != 1 || second.seen.is_empty() {
        assert!(Instant::now() < second.deadline, "{:?}\n{:?}", first.seen, second.seen);
        first.read(Duration::from_millis(50)).await;
        second.read(Duration::from_millis(50)).await;
    }
    assert!(matches!(second.seen[0], Seen::Assigned(_)), "{:?}", second.seen);
    second.close().await;
    first.close().await;
}

/// A paused partition hands over nothing, the others go on, and nothing is lost.
///
/// # Panics
/// When the bus does otherwise.
pub async fn a_paused_partition_waits_alone(bed: &dyn Bed) {
    let (topic, producer) = (bed.topic(2).await, bed.producer(1000));
    let mut reader = joined(bed, "paused", &topic, 2).await;
    let control = reader.consumer.control();
    control.pause(0);
    for _ in 0..3 {
        for partition in [0, 1] {
            write(&*producer, &plain(&topic, partition, b"x")).await;
        }
    }
    reader.read_until("the other partition", |r| r.of_partition(1).len() == 3).await;
    assert_eq!(reader.of_partition(0).len(), 0, "{:?}", reader.seen);
    control.resume(0);
    reader.read_until("the paused partition", |r| r.of_partition(0).len() == 3).await;

    // From within a batch: not one record more, and none lost or repeated later.
    control.pause(1);
    for _ in 0..20 {
        write(&*producer, &plain(&topic, 0, b"y")).await;
    }
    let read = Arc::new(Mutex::new(Vec::new()));
    while locked(&read).is_empty() {
        let mut sink = |event: BusEvent<'_>| {
            if let BusEvent::Record(record) = event {
                control.pause(record.partition);
                locked(&read).push(record.offset);
            }
        };
        let next = reader.consumer.next(64, &mut sink);
        timeout_at(reader.deadline, next).await.expect("a record in time");
    }
    assert_eq!(locked(&read).len(), 1, "a paused partition has no more records");
    control.resume(0);
    reader.read_until("the other nineteen", |r| r.of_partition(0).len() == 3 + 19).await;
    let mut offsets: Vec<i64> = reader.of_partition(0).iter().map(|r| r.position.offset).collect();
    offsets.insert(3, locked(&read)[0]);
    assert!(offsets.is_sorted_by(|a, b| a < b), "{offsets:?}");
    reader.close().await;
}

/// What was taken while the bus was away is written later and told once; what was not taken is told
/// at once.
///
/// # Panics
/// When the bus does otherwise.
pub async fn deliveries_are_told_once_and_a_full_queue_at_once(bed: &dyn Bed) {
    const QUEUE: usize = 50;
    let (topic, producer) = (bed.topic(1).await, bed.producer(QUEUE));
    eventually("the bus is available", || producer.is_available()).await;
    let told = Arc::new(Mutex::new(BTreeMap::<usize, Vec<Result<Position, ProduceError>>>::new()));
    bed.set_reachable(false).await;
    eventually("the bus is known to be away", || !producer.is_available()).await;
    let mut taken = 0;
    let refused = loop {
        let told = Arc::clone(&told);
        let on_delivery = Box::new(move |result| {
            locked(&told).entry(taken).or_default().push(result);
        });
        match producer.produce(&plain(&topic, 0, b"z"), on_delivery) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken <= QUEUE, "a queue without a limit");
    };
    assert_eq!((refused, taken), (ProduceError::QueueFull, QUEUE));
    assert!(locked(&told).is_empty());

    bed.set_reachable(true).await;
    producer.flush(DEADLINE).await;
    eventually("the bus is available again", || producer.is_available()).await;
    let told = locked(&told);
    assert_eq!(told.len(), QUEUE, "each was told");
    assert!(told.values().all(|results| matches!(results[..], [Ok(_)])), "{told:?}");
}

/// A record that no broker would take is refused before it is taken.
///
/// # Panics
/// When the bus does otherwise.
pub async fn oversized_records_are_refused(bed: &dyn Bed) {
    let (topic, producer) = (bed.topic(1).await, bed.producer(10));
    let value = vec![0; 2 << 20];
    let refused = producer.produce(&plain(&topic, 0, &value), Box::new(|_| panic!("not taken")));
    assert_eq!(refused, Err(ProduceError::TooLarge));
}

/// Looks again and again, without blocking the runtime.
pub(super) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain waited until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
