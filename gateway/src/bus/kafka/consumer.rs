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
    consumer::{Consumer as _, MessageStream},
    error::{KafkaError, KafkaResult},
    message::{BorrowedMessage, Message},
};
use tokio::{sync::oneshot, time::timeout};

use self::{
    bell::Bell,
    context::Context,
    control::Control,
    header::HeaderRef,
    member::{Client, Member},
    reading::Reading,
    settings::{config, is_next_generation},
};
use super::{
    KafkaSettings, StartError,
    bootstrap::Bootstrap,
    log::ClientLog,
    rebalance::{Start, Untold},
};
use crate::bus::{BusEvent, Consumer, ConsumerControl, Incoming, Sink, Unreadable};

mod bell;
mod context;
mod control;
mod examination;
mod header;
mod limits;
mod member;
mod probe;
mod reading;
mod settings;
mod topic;
mod watch;

/// A [`Consumer`] on Kafka. Dropping it without [`Consumer::close`] closes it all the same, on a
/// thread of its own.
pub struct KafkaConsumer {
    /// `None` once it is being closed.
    member: Option<Arc<Member>>,
    /// Ends when the client has closed.
    is_closed: oneshot::Receiver<()>,
    control: Arc<Control>,
    bell: Arc<Bell>,
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
        let mut probe = config(settings, group);
        for (key, value) in probe::FIXED {
            probe.set(*key, *value);
        }
        let (reading, bell) = (Arc::new(Reading::new(topic, probe)), Arc::<Bell>::default());
        let context = Context::new(reading, is_next_generation(settings), Arc::clone(&bell));
        let client: Client = config(settings, group).create_with_context(context)?;
        client.subscribe(&[topic])?;
        let (member, is_closed) = Member::new(client);
        let member = Arc::new(member);
        watch::start(&member, &bell, Bootstrap::new(&settings.bootstrap_servers))?;
        let control = Arc::new(Control::new(&member));
        let (member, headers) = (Some(member), Vec::new());
        Ok(Self { member, is_closed, control, bell, headers, busy: false })
    }

    /// Closes the client on a thread of its own: a client whose broker has gone may hang.
    fn retire(&mut self) {
        let Some(member) = self.member.take() else { return };
        let (control, bell) = (Arc::clone(&self.control), Arc::clone(&self.bell));
        let spawned = thread::Builder::new().name("kafka-close".to_owned()).spawn(move || {
            bell.end();
            control.detach();
            if member.context().reading.offsets().is_holding_back()
                && let Err(error) = topic::check(&member, || true)
            {
                tracing::debug!(%error, "what was handled at last is not committed");
            }
            // The last reference, unless the watch is just asking something.
            drop(member);
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread to close the consumer on: it keeps its partitions");
        }
    }
}

impl fmt::Debug for KafkaConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConsumer").field("control", &self.control).finish_non_exhaustive()
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.retire();
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
        let Some(member) = &self.member else { return };
        let (client, reading): (&Client, &Reading) = (member, &member.context().reading);
        let mut stream = pin!(client.stream());
        let mut handed = 0;
        while handed < max.max(1) {
            let polled = if handed == 0 {
                std::future::poll_fn(|cx| poll(stream.as_mut(), reading, cx)).await
            } else {
                let mut at_once = task::Context::from_waker(Waker::noop());
                match poll(stream.as_mut(), reading, &mut at_once) {
                    Poll::Ready(polled) => polled,
                    Poll::Pending => return,
                }
            };
            // No await from here on: what has been taken is handed over.
            let mut rewound = Vec::new();
            while let Some(untold) = reading.next_untold() {
                rewound.extend(tell(client, &untold, sink));
                handed += 1;
            }
            match polled {
                // Read before its partition began anew.
                Some(Ok(message)) if rewound.contains(&message.partition()) => {}
                Some(Ok(message)) => {
                    let memory = std::mem::take(&mut self.headers);
                    self.headers = hand_over(&message, memory, &reading.log, sink);
                    handed += 1;
                }
                Some(Err(KafkaError::PartitionEOF(partition))) if !rewound.contains(&partition) => {
                    sink(BusEvent::Ended(partition));
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
        self.retire();
        if timeout(within, &mut self.is_closed).await.is_err() {
            tracing::warn!("the consumer has not closed in time: left behind");
        }
    }
}

/// Ready with a record or an error, or with nothing when a callback has left a rebalance to tell.
fn poll<'a>(
    stream: Pin<&mut MessageStream<'a, Context>>,
    reading: &Reading,
    cx: &mut task::Context<'_>,
) -> Poll<Option<KafkaResult<BorrowedMessage<'a>>>> {
    match stream.poll_next(cx) {
        Poll::Pending => {
            // Registered before the look, so that what is left by another thread is not missed.
            reading.reader.register(cx.waker());
            if reading.has_untold() { Poll::Ready(None) } else { Poll::Pending }
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
            let reading = &client.context().reading;
            let partitions = {
                let rebalances = reading.rebalances();
                let assigned = |start: &&Start| rebalances.is_assigned(start.partition);
                starts.iter().filter(assigned).copied().collect::<Vec<Start>>()
            };
            reading.offsets().rewound(*topic, &partitions);
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
    let reading = &client.context().reading;
    if !reading.rebalances().is_assigned(batch.partition) {
        return;
    }
    if let Some(next) = batch.next {
        let positions = client.position().ok();
        let position = positions.as_ref().and_then(|positions| {
            let found = positions.find_partition(&reading.topic, batch.partition)?;
            found.offset().to_raw()
        });
        // It may have come past it by itself.
        if position.is_none_or(|position| position < next) {
            seek(client, iter::once((batch.partition, next)));
        }
        reading.stuck().remove(&batch.partition);
    }
    sink(BusEvent::Unreadable(batch));
}

/// Has partitions go on from other offsets. Nothing that was fetched before is handed over any more
/// once this has returned; it does not wait for what comes then.
fn seek(client: &Client, positions: impl Iterator<Item = (i32, i64)>) {
    let reading = &client.context().reading;
    let mut list = TopicPartitionList::new();
    for (partition, offset) in positions {
        // Fails for no offset that a broker can name.
        if list.add_partition_offset(&reading.topic, partition, Offset::from_raw(offset)).is_err() {
            reading.log.warning(&format!("partition {partition} cannot be read from {offset}"));
        }
    }
    if list.count() > 0
        && let Err(error) = client.seek_partitions(list, Duration::ZERO)
    {
        reading.log.warning(&format!("partitions cannot be read from another offset: {error}"));
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
        at_ms: message.timestamp().to_millis().and_then(|at_ms| u64::try_from(at_ms).ok()),
    }));
    header::recycle(headers)
}
