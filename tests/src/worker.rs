//! A backend service on Kafka: answers requests as it is told, and remembers what it saw.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use gateway::bus::kafka::bootstrap::Bootstrap;
use rand::RngExt;
use rdkafka::{
    client::{Client, ClientContext},
    consumer::{Consumer, StreamConsumer},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer},
};
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

pub use record::{First, Reply, ReplyKey, ReplyPartition, Seen};

use crate::{SOON, eventually, infra::kafka::Kafka, say};

mod held;
mod record;

/// How replies with a key find their partition.
#[derive(Clone, Copy, Debug, Default)]
pub enum Partitioner {
    /// As Java's producer does.
    #[default]
    Murmur2,
    /// librdkafka's default, found in services of most other languages.
    Crc32,
}

/// How often a service asks for its broker, and how long it waits for the answer.
const ASKED_EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(2);

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
    pub(crate) compression: &'static str,
}

impl WorkerBuilder {
    /// Uses another partitioner for its replies.
    #[must_use]
    pub fn partitioner(mut self, partitioner: Partitioner) -> Self {
        self.partitioner = partitioner;
        self
    }

    /// Compresses its replies with this codec, where that makes them smaller.
    #[must_use]
    pub fn compression(mut self, codec: &'static str) -> Self {
        self.compression = codec;
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
        // As one sets up a service that is to be back as soon as its broker.
        client
            .set("linger.ms", "0")
            // A broker that stood still may leave a request without an answer; the default is a minute.
            .set("socket.timeout.ms", "10000")
            .set("reconnect.backoff.max.ms", "1000")
            .set("topic.metadata.refresh.interval.ms", "5000");
        let partitioner = match self.partitioner {
            Partitioner::Murmur2 => "murmur2_random",
            Partitioner::Crc32 => "consistent_random",
        };
        let producer: FutureProducer = client
            .clone()
            .set("partitioner", partitioner)
            .set("compression.type", self.compression)
            .create()?;
        // Its session is as long as clients have it by default, longer than a broker is away here. With a
        // shorter one the group would form anew each time, and miss the worker's former self meanwhile.
        let consumer: StreamConsumer = client
            .set("group.id", &self.group)
            .set("auto.offset.reset", "earliest")
            .set("auto.commit.interval.ms", "1000")
            .set("heartbeat.interval.ms", "1000")
            .create()?;
        consumer.subscribe(&[&self.topic])?;
        let (seen, stop) = (Arc::default(), CancellationToken::new());
        let service = Service {
            producer,
            consumer: Arc::new(consumer),
            topic: self.topic,
            behaviour: Arc::new(behaviour),
            seen: Arc::clone(&seen),
            unwritten: Arc::default(),
            reply_partitions: self.reply_partitions,
            kafka: self.kafka,
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            tokio::join!(service.run(), service.watch());
        }));
        Ok(Worker { seen, stop })
    }
}

impl Worker {
    /// All requests seen so far, repeats among them.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests were written to Kafka more than once. A record that was merely read again,
    /// as after a restart of Kafka, is still one.
    pub fn produced_again(&self) -> usize {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut records = BTreeMap::<&[u8], BTreeSet<(i32, i64)>>::new();
        for seen in seen.iter() {
            let id = seen.headers.get("kafka_correlationId").map(Vec::as_slice);
            let places = records.entry(id.unwrap_or_default()).or_default();
            places.insert((seen.partition, seen.offset));
        }
        records.values().filter(|places| places.len() > 1).count()
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
    consumer: Arc<StreamConsumer>,
    topic: String,
    behaviour: Arc<Behaviour>,
    seen: Arc<Mutex<Vec<Seen>>>,
    unwritten: Arc<Unwritten>,
    reply_partitions: i32,
    /// Dropped last: a client without its broker takes long to close.
    kafka: Arc<Kafka>,
}

impl Service {
    async fn run(&self) {
        loop {
            // A broker that is down is waited for: the next call tries again.
            let Ok(message) = self.consumer.recv().await else { continue };
            let seen = Seen::of(&message);
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen.clone());
            for reply in (self.behaviour)(&seen) {
                self.answer(&seen, reply).await;
            }
        }
    }

    /// Goes on asking the broker: librdkafka itself may stop for good after one that stood still.
    async fn watch(&self) {
        let addresses = self.kafka.bootstrap();
        let (first, second) = (Bootstrap::new(addresses), Bootstrap::new(addresses));
        let bootstraps = Arc::new((first, second));
        loop {
            sleep(ASKED_EVERY).await;
            let (consumer, producer) = (Arc::clone(&self.consumer), self.producer.clone());
            let (topic, bootstraps) = (self.topic.clone(), Arc::clone(&bootstraps));
            let kafka = Arc::clone(&self.kafka);
            let asked = spawn_blocking(move || {
                ask(consumer.client(), &topic, &bootstraps.0);
                ask(producer.client(), &topic, &bootstraps.1);
                drop((consumer, producer));
                drop(kafka);
            });
            asked.await.expect("nothing panics there");
        }
    }

    async fn answer(&self, seen: &Seen, reply: Reply) {
        let producer = self.producer.clone();
        let topic = reply.topic.clone().unwrap_or_else(|| seen.header("kafka_replyTopic"));
        let correlation = seen.headers.get("kafka_correlationId").cloned().unwrap_or_default();
        let partition = match reply.partition {
            ReplyPartition::ByKey => None,
            ReplyPartition::Fixed(partition) => Some(partition),
            ReplyPartition::Random => Some(rand::rng().random_range(0..self.reply_partitions)),
        };
        let (queue, mut reply) = (Queue { topic, correlation, partition }, reply);
        match reply.first.take() {
            None => {
                // Queued before the next one: the records of a stream keep their order.
                let queued = queue.put(&producer, reply).await;
                let unwritten = Arc::clone(&self.unwritten);
                tokio::spawn(async move { unwritten.confirm(queued).await });
            }
            Some(first) => {
                let unwritten = Arc::clone(&self.unwritten);
                tokio::spawn(async move {
                    first.await;
                    unwritten.confirm(queue.put(&producer, reply).await).await;
                });
            }
        }
    }
}

fn ask<C: ClientContext>(client: &Client<C>, topic: &str, bootstrap: &Bootstrap) {
    bootstrap.heard(client, client.fetch_metadata(Some(topic), PATIENCE).is_ok());
}

struct Queue {
    topic: String,
    correlation: Vec<u8>,
    partition: Option<i32>,
}

impl Queue {
    /// Waits for room in the producer's queue, as a service does while Kafka is away.
    async fn put(&self, producer: &FutureProducer, reply: Reply) -> KafkaResult<DeliveryFuture> {
        loop {
            let queued = producer.send_result(self.record(&reply)).map_err(|(error, _)| error);
            match queued {
                Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => {
                    sleep(Duration::from_millis(10)).await;
                }
                queued => return queued,
            }
        }
    }

    fn record<'a>(&'a self, reply: &'a Reply) -> FutureRecord<'a, [u8], [u8]> {
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
        record
    }
}

/// Replies that Kafka did not take, by what it had against them.
#[derive(Debug, Default)]
struct Unwritten(Mutex<BTreeMap<String, usize>>);

impl Unwritten {
    /// Waits until a reply is written. One that is not is missed by whoever waits for it, so that it is told
    /// here once for each reason, and the service goes on.
    async fn confirm(&self, queued: KafkaResult<DeliveryFuture>) {
        let written = match queued {
            Ok(queued) => match queued.await {
                Ok(delivered) => delivered.map_err(|(error, _)| error.to_string()),
                Err(_) => Err("the producer has been closed".to_owned()),
            },
            Err(error) => Err(error.to_string()),
        };
        if let Err(reason) = written {
            let mut unwritten = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let count = unwritten.entry(reason.clone()).or_default();
            *count += 1;
            if *count == 1 {
                say(&format!("a service cannot write a reply: {reason}"));
            }
        }
    }
}
