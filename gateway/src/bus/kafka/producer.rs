//! The Kafka producer: a queue in memory, a thread that runs the delivery callbacks and one that
//! finds out whether the cluster can be reached.
//!
//! The first is rdkafka's `ThreadedProducer` but for its pace: that one comes back every 100 ms, and
//! each poll ends with up to a millisecond of spinning, because librdkafka counts time-outs in whole
//! milliseconds. It cost an idle node a hundredth of a core.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use rdkafka::{
    ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, Message, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
};
use tokio::time::timeout;

use self::health::Health;
use super::{KafkaSettings, StartError, is_connectivity, log::ClientLog};
use crate::bus::{
    OnDelivery, Outgoing, Position, ProduceError, Producer, outstanding::Outstanding,
};

mod health;

/// What a producer begins with; see `CONFIGURATION.md` of librdkafka for the names.
const DEFAULTS: &[(&str, &str)] = &[
    // A request waits for nobody: at low rates each is sent alone, under load librdkafka batches
    // what has piled up behind the requests in flight. At 1,000 requests a second a millisecond
    // took the median from 0.7 to 2.8 ms and saved a seventh of the CPU.
    ("linger.ms", "0"),
    ("compression.codec", "none"),
    // A request carries one partition's batch, so with fewer in flight the partitions of a broker
    // wait for each other: 12 partitions at a round trip of 5 ms took 51 ms with 1, 6 ms with 5.
    // The price: while a broker hangs and fewer partitions than these have a backlog, librdkafka's
    // idempotent producer spins on a core, until the backlog has timed out.
    ("max.in.flight.requests.per.connection", "5"),
    // The back-pressure: full after 100,000 records or 128 MiB.
    ("queue.buffering.max.messages", "100000"),
    ("queue.buffering.max.kbytes", "131072"),
    // Later than this nobody waits for the reply any more.
    ("message.timeout.ms", "10000"),
    // Shorter than a request's usual time-out, so that a missing topic is told as what it is.
    ("topic.metadata.propagation.max.ms", "2000"),
];

/// What the user cannot change: the guarantees of [`Producer`] rest on it, unless said otherwise.
const FIXED: &[(&str, &str)] = &[
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("partitioner", "murmur2_random"),
    // Nobody reads a producer's; `kafka.properties` may ask for the consumer's more often.
    ("statistics.interval.ms", "0"),
];

/// How long the thread of the callbacks waits for one before it looks whether it is still needed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A [`Producer`] on Kafka. Dropping it gives up what is still queued, on a thread of its own:
/// [`Producer::flush`] first.
pub struct KafkaProducer {
    shared: Arc<Shared>,
    // Dropped after `shared`, so that one of the threads is the last to hold the client and closes
    // it: that can take half a second, and longer when the broker hangs.
    _stop: StopOnDrop,
}

/// What the caller and the health thread hold in common.
struct Shared {
    settings: KafkaSettings,
    /// Replaced by a new client after a fatal error, which is librdkafka's word for a client that
    /// will never produce again.
    client: ArcSwap<Client>,
    health: Arc<Health>,
    outstanding: Arc<Outstanding>,
}

type Client = BaseProducer<Context>;

impl KafkaProducer {
    /// Starts a producer. Needs no broker: until one answers it is not available.
    ///
    /// # Errors
    /// A property is unknown or has a bad value.
    pub fn start(settings: &KafkaSettings) -> Result<Self, StartError> {
        let health = Arc::new(Health::default());
        let outstanding = Arc::new(Outstanding::default());
        let client = connect(settings, &health, &outstanding)?;
        let stop = StopOnDrop(Arc::clone(&health));
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            client: ArcSwap::new(client),
            health,
            outstanding,
        });
        thread::Builder::new()
            .name("kafka-health".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.watch()
            })
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Self { shared, _stop: stop })
    }
}

impl fmt::Debug for KafkaProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaProducer")
            .field("settings", &self.shared.settings)
            .field("health", &self.shared.health)
            .field("outstanding", &self.shared.outstanding.count())
            .finish()
    }
}

/// Ends the health thread.
struct StopOnDrop(Arc<Health>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[async_trait]
impl Producer for KafkaProducer {
    fn produce(&self, record: &Outgoing<'_>, on_delivery: OnDelivery) -> Result<(), ProduceError> {
        let base = BaseRecord {
            topic: record.topic,
            partition: record.partition,
            payload: record.value,
            key: record.key,
            timestamp: None,
            headers: owned_headers(record.headers),
            delivery_opaque: Box::new(Mutex::new(on_delivery)),
        };
        // Counted before it is queued: the callback may run before `send` returns.
        self.shared.outstanding.add();
        self.shared.client.load().send(base).map_err(|(error, _)| {
            self.shared.outstanding.remove();
            self.shared.refused(&error)
        })
    }

    fn is_available(&self) -> bool {
        self.shared.health.is_up()
    }

    async fn flush(&self, within: Duration) {
        if timeout(within, self.shared.outstanding.none()).await.is_err() {
            let records = self.shared.outstanding.count();
            tracing::warn!(records, "gave up waiting for records to be acknowledged");
        }
    }
}

impl Shared {
    /// Why librdkafka did not take a record at all.
    fn refused(&self, error: &KafkaError) -> ProduceError {
        match error {
            KafkaError::MessageProduction(code) => {
                self.health.failed(*code);
                produce_error(*code, false)
            }
            other => ProduceError::Refused(other.to_string()),
        }
    }

    /// The health thread: asks for metadata while the cluster is not known to answer, and replaces
    /// a client that has failed for good.
    fn watch(&self) {
        while let Some(task) = self.health.next_task(|| self.outstanding.count()) {
            match task {
                health::Task::Ask => {
                    // All topics: the one question that names none, and so can create none.
                    let answer = self.client.load().client().fetch_metadata(None, health::PATIENCE);
                    self.health.answered(answer.is_ok());
                }
                health::Task::Replace => {
                    match connect(&self.settings, &self.health, &self.outstanding) {
                        // The old one gives up its queue when its callbacks' thread drops it.
                        Ok(client) => self.client.store(client),
                        Err(error) => tracing::error!(%error, "cannot replace the producer"),
                    }
                }
            }
        }
    }
}

fn connect(
    settings: &KafkaSettings,
    health: &Arc<Health>,
    outstanding: &Arc<Outstanding>,
) -> Result<Arc<Client>, StartError> {
    let context = Context {
        health: Arc::clone(health),
        outstanding: Arc::clone(outstanding),
        log: ClientLog::new("producer".to_owned()),
    };
    let config = settings.client_config(DEFAULTS, FIXED);
    let client = Arc::new(Client::from_config_and_context(&config, context)?);
    let polled = Arc::downgrade(&client);
    thread::Builder::new()
        .name("kafka-delivery".to_owned())
        .spawn(move || poll(&polled))
        .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
    Ok(client)
}

/// Runs the callbacks for as long as somebody else holds the client.
fn poll(client: &Weak<Client>) {
    while let Some(client) = client.upgrade() {
        client.poll(POLL_INTERVAL);
    }
}

fn owned_headers(headers: &[(&str, &[u8])]) -> Option<OwnedHeaders> {
    let none = (!headers.is_empty()).then(|| OwnedHeaders::new_with_capacity(headers.len()));
    none.map(|none| {
        let headers = headers.iter().map(|(key, value)| Header { key, value: Some(*value) });
        headers.fold(none, OwnedHeaders::insert)
    })
}

/// What a librdkafka code means to the caller. `taken`: the record was in the queue, so that a
/// broker may have seen it.
fn produce_error(code: RDKafkaErrorCode, taken: bool) -> ProduceError {
    match code {
        RDKafkaErrorCode::QueueFull => ProduceError::QueueFull,
        RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize => {
            ProduceError::TooLarge
        }
        RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::UnknownPartition
        | RDKafkaErrorCode::InvalidTopic => ProduceError::UnknownTopic,
        // The broker refused it before it looked at the log.
        RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::ClusterAuthorizationFailed
        | RDKafkaErrorCode::PolicyViolation
        | RDKafkaErrorCode::InvalidRecord
        | RDKafkaErrorCode::InvalidMessage
        | RDKafkaErrorCode::InvalidTimestamp
        | RDKafkaErrorCode::UnsupportedVersion
        | RDKafkaErrorCode::PurgeQueue => ProduceError::Refused(code.to_string()),
        // librdkafka tries again until the message times out, and does not say whether a try that
        // was not answered has reached the log. So a time-out stays open even if no broker was
        // there to take the record; so does every code that is not known to be a refusal.
        _ if taken => ProduceError::Unconfirmed(code.to_string()),
        _ => ProduceError::Refused(code.to_string()),
    }
}

/// The callbacks of a client; they run on its polling thread.
struct Context {
    health: Arc<Health>,
    outstanding: Arc<Outstanding>,
    log: ClientLog,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let KafkaError::Global(code) = error {
            self.health.failed(code);
        }
        self.log.error(&error, reason);
    }
}

impl ProducerContext for Context {
    /// librdkafka carries a thin pointer that may be shared; an [`OnDelivery`] is neither.
    type DeliveryOpaque = Box<Mutex<OnDelivery>>;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: Self::DeliveryOpaque) {
        let outcome = match result {
            Ok(message) => {
                self.health.delivered();
                Ok(Position { partition: message.partition(), offset: message.offset() })
            }
            Err((KafkaError::MessageProduction(code), _)) => {
                self.health.failed(*code);
                Err(produce_error(*code, true))
            }
            Err((other, _)) => Err(ProduceError::Unconfirmed(other.to_string())),
        };
        let on_delivery = opaque.into_inner().unwrap_or_else(PoisonError::into_inner);
        // A panic would end the polling thread, and with it every later callback.
        if catch_unwind(AssertUnwindSafe(|| on_delivery(outcome))).is_err() {
            tracing::error!("a delivery callback panicked");
        }
        self.outstanding.remove();
    }
}
