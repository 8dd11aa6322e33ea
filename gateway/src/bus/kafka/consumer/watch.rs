//! A consumer's second thread: looks up how many partitions the topic has, and whether it is still the
//! same, which librdkafka tells only to a caller that blocks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use rdkafka::{
    consumer::Consumer as _,
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{Client, context::Context, examination::examine, topic};
use crate::bus::{Unreadable, kafka::StartError};

/// From one look to the next: as long as a topic that was made anew may go unnoticed.
const INTERVAL: Duration = Duration::from_secs(5);

/// The same while the topic has not been seen, something about it could not be told, or one of its
/// partitions is not read on.
const INTERVAL_UNKNOWN: Duration = Duration::from_secs(1);

/// From one look to the next, even if somebody wants one.
const REST: Duration = Duration::from_millis(100);

/// How long the brokers have for an answer. It also bounds what stopping the watch can take.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

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
            let before = client.context().stuck().clone();
            observe(client);
            let interval = if is_well(client) { INTERVAL } else { INTERVAL_UNKNOWN };
            // Somebody may want one look after the other, for as long as something is wrong.
            let rest = rest(&before, &client.context().stuck());
            self.wait(rest, |state| !state.stopping);
            self.wait(interval, |state| !(state.wanted || state.stopping));
            let mut state = self.lock();
            if state.stopping {
                return;
            }
            state.wanted = false;
        }
    }

    fn wait(&self, longest: Duration, idle: impl Fn(&State) -> bool) {
        let waited = self.changed.wait_timeout_while(self.lock(), longest, |state| idle(state));
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long complaints are not listened to after a look, by what it has found stuck and the one before
/// it: what is stuck for good is complained about without end, and each look at it makes clients.
fn rest(before: &BTreeMap<i32, Unreadable>, after: &BTreeMap<i32, Unreadable>) -> Duration {
    if !before.is_empty() && before == after { INTERVAL_UNKNOWN } else { REST }
}

/// Whether there is a topic, the group's offsets are of it, and it is read.
fn is_well(client: &Client) -> bool {
    let context: &Context = client.context();
    if context.observed.partition_count().is_none() {
        return false;
    }
    // Each for itself: what keeps a partition from being read may keep the client from asking, too.
    let checked = topic::check(client);
    if let Err(error) = &checked
        && context.offsets().is_holding_back()
    {
        let message = "what is handled is not committed before it is known to be of this topic";
        context.log.warning(&format!("{message}: {error}"));
    }
    let is_suspicious = context.suspicions().is_any() || !context.stuck().is_empty();
    let is_read = !is_suspicious || (examine(client).is_ok() && context.stuck().is_empty());
    checked.is_ok() && is_read
}

/// One look. Without an answer, what was seen last stays.
fn observe(client: &Client) {
    let context: &Context = client.context();
    let Ok(metadata) = client.fetch_metadata(Some(&context.topic), PATIENCE) else { return };
    context.log.connected();
    if let Some(broker) = metadata.brokers().first() {
        context.observed.set_broker(broker.id());
    }
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
        context
            .log
            .warning(&format!("topic {topic} does not exist: `roundtrip topics` creates it"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::UnreadableReason;

    #[test]
    fn what_is_stuck_for_good_is_looked_at_now_and_then() {
        let stuck = |offset| {
            let batch = Unreadable {
                topic: "replies".to_owned(),
                partition: 3,
                offset,
                next: None,
                reason: UnreadableReason::Unsupported,
                cause: "Unsupported MagicByte 9".to_owned(),
            };
            BTreeMap::from([(3, batch)])
        };
        assert_eq!(rest(&BTreeMap::new(), &BTreeMap::new()), REST);
        assert_eq!(rest(&BTreeMap::new(), &stuck(7)), REST);
        assert_eq!(rest(&stuck(7), &stuck(8)), REST, "there may be more behind it");
        assert_eq!(rest(&stuck(7), &stuck(7)), INTERVAL_UNKNOWN);
        assert_eq!(rest(&stuck(7), &BTreeMap::new()), REST);
    }
}
