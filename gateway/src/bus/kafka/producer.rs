//! The Kafka producer: a queue in memory, a thread that runs the delivery callbacks, one that finds
//! out whether the cluster can be reached, and one that looks after partitions whose
//! acknowledgements are late.
//!
//! The first thread is rdkafka's `ThreadedProducer` but for its pace: that one comes back every 100 ms, and
//! each poll ends with up to a millisecond of spinning, because librdkafka counts time-outs in whole
//! milliseconds. It cost an idle node a hundredth of a core.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::timeout;

use self::{
    lanes::Lanes,
    parts::Parts,
    settings::{config, limits},
    shared::{Shared, start_thread},
};
use super::{KafkaSettings, StartError, is_connectivity};
use crate::bus::{OnDelivery, Outgoing, ProduceError, Producer};

mod callbacks;
mod health;
mod kept;
mod lane;
mod lanes;
mod partitioning;
mod parts;
mod pause;
mod settings;
mod shared;
mod turns;

/// A [`Producer`] on Kafka. Dropping it gives up what is still queued, on a thread of its own:
/// [`Producer::flush`] first.
pub struct KafkaProducer {
    shared: Arc<Shared>,
    // Dropped after `shared`, so that one of the threads is the last to hold the client and closes
    // it: that can take half a second, and longer when the broker hangs.
    _stop: StopOnDrop,
}

impl KafkaProducer {
    /// Starts a producer. Needs no broker: until one answers it is not available.
    ///
    /// # Errors
    /// A property is unknown or has a bad value.
    pub fn start(settings: &KafkaSettings) -> Result<Self, StartError> {
        let (records_max, limits) = limits(&config(settings));
        let parts = Parts {
            health: Arc::default(),
            outstanding: Arc::default(),
            lanes: Arc::new(Lanes::new(limits)),
            partitioning: Arc::default(),
        };
        let stop = StopOnDrop(parts.clone());
        let shared = Arc::new(Shared::new(settings, parts, records_max)?);
        let watched = Arc::clone(&shared);
        start_thread("kafka-health", move || watched.watch())?;
        let paced = Arc::clone(&shared);
        start_thread("kafka-pace", move || paced.pace())?;
        Ok(Self { shared, _stop: stop })
    }
}

impl fmt::Debug for KafkaProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaProducer")
            .field("settings", &self.shared.settings)
            .field("health", &self.shared.parts.health)
            .field("outstanding", &self.shared.parts.outstanding.count())
            .finish()
    }
}

/// Ends the threads.
struct StopOnDrop(Parts);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.health.stop();
        self.0.lanes.stop();
    }
}

#[async_trait]
impl Producer for KafkaProducer {
    fn produce(&self, record: &Outgoing<'_>, on_delivery: OnDelivery) -> Result<(), ProduceError> {
        let Parts { outstanding, lanes, partitioning, .. } = &self.shared.parts;
        partitioning.learn(record);
        // Counted before it is queued: the callback may run before `send` returns.
        outstanding.add();
        let produced = if outstanding.count() > self.shared.records_max {
            Err(ProduceError::QueueFull)
        } else {
            let (place, is_new) = lanes.place(record);
            if is_new {
                self.shared.parts.health.ask();
            }
            lanes.enter(&place, record, on_delivery).and_then(|goes| match goes {
                Some(on_delivery) => self.shared.send(record, place, on_delivery),
                None => Ok(()),
            })
        };
        if produced.is_err() {
            outstanding.remove();
        }
        produced
    }

    fn is_available(&self) -> bool {
        self.shared.parts.health.is_up()
    }

    fn is_starting(&self) -> bool {
        self.shared.parts.lanes.is_cold()
    }

    fn partition_count(&self, topic: &str) -> Option<i32> {
        self.shared.parts.health.ask();
        self.shared.parts.lanes.partition_count(topic)
    }

    fn outstanding(&self) -> usize {
        self.shared.parts.outstanding.count()
    }

    async fn flush(&self, within: Duration) {
        let outstanding = &self.shared.parts.outstanding;
        if timeout(within, outstanding.none()).await.is_err() {
            let records = outstanding.count();
            tracing::warn!(records, "gave up waiting for records to be acknowledged");
        }
    }
}

#[cfg(test)]
mod tests;
