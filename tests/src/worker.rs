//! A backend service on Kafka: answers requests as it is told, and remembers what it saw.

use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use rand::RngExt;
use rdkafka::{
    Message,
    consumer::{Consumer, StreamConsumer},
    error::KafkaResult,
    message::{BorrowedMessage, Header, Headers, OwnedHeaders},
    producer::{DeliveryFuture, FutureProducer, FutureRecord},
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{SOON, eventually, infra::kafka::Kafka};

/// A request record as the service saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: BTreeMap<String, Vec<u8>>,
}

/// A record to answer with.
#[derive(Debug, Default)]
pub struct Reply {
    /// What to wait for first; other requests are not held up.
    pub first: First,
    /// The key; by default the correlation id.
    pub key: ReplyKey,
    pub value: Option<Vec<u8>>,
    /// Beside the correlation id.
    pub headers: Vec<(String, Vec<u8>)>,
    pub partition: ReplyPartition,
}

/// What a service does before it replies.
#[derive(Default)]
pub struct First(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl fmt::Debug for First {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("First").field(&self.0.is_some()).finish()
    }
}

/// What a reply record is keyed with.
#[derive(Clone, Debug, Default)]
pub enum ReplyKey {
    #[default]
    Correlation,
    None,
    Bytes(Vec<u8>),
}

/// Where a reply record goes.
#[derive(Clone, Copy, Debug, Default)]
pub enum ReplyPartition {
    /// Where the producer's partitioner puts its key.
    #[default]
    ByKey,
    /// Anywhere: a service that knows nothing of affinity.
    Random,
    /// Here.
    Fixed(i32),
}

impl Seen {
    /// A header's text, empty when there is none.
    pub fn header(&self, name: &str) -> String {
        let bytes = self.headers.get(name).map(Vec::as_slice).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// The value as text, empty when there is none.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.value.as_deref().unwrap_or_default()).into_owned()
    }

    fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().map(|headers| {
            let one = |header: Header<'_, &[u8]>| {
                (header.key.to_owned(), header.value.unwrap_or_default().to_owned())
            };
            headers.iter().map(one).collect()
        });
        Self {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        }
    }
}

impl Reply {
    /// A reply with these bytes.
    pub fn of(value: impl Into<Vec<u8>>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// The request's own bytes.
    pub fn echo(seen: &Seen) -> Self {
        Self { value: seen.value.clone(), ..Self::default() }
    }

    /// The same, later.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        self.when(sleep(delay))
    }

    /// The same, when something else has happened.
    #[must_use]
    pub fn when(mut self, first: impl Future<Output = ()> + Send + 'static) -> Self {
        self.first = First(Some(Box::pin(first)));
        self
    }

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The same with a status.
    #[must_use]
    pub fn status(self, status: u16) -> Self {
        self.header("roundtrip-status", status.to_string())
    }

    /// The same without a key.
    #[must_use]
    pub fn unkeyed(mut self) -> Self {
        self.key = ReplyKey::None;
        self
    }

    /// The same into any partition.
    #[must_use]
    pub fn anywhere(mut self) -> Self {
        self.partition = ReplyPartition::Random;
        self
    }
}

/// How replies with a key find their partition.
#[derive(Clone, Copy, Debug, Default)]
pub enum Partitioner {
    /// As Java's producer does.
    #[default]
    Murmur2,
    /// librdkafka's default, found in services of most other languages.
    Crc32,
}

type Behaviour = dyn Fn(&Seen) -> Vec<Reply> + Send + Sync;

/// A running service; it stops when dropped.
#[derive(Debug)]
pub struct Worker {
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: CancellationToken,
}

/// What a service is started with; made by [`crate::cluster::Cluster::worker`].
#[derive(Clone, Debug)]
pub struct WorkerBuilder {
    pub(crate) kafka: Arc<Kafka>,
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) reply_partitions: i32,
    pub(crate) partitioner: Partitioner,
}

impl WorkerBuilder {
    /// Uses another partitioner for its replies.
    #[must_use]
    pub fn partitioner(mut self, partitioner: Partitioner) -> Self {
        self.partitioner = partitioner;
        self
    }

    /// Joins another group, so that it sees all records beside the other workers.
    #[must_use]
    pub fn group(mut self, group: &str) -> Self {
        self.group = group.to_owned();
        self
    }

    /// Answers every request with its own bytes.
    ///
    /// # Errors
    /// When Kafka's client cannot be set up.
    pub fn echo(self) -> Result<Worker> {
        self.start(|seen| vec![Reply::echo(seen)])
    }

    /// Answers nothing: it watches.
    ///
    /// # Errors
    /// When Kafka's client cannot be set up.
    pub fn silent(self) -> Result<Worker> {
        self.start(|_| Vec::new())
    }

    /// Answers each request with the records the closure gives.
    ///
    /// # Errors
    /// When Kafka's client cannot be set up.
    pub fn start(
        self,
        behaviour: impl Fn(&Seen) -> Vec<Reply> + Send + Sync + 'static,
    ) -> Result<Worker> {
        let mut client = self.kafka.client();
        client.set("linger.ms", "0");
        let partitioner = match self.partitioner {
            Partitioner::Murmur2 => "murmur2_random",
            Partitioner::Crc32 => "consistent_random",
        };
        let producer: FutureProducer = client.clone().set("partitioner", partitioner).create()?;
        let consumer: StreamConsumer = client
            .set("group.id", &self.group)
            .set("auto.offset.reset", "earliest")
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "1000")
            .create()?;
        consumer.subscribe(&[&self.topic])?;
        let (seen, stop) = (Arc::default(), CancellationToken::new());
        let service = Service {
            producer,
            consumer,
            behaviour: Arc::new(behaviour),
            seen: Arc::clone(&seen),
            reply_partitions: self.reply_partitions,
            _kafka: self.kafka,
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(service.run()));
        Ok(Worker { seen, stop })
    }
}

impl Worker {
    /// All requests seen so far, repeats among them.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has seen so many requests.
    ///
    /// # Errors
    /// When it has not soon.
    pub async fn has_seen(&self, count: usize) -> Result<Vec<Seen>> {
        eventually(SOON, "the service sees its requests", async || {
            let seen = self.seen();
            ensure!(seen.len() >= count, "{} of {count}", seen.len());
            Ok(seen)
        })
        .await
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Service {
    producer: FutureProducer,
    consumer: StreamConsumer,
    behaviour: Arc<Behaviour>,
    seen: Arc<Mutex<Vec<Seen>>>,
    reply_partitions: i32,
    /// Dropped last: a client without its broker takes long to close.
    _kafka: Arc<Kafka>,
}

impl Service {
    async fn run(self) {
        loop {
            // A broker that is down is waited for: the next call tries again.
            let Ok(message) = self.consumer.recv().await else { continue };
            let seen = Seen::of(&message);
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen.clone());
            for reply in (self.behaviour)(&seen) {
                self.answer(&seen, reply);
            }
        }
    }

    fn answer(&self, seen: &Seen, reply: Reply) {
        let producer = self.producer.clone();
        let topic = seen.header("kafka_replyTopic");
        let correlation = seen.headers.get("kafka_correlationId").cloned().unwrap_or_default();
        let partition = match reply.partition {
            ReplyPartition::ByKey => None,
            ReplyPartition::Fixed(partition) => Some(partition),
            ReplyPartition::Random => Some(rand::rng().random_range(0..self.reply_partitions)),
        };
        let (queue, mut reply) = (Queue { topic, correlation, partition }, reply);
        match reply.first.0.take() {
            None => {
                // Queued here and now: the records of a stream keep their order.
                let sent = queue.put(&producer, &reply);
                tokio::spawn(async move { confirm(sent).await });
            }
            Some(first) => {
                tokio::spawn(async move {
                    first.await;
                    confirm(queue.put(&producer, &reply)).await;
                });
            }
        }
    }
}

struct Queue {
    topic: String,
    correlation: Vec<u8>,
    partition: Option<i32>,
}

impl Queue {
    fn put(&self, producer: &FutureProducer, reply: &Reply) -> KafkaResult<DeliveryFuture> {
        let mut headers = OwnedHeaders::new()
            .insert(Header { key: "kafka_correlationId", value: Some(&self.correlation) });
        for (key, value) in &reply.headers {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let mut record: FutureRecord<'_, [u8], [u8]> =
            FutureRecord::to(&self.topic).headers(headers);
        match &reply.key {
            ReplyKey::Correlation => record = record.key(&self.correlation),
            ReplyKey::Bytes(key) => record = record.key(key),
            ReplyKey::None => {}
        }
        if let Some(value) = &reply.value {
            record = record.payload(value);
        }
        if let Some(partition) = self.partition {
            record = record.partition(partition);
        }
        producer.send_result(record).map_err(|(error, _)| error)
    }
}

/// A reply that Kafka does not take is the test's failure, not the gateway's.
async fn confirm(queued: KafkaResult<DeliveryFuture>) {
    let delivered = queued.expect("the producer has room").await.expect("it is not dropped");
    delivered.map_err(|(error, _)| error).expect("Kafka takes the reply");
}
