//! Makes librdkafka skip partitions when it sends.
//!
//! Pausing is its own documented call, for producers and consumers alike; rdkafka has it for consumers
//! only.

use std::time::Duration;

use rdkafka::{
    TopicPartitionList, bindings,
    producer::{BaseProducer, Partitioner, Producer as _, ProducerContext},
};

use super::lanes::{Orders, SharedLane};

/// Carries out the orders. What goes on is sent at once.
pub(super) fn carry_out<C: ProducerContext<P>, P: Partitioner>(
    client: &BaseProducer<C, P>,
    orders: &Orders,
) {
    set_paused(client, &orders.pause, true);
    set_paused(client, &orders.resume, false);
    if !orders.resume.is_empty() {
        // The threads of the brokers are asleep, and a new record wakes them only where the queue was
        // empty. A flush that does not wait does nothing but wake them: it has no other outcome.
        drop(client.flush(Duration::ZERO));
    }
}

#[expect(unsafe_code, reason = "rdkafka's safe interface has it for consumers only")]
fn set_paused<C: ProducerContext<P>, P: Partitioner>(
    client: &BaseProducer<C, P>,
    places: &[SharedLane],
    is_paused: bool,
) {
    let mut partitions = TopicPartitionList::new();
    for place in places {
        // One that is not known to have a partition has none to pause.
        if let Some(partition) = place.partition {
            partitions.add_partition(&place.topic, partition);
        }
    }
    if partitions.count() == 0 {
        return;
    }
    // SAFETY: both pointers are of live values, and librdkafka keeps neither. It waits for its main
    // thread, which waits for nothing.
    let result = unsafe {
        let client = client.client().native_ptr();
        match is_paused {
            true => bindings::rd_kafka_pause_partitions(client, partitions.ptr()),
            false => bindings::rd_kafka_resume_partitions(client, partitions.ptr()),
        }
    };
    tracing::debug!(?result, is_paused, partitions = partitions.count(), "partitions");
}
