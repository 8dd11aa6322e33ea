//! A consumer's second thread: looks up how many partitions the topic has, which librdkafka tells
//! only to a caller that blocks.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use rdkafka::{
    consumer::Consumer as _,
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{Client, context::Context};
use crate::bus::kafka::StartError;

/// From one look to the next.
const INTERVAL: Duration = Duration::from_secs(10);

/// The same while the topic has not been seen.
const INTERVAL_UNKNOWN: Duration = Duration::from_secs(1);

/// How long the brokers have for an answer. It also bounds what stopping the watch can take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The thread and what it waits for.
#[derive(Debug, Default)]
pub(super) struct Watch {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Somebody wants a look before the interval is over.
    wanted: bool,
    stopping: bool,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn start(self: &Arc<Self>, client: &Arc<Client>) -> Result<(), StartError> {
        let (watch, client) = (Arc::clone(self), Arc::clone(client));
        let thread = thread::Builder::new()
            .name("kafka-watch".to_owned())
            .spawn(move || watch.run(&client))
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        self.lock().thread = Some(thread);
        Ok(())
    }

    /// Asks for a look soon: the assignment has changed, so the topic may have.
    pub(super) fn look(&self) {
        self.lock().wanted = true;
        self.changed.notify_one();
    }

    /// Ends the thread and waits for it: it lets go of the client.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        let thread = state.thread.take();
        drop(state);
        self.changed.notify_one();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread that watches a topic panicked");
        }
    }

    fn run(&self, client: &Client) {
        loop {
            observe(client);
            let known = client.context().observed.partition_count().is_some();
            let interval = if known { INTERVAL } else { INTERVAL_UNKNOWN };
            let idle = |state: &mut State| !(state.wanted || state.stopping);
            let waited = self.changed.wait_timeout_while(self.lock(), interval, idle);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.stopping {
                return;
            }
            state.wanted = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One look. Without an answer, what was seen last stays.
fn observe(client: &Client) {
    let context: &Context = client.context();
    let Ok(metadata) = client.fetch_metadata(Some(&context.topic), PATIENCE) else { return };
    let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == context.topic) else {
        return;
    };
    let count = match topic.error().map(RDKafkaErrorCode::from) {
        // Partitions that have no leader yet count all the same.
        None => i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition) => 0,
        Some(_) => return,
    };
    if context.observed.set_partition_count(count) && count == 0 {
        let topic = &context.topic;
        context.log.warning(&format!("topic {topic} does not exist: waiting for it"));
    }
}
