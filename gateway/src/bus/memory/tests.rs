//! The bus in memory, against the list of all buses and for what only it can do.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;

use super::*;
use crate::bus::{
    Consumer,
    conformance::{Bed, Mutable, Reader, Seen, checks, eventually, plain, write},
};

struct Memory {
    bus: MemoryBus,
    topics: AtomicU32,
}

fn memory() -> Memory {
    Memory { bus: MemoryBus::new(&[]), topics: AtomicU32::new(0) }
}

#[async_trait(?Send)]
impl Bed for Memory {
    fn producer(&self, queue: usize) -> Arc<dyn Producer> {
        Arc::new(self.bus.producer_with_queue(queue))
    }

    fn consumer(&self, group: &str, topic: &str) -> Box<dyn Consumer> {
        Box::new(self.bus.consumer(group, topic))
    }

    async fn topic(&self, partitions: i32) -> String {
        let topic = format!("topic-{}", self.topics.fetch_add(1, Ordering::Relaxed));
        self.bus.create_topic(&topic, partitions);
        topic
    }

    async fn set_reachable(&self, reachable: bool) {
        self.bus.set_available(reachable);
    }
}

#[async_trait(?Send)]
impl Mutable for Memory {
    async fn make_anew(&self, topic: &str, partitions: i32) {
        self.bus.make_anew(topic, partitions);
    }
}

checks!(bed: memory(), doomed: memory());
checks!(memory(); a_topic_made_anew_is_read_from_its_beginning);

#[tokio::test]
async fn a_missing_topic_is_told_and_waited_for() {
    let bus = MemoryBus::new(&[]);
    let producer = bus.producer();
    let (told, delivery) = tokio::sync::oneshot::channel();
    let on_delivery = Box::new(move |result| told.send(result).expect("waited for"));
    producer.produce(&plain("late", 0, b"x"), on_delivery).unwrap();
    assert_eq!(delivery.await.unwrap(), Err(ProduceError::UnknownTopic));

    let mut reader = Reader::new(Box::new(bus.consumer("g", "late")));
    assert_eq!(reader.consumer.control().partition_count(), None);
    bus.create_topic("late", 2);
    reader.read_until("the topic", |reader| reader.assigned.len() == 2).await;
    bus.create_topic("late", 3);
    reader.read_until("more partitions", |reader| reader.assigned.len() == 3).await;
}

#[tokio::test]
async fn lost_partitions_are_told_and_can_be_stored_no_more() {
    let bus = MemoryBus::new(&[("t", 2)]);
    write(&bus.producer(), &plain("t", 1, b"x")).await;
    let mut reader = Reader::new(Box::new(bus.consumer("g", "t")));
    reader.read_until("the record", |reader| reader.records().count() == 1).await;
    bus.lose_assignments("g", "t");
    reader.consumer.control().store(1, 1);
    reader.read_until("it again", |reader| reader.records().count() == 2).await;
    let told = [Seen::Assigned(vec![0, 1]), Seen::Revoked(vec![0, 1]), Seen::Assigned(vec![0, 1])];
    let rebalances = reader.seen.iter().filter(|seen| !matches!(seen, Seen::Record(_)));
    assert!(rebalances.eq(&told), "{:?}", reader.seen);
}

#[tokio::test(start_paused = true)]
async fn a_crash_forgets_what_was_stored_in_the_last_second() {
    let bus = MemoryBus::new(&[("t", 1)]);
    let producer = bus.producer();
    for _ in 0..2 {
        write(&producer, &plain("t", 0, b"x")).await;
    }
    let mut reader = Reader::new(Box::new(bus.consumer("g", "t")));
    reader.read_until("both", |reader| reader.records().count() == 2).await;
    reader.consumer.control().store(0, 1);
    reader.read(2 * Duration::from_secs(1)).await;
    reader.consumer.control().store(0, 2);
    drop(reader);
    let mut next = Reader::new(Box::new(bus.consumer("g", "t")));
    next.read_until("the second", |reader| reader.records().count() == 1).await;
    assert_eq!(next.of_partition(0)[0].position.offset, 1);
}

#[tokio::test]
async fn queued_records_can_be_given_up() {
    let bus = MemoryBus::new(&[("t", 1)]);
    bus.set_available(false);
    let producer = bus.producer();
    let told = Arc::new(Mutex::new(None));
    let tell = Arc::clone(&told);
    let on_delivery = Box::new(move |result| *tell.lock().unwrap() = Some(result));
    producer.produce(&plain("t", 0, b"x"), on_delivery).unwrap();
    bus.time_out_queued();
    eventually("it is told", || told.lock().unwrap().is_some()).await;
    let told = told.lock().unwrap().take();
    assert!(matches!(told, Some(Err(ProduceError::Unconfirmed(_)))), "{told:?}");
}
