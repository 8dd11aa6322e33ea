//! The Kafka consumer: one topic, read as a member of a group.
//!
//! librdkafka's callbacks run inside the poll that [`Consumer::next`] makes, so rebalances and
//! records come in one order without any queue between threads.

use std::{
    fmt, iter,
    pin::{Pin, pin},
    sync::Arc,
    task::{self, Poll, Waker},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::Stream;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{Consumer as _, MessageStream, StreamConsumer},
    error::KafkaResult,
    message::{BorrowedMessage, Message},
};
use tokio::{sync::oneshot, time::timeout};

use self::{context::Context, control::Control, header::HeaderRef, watch::Watch};
use super::{
    KafkaSettings, Profile, StartError,
    log::ClientLog,
    rebalance::{Start, Untold},
};
use crate::bus::{BusEvent, Consumer, ConsumerControl, Incoming, Sink, Unreadable};

mod context;
mod control;
mod examination;
mod header;
mod probe;
mod topic;
mod watch;

/// What a consumer begins with; see `CONFIGURATION.md` of librdkafka for the names.
const DEFAULTS: &[(&str, &str)] = &[
    // A record that is written between the assignment and the first look at the end of the
    // partition would be skipped with "latest".
    ("auto.offset.reset", "earliest"),
    ("auto.commit.interval.ms", "1000"),
    // A batch that is damaged would be handed over as it is, or be fetched for ever without a word.
    ("check.crcs", "true"),
    // Bounds what is fetched ahead; the default is 64 MiB.
    ("queued.max.messages.kbytes", "16384"),
    // How soon a partition that was fetched ahead to that bound is fetched again; the default of a
    // second would stall a consumer that has long caught up.
    ("fetch.queue.backoff.ms", "20"),
];

/// Of the classic group protocol alone. With `group.protocol=consumer` (KIP-848) the broker
/// decides on them, and librdkafka refuses to be told.
const CLASSIC: &[(&str, &str)] = &[("partition.assignment.strategy", "cooperative-sticky")];

/// What the guarantees of [`Consumer`] rest on.
const FIXED: &[(&str, &str)] = &[
    // librdkafka commits what is stored: once a second, at close, and before a partition goes to
    // another member, which it holds back until the commit is through. Committing in the callback
    // as well would only block the runtime.
    ("enable.auto.commit", "true"),
    ("enable.auto.offset.store", "false"),
];

type Client = StreamConsumer<Context>;

/// A [`Consumer`] on Kafka. Dropping it without [`Consumer::close`] closes it all the same, on a
/// thread of its own.
pub struct KafkaConsumer {
    /// `None` once it is being closed.
    client: Option<Arc<Client>>,
    control: Arc<Control>,
    watch: Arc<Watch>,
    /// The memory of the header slice that [`Incoming`] borrows.
    headers: Vec<HeaderRef<'static>>,
    /// The last batch was full, so there is probably another one.
    busy: bool,
}

impl KafkaConsumer {
    /// Joins `group` to read `topic`. Needs neither a broker nor the topic: both are waited for.
    ///
    /// # Errors
    /// A property is unknown or has a bad value.
    ///
    /// # Panics
    /// Outside of a tokio runtime, which rdkafka needs for a timer.
    pub fn start(settings: &KafkaSettings, group: &str, topic: &str) -> Result<Self, StartError> {
        header::hide_caught_panics();
        let watch = Arc::new(Watch::default());
        let mut probe = config(settings, group);
        for (key, value) in probe::FIXED {
            probe.set(*key, *value);
        }
        let context = Context::new(topic, is_next_generation(settings), probe, Arc::clone(&watch));
        let client: Client = config(settings, group).create_with_context(context)?;
        client.subscribe(&[topic])?;
        let client = Arc::new(client);
        watch.start(&client)?;
        let control = Arc::new(Control::new(&client));
        Ok(Self { client: Some(client), control, watch, headers: Vec::new(), busy: false })
    }

    /// Closes the client on a thread of its own: a client whose broker has gone may hang.
    fn retire(&mut self) -> Option<oneshot::Receiver<()>> {
        let client = self.client.take()?;
        let (control, watch) = (Arc::clone(&self.control), Arc::clone(&self.watch));
        let (closed, is_closed) = oneshot::channel::<()>();
        let spawned = thread::Builder::new().name("kafka-close".to_owned()).spawn(move || {
            control.detach();
            watch.stop();
            if client.context().offsets().is_holding_back()
                && let Err(error) = topic::check(&client)
            {
                tracing::debug!(%error, "what was handled at last is not committed");
            }
            // The last reference: leaves the group after a last commit, and waits for both.
            drop(client);
            drop(closed);
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread to close the consumer on: it keeps its partitions");
        }
        Some(is_closed)
    }
}

/// Whether the user has chosen the group protocol of KIP-848.
fn is_next_generation(settings: &KafkaSettings) -> bool {
    let protocol = settings.properties.get("group.protocol");
    protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case("consumer"))
}

fn config(settings: &KafkaSettings, group: &str) -> rdkafka::ClientConfig {
    // The classic protocol's time-outs: a dead member is missed after the first. The others learn of
    // every rebalance by a heartbeat, so a partition that moves is read by nobody for one or two.
    let (tuned, timeouts): (&[_], [_; 2]) = match settings.profile {
        Profile::Production => (
            // A broker answers a waiting fetch as soon as there is a record.
            &[("fetch.wait.max.ms", "500"), ("statistics.interval.ms", "5000")],
            [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "200")],
        ),
        Profile::Dev => (
            &[("fetch.wait.max.ms", "5"), ("statistics.interval.ms", "1000")],
            [("session.timeout.ms", "4000"), ("heartbeat.interval.ms", "250")],
        ),
    };
    let mut defaults = [DEFAULTS, tuned].concat();
    if !is_next_generation(settings) {
        defaults.extend(CLASSIC.iter().chain(&timeouts));
    }
    let isolation = if settings.reads_uncommitted { "read_uncommitted" } else { "read_committed" };
    let own = [("group.id", group), ("isolation.level", isolation)];
    settings.client_config(&defaults, &[FIXED, &own].concat())
}

impl fmt::Debug for KafkaConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConsumer").field("control", &self.control).finish_non_exhaustive()
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        drop(self.retire());
    }
}

#[async_trait]
impl Consumer for KafkaConsumer {
    async fn next(&mut self, max: usize, sink: &mut Sink<'_>) {
        if std::mem::take(&mut self.busy) {
            // rdkafka's futures are always ready while there are records: without this a busy topic
            // would keep every other task off the thread.
            tokio::task::yield_now().await;
        }
        let Some(client) = &self.client else { return };
        let context = client.context();
        let mut stream = pin!(client.stream());
        let mut handed = 0;
        while handed < max.max(1) {
            let polled = if handed == 0 {
                std::future::poll_fn(|cx| poll(stream.as_mut(), context, cx)).await
            } else {
                let mut at_once = task::Context::from_waker(Waker::noop());
                match poll(stream.as_mut(), context, &mut at_once) {
                    Poll::Ready(polled) => polled,
                    Poll::Pending => return,
                }
            };
            // No await from here on: what has been taken is handed over.
            let mut rewound = Vec::new();
            while let Some(untold) = context.next_untold() {
                rewound.extend(tell(client, &untold, sink));
                handed += 1;
            }
            match polled {
                // Read before its partition began anew.
                Some(Ok(message)) if rewound.contains(&message.partition()) => {}
                Some(Ok(message)) => {
                    let memory = std::mem::take(&mut self.headers);
                    self.headers = hand_over(&message, memory, &context.log, sink);
                    handed += 1;
                }
                // Told by the client's error callback already, and waited out.
                Some(Err(error)) => tracing::debug!(%error, "consumer error"),
                None => {}
            }
        }
        self.busy = true;
    }

    fn control(&self) -> Arc<dyn ConsumerControl> {
        Arc::clone(&self.control) as Arc<dyn ConsumerControl>
    }

    async fn close(mut self: Box<Self>, within: Duration) {
        let Some(is_closed) = self.retire() else { return };
        if timeout(within, is_closed).await.is_err() {
            tracing::warn!("the consumer has not closed in time: left behind");
        }
    }
}

/// Ready with a record or an error, or with nothing when a callback has left a rebalance to tell.
fn poll<'a>(
    stream: Pin<&mut MessageStream<'a, Context>>,
    context: &Context,
    cx: &mut task::Context<'_>,
) -> Poll<Option<KafkaResult<BorrowedMessage<'a>>>> {
    match stream.poll_next(cx) {
        Poll::Pending => {
            // Registered before the look, so that what is left by another thread is not missed.
            context.reader.register(cx.waker());
            if context.has_untold() { Poll::Ready(None) } else { Poll::Pending }
        }
        polled => polled,
    }
}

/// Tells the reader what was left for it. Returns the partitions of which nothing that was read before
/// counts any more.
fn tell(client: &Client, untold: &Untold, sink: &mut Sink<'_>) -> Vec<i32> {
    match untold {
        Untold::Assigned(partitions) => sink(BusEvent::Assigned(partitions)),
        Untold::Revoked { partitions, lost } => {
            sink(BusEvent::Revoked { partitions, lost: *lost });
        }
        Untold::Rewound { topic, starts } => {
            let context = client.context();
            let partitions = {
                let rebalances = context.rebalances();
                let assigned = |start: &&Start| rebalances.is_assigned(start.partition);
                starts.iter().filter(assigned).copied().collect::<Vec<Start>>()
            };
            context.offsets().rewound(*topic, &partitions);
            seek(client, partitions.iter().map(|start| (start.partition, start.offset)));
            let partitions: Vec<i32> = partitions.iter().map(|start| start.partition).collect();
            sink(BusEvent::Rewound(&partitions));
            return partitions;
        }
        Untold::Unreadable(batch) => step_over(client, batch, sink),
    }
    Vec::new()
}

/// Tells the reader of a batch that cannot be read, and goes on after it.
fn step_over(client: &Client, batch: &Unreadable, sink: &mut Sink<'_>) {
    let context = client.context();
    if !context.rebalances().is_assigned(batch.partition) {
        return;
    }
    if let Some(next) = batch.next {
        let positions = client.position().ok();
        let position = positions.as_ref().and_then(|positions| {
            let found = positions.find_partition(&context.topic, batch.partition)?;
            found.offset().to_raw()
        });
        // It may have come past it by itself.
        if position.is_none_or(|position| position < next) {
            seek(client, iter::once((batch.partition, next)));
        }
        context.stuck().remove(&batch.partition);
    }
    sink(BusEvent::Unreadable(batch));
}

/// Has partitions go on from other offsets. Nothing that was fetched before is handed over any more
/// once this has returned; it does not wait for what comes then.
fn seek(client: &Client, positions: impl Iterator<Item = (i32, i64)>) {
    let context = client.context();
    let mut list = TopicPartitionList::new();
    for (partition, offset) in positions {
        // Fails for no offset that a broker can name.
        if list.add_partition_offset(&context.topic, partition, Offset::Offset(offset)).is_err() {
            context.log.warning(&format!("partition {partition} cannot be read from {offset}"));
        }
    }
    if list.count() > 0
        && let Err(error) = client.seek_partitions(list, Duration::ZERO)
    {
        context.log.warning(&format!("partitions cannot be read from another offset: {error}"));
    }
}

/// Hands one record to `sink`; takes and gives back the memory for its headers.
fn hand_over(
    message: &BorrowedMessage<'_>,
    memory: Vec<HeaderRef<'static>>,
    log: &ClientLog,
    sink: &mut Sink<'_>,
) -> Vec<HeaderRef<'static>> {
    let mut headers = header::recycle(memory);
    if let Some(source) = message.headers() {
        let foreign = header::read(source, &mut headers);
        if foreign > 0 {
            let (partition, offset) = (message.partition(), message.offset());
            let names = format!("{foreign} headers whose names are not UTF-8 were left out");
            log.warning(&format!("partition {partition}, offset {offset}: {names}"));
        }
    }
    sink(BusEvent::Record(Incoming {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key(),
        value: message.payload(),
        headers: &headers,
    }));
    header::recycle(headers)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_classic_protocols_properties_are_left_out_of_the_next_generations() {
        let mut settings = KafkaSettings::default();
        assert_eq!(config(&settings, "g").get("session.timeout.ms"), Some("6000"));
        assert_eq!(config(&settings, "g").get("isolation.level"), Some("read_committed"));
        settings.properties = BTreeMap::from([("group.protocol".into(), "CONSUMER".into())]);
        let config = config(&settings, "g");
        for key in ["session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"]
        {
            assert_eq!(config.get(key), None, "{key}");
        }
        assert_eq!(config.get("group.id"), Some("g"));
    }
}
