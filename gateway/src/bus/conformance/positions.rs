//! At which position in its partitions a reader goes on.

use std::{sync::Mutex, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{
    Bed, DEADLINE, Mutable, plain,
    reader::{Reader, Seen, joined},
    write,
};
use crate::{bus::BusEvent, tasks::locked};

/// A paused partition hands over nothing, the others go on, and nothing is lost.
///
/// That is promised for as long as the partition stays with its member. A broker that has not heard of one
/// for too long, as on a machine that is busy, gives it everything anew, and the check begins anew too.
///
/// # Panics
/// When the bus does otherwise.
pub async fn a_paused_partition_waits_alone(bed: &dyn Bed) {
    let deadline = Instant::now() + 2 * DEADLINE;
    while waits_alone(bed).await.is_none() {
        assert!(Instant::now() < deadline, "the member cannot keep its partitions");
    }
}

/// `None` if it could not be seen, because partitions have moved.
async fn waits_alone(bed: &dyn Bed) -> Option<()> {
    let (topic, producer) = (bed.topic(2).await, bed.producer(1000));
    let mut reader = joined(bed, &topic, &topic, 2).await;
    let control = reader.consumer.control();
    let has = |reader: &Reader, partition, records| {
        reader.undisturbed().is_none() || reader.of_partition(partition).len() == records
    };
    control.pause(0);
    for _ in 0..3 {
        for partition in [0, 1] {
            write(&*producer, &plain(&topic, partition, b"x")).await;
        }
    }
    reader.read_until("the other partition", |reader| has(reader, 1, 3)).await;
    reader.undisturbed()?;
    assert_eq!(reader.of_partition(0).len(), 0, "{:?}", reader.seen);
    control.resume(0);
    reader.read_until("the paused partition", |reader| has(reader, 0, 3)).await;
    reader.undisturbed()?;

    // Paused within a batch, it hands over not one record more, and none is lost or repeated later.
    control.pause(1);
    for _ in 0..20 {
        write(&*producer, &plain(&topic, 0, b"y")).await;
    }
    let read = Mutex::new(Some(Vec::new()));
    while locked(&read).as_ref()?.is_empty() {
        let mut sink = |event: BusEvent<'_>| match event {
            BusEvent::Record(record) => {
                control.pause(record.partition);
                locked(&read).iter_mut().for_each(|read| read.push(record.offset));
            }
            BusEvent::Revoked { .. } => *locked(&read) = None,
            _ => {}
        };
        let next = reader.consumer.next(64, &mut sink);
        timeout_at(reader.deadline, next).await.expect("a record in time");
    }
    let read = locked(&read).take()?;
    assert_eq!(read.len(), 1, "a paused partition has no more records");
    control.resume(0);
    reader.read_until("the other nineteen", |reader| has(reader, 0, 3 + 19)).await;
    reader.undisturbed()?;
    let mut offsets: Vec<i64> = reader.of_partition(0).iter().map(|r| r.position.offset).collect();
    offsets.insert(3, read[0]);
    assert!(offsets.is_sorted_by(|a, b| a < b), "{offsets:?}");
    reader.close().await;
    Some(())
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

/// A partition that is rewound is read from its first record on, and the group goes on from what is
/// stored after that, though it is lower than what was stored before.
///
/// # Panics
/// When the bus does otherwise.
pub async fn a_partition_is_read_again_from_its_beginning(bed: &dyn Bed) {
    let (topic, producer) = (bed.topic(1).await, bed.producer(100));
    for _ in 0..5 {
        write(&*producer, &plain(&topic, 0, b"x")).await;
    }
    let mut reader = joined(bed, "again", &topic, 1).await;
    reader.read_until("all records", |reader| reader.records().count() == 5).await;
    let control = reader.consumer.control();
    control.store(0, 5);
    // So that this is committed.
    reader.read(Duration::from_secs(2)).await;
    while !control.rewind(0) {
        reader.read(Duration::from_millis(100)).await;
    }
    reader.read_until("all of them again", |reader| since_rewound(reader) == [0, 1, 2, 3, 4]).await;
    control.store(0, 2);
    reader.read(Duration::from_secs(2)).await;
    reader.close().await;
    let mut next = joined(bed, "again", &topic, 1).await;
    next.read_until("what was not handled", |reader| reader.records().count() == 3).await;
    assert_eq!(next.of_partition(0)[0].position.offset, 2);
    next.close().await;
}

/// The offsets since the reader began anew.
fn since_rewound(reader: &Reader) -> Vec<i64> {
    if !reader.seen.iter().any(|seen| matches!(seen, Seen::Rewound(_))) {
        return Vec::new();
    }
    let since = reader.seen.iter().rev().take_while(|seen| !matches!(seen, Seen::Rewound(_)));
    let mut offsets: Vec<i64> = since.filter_map(Seen::offset).collect();
    offsets.reverse();
    offsets
}

/// The new topic is read from its beginning, even if offsets that were stored of the former one lie
/// within it. After that, the group goes on from what is stored of the new one.
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
    let all: Vec<i64> = (0..written).collect();
    // Before it is rewound it may go on from the former offset, and what it reads then looks,
    // behind the former records, as if all had been read from the beginning.
    reader.read_until("all that is new", |reader| since_rewound(reader) == all).await;

    reader.consumer.control().store(0, 2);
    reader.read(Duration::from_secs(2)).await;
    reader.close().await;
    let mut next = joined(bed, "g", &topic, 1).await;
    next.read_until("what was not handled", |reader| reader.records().count() == 7).await;
    assert_eq!(next.of_partition(0)[0].position.offset, 2);
}
