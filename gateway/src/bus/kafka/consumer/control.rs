//! What may be done to a Kafka consumer while it is read, from any thread.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use rdkafka::{consumer::Consumer as _, error::KafkaResult};

use super::{
    member::{Client, Member},
    reading::Reading,
    topic,
};
use crate::bus::{
    ConsumerControl, Lag, Trouble,
    kafka::rebalance::{Start, Untold},
};

/// librdkafka's number for the first record that there is.
const BEGINNING: i64 = -2;

/// Lets go of the client when the consumer is closed, so that a control which is still held does
/// not keep it in the group.
pub(super) struct Control {
    /// Read for the length of a call, never across an await.
    member: RwLock<Option<Arc<Member>>>,
    reading: Arc<Reading>,
}

impl Control {
    pub(super) fn new(member: &Arc<Member>) -> Self {
        let reading = Arc::clone(&member.context().reading);
        Self { member: RwLock::new(Some(Arc::clone(member))), reading }
    }

    /// Waits for the calls under way; later ones do nothing.
    pub(super) fn detach(&self) {
        self.member.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Calls `what` while the client exists. If it fails, the partition has been revoked meanwhile.
    fn with_client(&self, what: impl FnOnce(&Client) -> KafkaResult<()>) {
        let member = self.member.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(error)) = member.as_ref().map(|member| what(member)) {
            tracing::debug!(%error, topic = self.reading.topic, "consumer control");
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("topic", &self.reading.topic)
            .field("observed", &self.reading.observed)
            .finish_non_exhaustive()
    }
}

impl ConsumerControl for Control {
    fn store(&self, partition: i32, offset: i64) {
        self.with_client(|client| {
            let put = self.reading.offsets().handled(partition, offset);
            topic::put(client, partition, put)
        });
    }

    fn pause(&self, partition: i32) {
        self.with_client(|client| {
            if !self.reading.rebalances().paused(partition) {
                return Ok(());
            }
            client.pause(&self.reading.list(&[partition]))
        });
    }

    fn resume(&self, partition: i32) {
        self.with_client(|client| {
            if !self.reading.rebalances().resumed(partition) {
                return Ok(());
            }
            client.resume(&self.reading.list(&[partition]))
        });
    }

    fn rewind(&self, partition: i32) -> bool {
        let (topic, committed) = {
            let offsets = self.reading.offsets();
            if offsets.unchecked().contains(&partition) {
                return false;
            }
            (offsets.topic(), offsets.committed_of(partition))
        };
        let start = Start { partition, offset: BEGINNING, committed };
        self.reading.tell(Untold::Rewound { topic, starts: vec![start] });
        true
    }

    fn topic_id(&self) -> Option<String> {
        self.reading.offsets().topic().map(|topic| topic.to_string())
    }

    fn partition_count(&self) -> Option<i32> {
        self.reading.observed.partition_count()
    }

    fn lag(&self) -> Vec<Lag> {
        self.reading.observed.lag()
    }

    fn troubles(&self) -> Vec<Trouble> {
        let Reading { topic, log, observed, .. } = &*self.reading;
        let missing = observed.is_missing().then(|| Trouble::MissingTopic(topic.clone()));
        let unreachable = log.disconnected().map(Trouble::Unreachable);
        let stuck = self.reading.stuck().values().cloned().map(Trouble::Stuck).collect::<Vec<_>>();
        unreachable.into_iter().chain(missing).chain(stuck).collect()
    }
}
