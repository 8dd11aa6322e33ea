//! What members of a group share, and leave to each other.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{
    Bed, DEADLINE, plain,
    reader::{Reader, Seen, joined},
    write,
};

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
