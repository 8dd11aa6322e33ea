//! The Kafka producer: a queue in memory, a thread that runs the delivery callbacks, one that finds
//! out whether the cluster can be reached, and one that looks after partitions whose
//! acknowledgements are late.
//!
//! The first thread is rdkafka's `ThreadedProducer` but for its pace: that one comes back every 100 ms, and
//! each poll ends with up to a millisecond of spinning, because librdkafka counts time-outs in whole
//! milliseconds. It cost an idle node a hundredth of a core.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, Weak},
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use rdkafka::{
    config::FromClientConfigAndContext,
    error::KafkaError,
    message::{Header, OwnedHeaders},
    metadata::Metadata,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use tokio::time::timeout;

use self::{
    callbacks::{Context, Ticket, produce_error, tell, ticket},
    health::Health,
    lane::Sent,
    lanes::{Kept, Lanes, Limits, SharedLane},
};
use super::{KafkaSettings, StartError, is_connectivity, log::ClientLog};
use crate::bus::{OnDelivery, Outgoing, ProduceError, Producer, outstanding::Outstanding};

mod callbacks;
mod health;
mod lane;
mod lanes;
mod pause;

const QUEUE_RECORDS: &str = "queue.buffering.max.messages";
const QUEUE_KBYTES: &str = "queue.buffering.max.kbytes";
const RECORD_BYTES: &str = "message.max.bytes";

/// What a producer begins with; see `CONFIGURATION.md` of librdkafka for the names.
const DEFAULTS: &[(&str, &str)] = &[
    // A request waits for nobody: at low rates each is sent alone, under load librdkafka batches
    // what has piled up behind the requests in flight. At 1,000 requests a second a millisecond
    // took the median from 0.7 to 2.8 ms and saved a seventh of the CPU.
    ("linger.ms", "0"),
    ("compression.codec", "none"),
    // A request carries one partition's batch, so with fewer in flight the partitions of a broker
    // wait for each other: 12 partitions at a round trip of 5 ms took 51 ms with 1, 6 ms with 5.
    ("max.in.flight.requests.per.connection", "5"),
    // The back-pressure: full after 100,000 records or 128 MiB. What is kept back counts as well,
    // the bytes for themselves.
    (QUEUE_RECORDS, "100000"),
    (QUEUE_KBYTES, "131072"),
    // librdkafka's own default.
    (RECORD_BYTES, "1000000"),
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
    parts: Parts,
    records_max: usize,
}

/// What the callbacks need, too.
#[derive(Clone)]
struct Parts {
    health: Arc<Health>,
    outstanding: Arc<Outstanding>,
    lanes: Arc<Lanes>,
}

type Client = BaseProducer<Context>;

impl KafkaProducer {
    /// Starts a producer. Needs no broker: until one answers it is not available.
    ///
    /// # Errors
    /// A property is unknown or has a bad value.
    pub fn start(settings: &KafkaSettings) -> Result<Self, StartError> {
        let config = settings.client_config(DEFAULTS, FIXED);
        let limit =
            |key| config.get(key).and_then(|value| value.parse().ok()).unwrap_or(usize::MAX);
        let parts = Parts {
            health: Arc::default(),
            outstanding: Arc::default(),
            lanes: Arc::new(Lanes::new(Limits {
                bytes_max: limit(QUEUE_KBYTES).saturating_mul(1024),
                record_bytes_max: limit(RECORD_BYTES),
            })),
        };
        let client = connect(settings, &parts)?;
        let stop = StopOnDrop(parts.clone());
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            client: ArcSwap::new(client),
            parts,
            records_max: limit(QUEUE_RECORDS),
        });
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

fn start_thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), KafkaError> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map(drop).map_err(|error| KafkaError::ClientCreation(error.to_string()))
}

#[async_trait]
impl Producer for KafkaProducer {
    fn produce(&self, record: &Outgoing<'_>, on_delivery: OnDelivery) -> Result<(), ProduceError> {
        let Parts { outstanding, lanes, .. } = &self.shared.parts;
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

impl Shared {
    /// Hands a record to librdkafka; its lane has counted it.
    fn send(
        &self,
        record: &Outgoing<'_>,
        place: SharedLane,
        on_delivery: OnDelivery,
    ) -> Result<(), ProduceError> {
        let base = BaseRecord {
            topic: record.topic,
            partition: record.partition,
            payload: record.value,
            key: record.key,
            timestamp: None,
            headers: owned_headers(record.headers),
            delivery_opaque: Box::new(Mutex::new(Ticket { place, on_delivery })),
        };
        self.client.load().send(base).map_err(|(error, unsent)| {
            self.parts.lanes.settle(&ticket(*unsent.delivery_opaque).place);
            self.refused(&error)
        })
    }

    /// The same for one that was kept back, whose caller is told of everything.
    fn send_kept(&self, mut kept: Kept, place: &SharedLane) -> Sent<Kept> {
        if !kept.on_delivery.goes() {
            self.parts.outstanding.remove();
            return Sent::Dropped;
        }
        let headers = kept.headers.iter().map(|(key, value)| (&**key, &**value));
        let base = BaseRecord {
            topic: &kept.topic,
            partition: kept.partition,
            payload: kept.value.as_deref(),
            key: kept.key.as_deref(),
            timestamp: None,
            headers: owned_headers(&headers.collect::<Vec<_>>()),
            delivery_opaque: Box::new(Mutex::new(Ticket {
                place: Arc::clone(place),
                on_delivery: kept.on_delivery,
            })),
        };
        let Err((error, unsent)) = self.client.load().send(base) else { return Sent::Taken };
        kept.on_delivery = ticket(*unsent.delivery_opaque).on_delivery;
        match self.refused(&error) {
            ProduceError::QueueFull => {
                kept.on_delivery.kept_back();
                Sent::Full(kept)
            }
            refused => {
                self.give_up(kept, Some(refused));
                Sent::Dropped
            }
        }
    }

    /// Why librdkafka did not take a record at all.
    fn refused(&self, error: &KafkaError) -> ProduceError {
        match error {
            KafkaError::MessageProduction(code) => {
                self.parts.health.failed(*code);
                produce_error(*code, false)
            }
            other => ProduceError::Refused(other.to_string()),
        }
    }

    /// A record that was kept back will not be written.
    fn give_up(&self, kept: Kept, error: Option<ProduceError>) {
        if let Some(error) = error {
            tell(kept.on_delivery, Err(error));
        }
        self.parts.outstanding.remove();
    }

    /// The health thread: asks for metadata while the cluster is not known to answer, and replaces
    /// a client that has failed for good.
    fn watch(&self) {
        let Parts { health, outstanding, lanes } = &self.parts;
        while let Some(task) = health.next_task(|| outstanding.count()) {
            match task {
                health::Task::Ask => {
                    // All topics: the one question that names none, and so can create none.
                    let answer = self.client.load().client().fetch_metadata(None, health::PATIENCE);
                    if let Ok(metadata) = &answer {
                        lanes.met(partition_counts(metadata));
                    }
                    health.answered(answer.is_ok());
                }
                health::Task::Replace => match connect(&self.settings, &self.parts) {
                    // The old one gives up its queue when its callbacks' thread drops it.
                    Ok(client) => self.client.store(client),
                    Err(error) => tracing::error!(%error, "cannot replace the producer"),
                },
            }
        }
    }

    /// The pacing thread: hands over what was kept back, and pauses what cannot be sent.
    fn pace(&self) {
        let lanes = &self.parts.lanes;
        while let Some(is_tick) = lanes.next_turn() {
            let send = |kept, place: &SharedLane| self.send_kept(kept, place);
            let orders = lanes.look_after(is_tick, send, |kept, why| self.give_up(kept, why));
            pause::carry_out(&self.client.load_full(), &orders);
        }
        for kept in lanes.take_all() {
            self.give_up(kept, Some(ProduceError::Refused("the producer is closed".to_owned())));
        }
    }
}

fn partition_counts(metadata: &Metadata) -> HashMap<String, usize> {
    let topics = metadata.topics().iter();
    topics.map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect()
}

fn connect(settings: &KafkaSettings, parts: &Parts) -> Result<Arc<Client>, StartError> {
    let context = Context { parts: parts.clone(), log: ClientLog::new("producer".to_owned()) };
    let config = settings.client_config(DEFAULTS, FIXED);
    let client = Arc::new(Client::from_config_and_context(&config, context)?);
    let polled = Arc::downgrade(&client);
    start_thread("kafka-delivery", move || poll(&polled))?;
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
