//! The client of librdkafka's behind a producer, which is replaced when it has failed for good, and what
//! the producer's threads do with it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use rdkafka::{
    config::FromClientConfigAndContext,
    error::KafkaError,
    message::{Header, OwnedHeaders},
    metadata::Metadata,
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use super::{
    super::{KafkaSettings, StartError, bootstrap::Bootstrap, log::ClientLog},
    callbacks::{Context, Ticket, produce_error, tell, ticket},
    health,
    kept::Kept,
    lane::Sent,
    lanes::SharedLane,
    partitioning::Partitioning,
    parts::Parts,
    pause,
    settings::config,
};
use crate::bus::{OnDelivery, Outgoing, ProduceError};

/// How long the thread of the callbacks waits for one before it looks whether it is still needed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

type Client = BaseProducer<Context, Partitioning>;

/// What the caller and the health thread hold in common.
pub(super) struct Shared {
    pub(super) settings: KafkaSettings,
    /// Replaced by a new client after a fatal error, after which a client never produces again.
    client: ArcSwap<Client>,
    pub(super) parts: Parts,
    pub(super) records_max: usize,
    bootstrap: Bootstrap,
}

impl Shared {
    /// Its first client, with the thread of its callbacks.
    ///
    /// # Errors
    /// A property is unknown or has a bad value.
    pub(super) fn new(
        settings: &KafkaSettings,
        parts: Parts,
        records_max: usize,
    ) -> Result<Self, StartError> {
        let client = ArcSwap::new(connect(settings, &parts)?);
        let bootstrap = Bootstrap::new(&settings.bootstrap_servers);
        Ok(Self { settings: settings.clone(), client, parts, records_max, bootstrap })
    }

    /// Hands a record to librdkafka; its lane has counted it.
    pub(super) fn send(
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
            delivery_opaque: Box::new(Mutex::new(Ticket { place, on_delivery, is_alone: false })),
        };
        self.client.load().send(base).map_err(|(error, unsent)| {
            self.parts.lanes.finish(&ticket(*unsent.delivery_opaque).place);
            self.refused(&error, record.content_bytes())
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
                is_alone: place.lane.is_single(),
            })),
        };
        let Err((error, unsent)) = self.client.load().send(base) else { return Sent::Taken };
        kept.on_delivery = ticket(*unsent.delivery_opaque).on_delivery;
        match self.refused(&error, kept.content_bytes()) {
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

    /// Why librdkafka did not take a record of so many bytes at all.
    fn refused(&self, error: &KafkaError, bytes: usize) -> ProduceError {
        match error {
            KafkaError::MessageProduction(code) => {
                self.parts.health.failed(*code);
                produce_error(*code, self.parts.lanes.size(bytes))
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
    pub(super) fn watch(&self) {
        let Parts { health, outstanding, lanes, .. } = &self.parts;
        while let Some(task) = health.next_task(|| outstanding.count()) {
            match task {
                health::Task::Ask => {
                    // All topics: the one question that names none, and so can create none.
                    let client = self.client.load();
                    let answer = client.client().fetch_metadata(None, health::PATIENCE);
                    self.bootstrap.heard(client.client(), answer.is_ok());
                    if let Ok(metadata) = &answer {
                        lanes.met(partition_counts(metadata));
                    }
                    health.answered(answer.is_ok());
                }
                // librdkafka may say it twice of one client, the second time of one that was replaced.
                health::Task::Replace if !self.has_failed() => {}
                health::Task::Replace => match connect(&self.settings, &self.parts) {
                    // The old one gives up its queue when its callbacks' thread drops it.
                    Ok(client) => self.client.store(client),
                    Err(error) => tracing::error!(%error, "cannot replace the producer"),
                },
            }
        }
    }

    /// Whether the client will produce nothing any more.
    fn has_failed(&self) -> bool {
        self.client.load().client().fatal_error().is_some()
    }

    /// The pacing thread: hands over what was kept back, and pauses what cannot be sent.
    pub(super) fn pace(&self) {
        let lanes = &self.parts.lanes;
        while let Some(turn) = lanes.next_turn() {
            let send = |kept, place: &SharedLane| self.send_kept(kept, place);
            let orders = lanes.look_after(turn, send, |kept, why| self.give_up(kept, why));
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
    let client = Client::from_config_and_context(&config(settings), context)?;
    let client = Arc::new(client);
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

pub(super) fn start_thread(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> Result<(), KafkaError> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map(drop).map_err(|error| KafkaError::ClientCreation(error.to_string()))
}

fn owned_headers(headers: &[(&str, &[u8])]) -> Option<OwnedHeaders> {
    let none = (!headers.is_empty()).then(|| OwnedHeaders::new_with_capacity(headers.len()));
    none.map(|none| {
        let headers = headers.iter().map(|(key, value)| Header { key, value: Some(*value) });
        headers.fold(none, OwnedHeaders::insert)
    })
}
