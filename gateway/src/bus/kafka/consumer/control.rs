//! What may be done to a Kafka consumer from elsewhere.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use rdkafka::{consumer::Consumer as _, error::KafkaResult};

use super::{Client, context::Context};
use crate::bus::{ConsumerControl, Lag, Trouble};

/// Lets go of the client when the consumer is closed, so that whoever still holds the control does
/// not keep it in the group.
pub(super) struct Control {
    /// Read for the length of a call, never across an await.
    client: RwLock<Option<Arc<Client>>>,
    context: Arc<Context>,
}

impl Control {
    pub(super) fn new(client: &Arc<Client>) -> Self {
        let context = Arc::clone(client.context());
        Self { client: RwLock::new(Some(Arc::clone(client))), context }
    }

    /// Waits for the calls under way; later ones do nothing.
    pub(super) fn detach(&self) {
        self.client.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Does `what` while the client is there. Failures mean that the partition has gone meanwhile.
    fn with_client(&self, what: impl FnOnce(&Client) -> KafkaResult<()>) {
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(error)) = client.as_deref().map(what) {
            tracing::debug!(%error, topic = self.context.topic, "consumer control");
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("topic", &self.context.topic)
            .field("observed", &self.context.observed)
            .finish_non_exhaustive()
    }
}

impl ConsumerControl for Control {
    fn store(&self, partition: i32, offset: i64) {
        self.with_client(|client| {
            let put = self.context.offsets().handled(partition, offset);
            self.context.put(client, partition, put)
        });
    }

    fn pause(&self, partition: i32) {
        self.with_client(|client| {
            if !self.context.rebalances().paused(partition) {
                return Ok(());
            }
            client.pause(&self.context.list(&[partition]))
        });
    }

    fn resume(&self, partition: i32) {
        self.with_client(|client| {
            if !self.context.rebalances().resumed(partition) {
                return Ok(());
            }
            client.resume(&self.context.list(&[partition]))
        });
    }

    fn partition_count(&self) -> Option<i32> {
        self.context.observed.partition_count()
    }

    fn lag(&self) -> Vec<Lag> {
        self.context.observed.lag()
    }

    fn troubles(&self) -> Vec<Trouble> {
        let Context { topic, log, observed, .. } = &*self.context;
        let missing = observed.is_missing().then(|| Trouble::MissingTopic(topic.clone()));
        let unreachable = log.disconnected().map(Trouble::Unreachable);
        let stuck = self.context.stuck().values().cloned().map(Trouble::Stuck).collect::<Vec<_>>();
        unreachable.into_iter().chain(missing).chain(stuck).collect()
    }
}
