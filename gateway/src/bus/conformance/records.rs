//! What becomes of records on their way.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use super::{
    Bed, DEADLINE, eventually, plain,
    reader::{Reader, Record},
    write,
};
use crate::{
    bus::{Outgoing, Position, ProduceError, RecordSize, partitioner::partition_for},
    tasks::locked,
};

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
        let (topic, partition, headers) = (&*topic, None, &headers);
        let record = Outgoing { topic, partition, key, key_suffix_bytes: 0, value, headers };
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
    assert_eq!(producer.partition_count(&topic), Some(3));

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

/// The end of a key that does not count changes no partition, on a topic of which nothing is known
/// before as on any other.
///
/// # Panics
/// When the bus does otherwise.
pub async fn the_suffix_of_a_key_does_not_count(bed: &dyn Bed) {
    let (topic, producer) = (bed.topic(7).await, bed.producer(1000));
    for number in 0..20 {
        let (key, suffix) = (format!("key-{number}"), format!("#{}", number * 7919));
        let wire = format!("{key}{suffix}");
        let record = Outgoing {
            topic: &topic,
            partition: None,
            key: Some(wire.as_bytes()),
            key_suffix_bytes: suffix.len().min(2),
            value: Some(b"v"),
            headers: &[],
        };
        let counts = &wire.as_bytes()[..wire.len() - record.key_suffix_bytes];
        let position = write(&*producer, &record).await;
        assert_eq!(position.partition, partition_for(counts, 7), "{wire}");
    }
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
    let size = RecordSize { bytes: value.len(), bytes_max: Some(1_000_000) };
    assert_eq!(refused, Err(ProduceError::TooLarge(size)));
}
