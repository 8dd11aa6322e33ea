//! The service: echoes after a while, by affinity or to any partition, sometimes twice, and never
//! where it is asked not to.

use std::sync::Arc;

use gateway::{
    bus::{BusEvent, Consumer, Outgoing, Position, Producer},
    deletable::message,
    relay::dialects::CORRELATION_ID,
};

use crate::world::{REPLY_PARTITIONS, World};

/// A request with this in its payload is not answered.
pub(crate) const NEVER: &str = "never";

/// Serves for as long as the world lasts.
pub(crate) async fn serve(world: Arc<World>) {
    let mut consumer = world.bus.consumer("echo", "echo");
    let producer = Arc::new(world.bus.producer());
    loop {
        let mut sink = |event: BusEvent<'_>| {
            let BusEvent::Record(record) = event else { return };
            let found = record.headers.iter().find(|(name, _)| *name == CORRELATION_ID);
            let correlation = found.and_then(|(_, value)| *value).unwrap_or_default().to_vec();
            let Some(message) = message(record.key, record.value) else { return };
            // Also of a record that is written again, by whichever node.
            assert_eq!(message.guid.map(str::as_bytes), Some(&*correlation), "another message");
            let value = message.value.to_vec();
            if String::from_utf8_lossy(&value).contains(NEVER) {
                return;
            }
            let replies = if world.chance(10) { 2 } else { 1 };
            for _ in 0..replies {
                let (world, producer) = (Arc::clone(&world), Arc::clone(&producer));
                let (correlation, value) = (correlation.clone(), value.clone());
                let task = reply(Arc::clone(&world), producer, correlation, value);
                world.spawn(task);
            }
        };
        consumer.next(64, &mut sink).await;
    }
}

async fn reply(world: Arc<World>, producer: Arc<impl Producer>, id: Vec<u8>, value: Vec<u8>) {
    match world.below(10) {
        0 => {}
        1 => world.sleep(1000, 4000).await,
        _ => world.sleep(0, 300).await,
    }
    let partition =
        world.chance(50).then(|| i32::try_from(world.below(REPLY_PARTITIONS as u64)).unwrap());
    let headers = [(CORRELATION_ID, &*id)];
    let record = Outgoing {
        topic: "replies",
        partition,
        key: Some(&id),
        key_suffix_bytes: 0,
        value: Some(&value),
        headers: &headers,
    };
    let (world, request) = (Arc::clone(&world), String::from_utf8(id.clone()).unwrap());
    let on_delivery = Box::new(move |result: Result<Position, _>| {
        let position = result.expect("the simulated broker takes it");
        let Position { partition, offset } = position;
        world.book.log(world.seconds(), &format!("reply to {request} is {offset} of {partition}"));
        world.book.replied(&request, partition, offset);
    });
    producer.produce(&record, on_delivery).unwrap();
}
