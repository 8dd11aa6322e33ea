//! The sample services, as backends in any language would be written: they read a request topic and
//! answer on the topic that each request names. Used by `dev` and by `samples`.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    app::kafka_health,
    bus::{
        BusEvent, Consumer, ConsumerControl, Incoming, Producer, Trouble,
        kafka::{KafkaSettings, StartError, consumer::KafkaConsumer, producer::KafkaProducer},
    },
    config::Config,
    readiness::{Announcement, Announcer, Component, Health, Readiness},
    relay::dialects::{CORRELATION_ID, REPLY_TOPIC},
    tasks::Tasks,
};

mod answer;
mod orders;

use answer::Answer;

/// The longest that `slow` sleeps.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// The most parts that `count` streams.
const PARTS_MAX: u64 = 10_000_000;
/// How long `orders` takes.
const VALIDATION_TIME: Duration = Duration::from_millis(200);
/// How long a consumer may take to leave.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked whether requests can be read and answered.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What a sample service does with a request's value.
type Behaviour = fn(&[u8]) -> Reaction;

/// The services, by their names.
const SERVICES: [(&str, Behaviour); 5] =
    [("echo", echo), ("slow", slow), ("fail", fail), ("count", count), ("orders", orders)];

struct Reaction {
    after: Duration,
    status: u16,
    /// `None`: the request's own value.
    value: Option<Value>,
    /// So many parts come first: the numbers from 0 on, each so long after the one before.
    parts: Option<(u64, Duration)>,
}

/// The sample services at work.
#[derive(Debug)]
pub struct Samples {
    names: Vec<&'static str>,
    readiness: Readiness,
}

impl Samples {
    /// Answers for those sample services that the configuration has.
    ///
    /// # Errors
    /// A setting that no Kafka client can be made of.
    pub fn start(
        settings: &KafkaSettings,
        config: &Config,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        let producer: Arc<dyn Producer> = Arc::new(KafkaProducer::start(settings)?);
        let (mut names, mut controls) = (Vec::new(), Vec::new());
        let mut readiness = Readiness::default();
        for (name, behaviour) in SERVICES {
            let Some(service) = config.services.get(name) else { continue };
            if service.respond_on.is_some() {
                continue;
            }
            let group = format!("roundtrip-sample-{name}");
            let consumer = KafkaConsumer::start(settings, &group, &service.request_topic)?;
            controls.push(consumer.control());
            let assigned = Arc::<AtomicBool>::default();
            let topic = &service.request_topic;
            readiness = readiness.with(Component::Assignment, is_assigned(&assigned, topic));
            let (producer, tasks) = (Arc::clone(&producer), tasks.clone());
            let sample = Sample { behaviour, producer, assigned, tasks: tasks.clone() };
            drop(tasks.until(name, tasks.stop(), sample.run(Box::new(consumer))));
            names.push(name);
        }
        if let Some(events) = orders::events(config) {
            for (name, step) in orders::STEPS {
                let topic = match config.services.get(name) {
                    Some(service) => &service.request_topic,
                    None => events,
                };
                let group = format!("roundtrip-sample-{name}");
                let consumer = KafkaConsumer::start(settings, &group, topic)?;
                controls.push(consumer.control());
                let assigned = Arc::<AtomicBool>::default();
                readiness = readiness.with(Component::Assignment, is_assigned(&assigned, topic));
                let (producer, events) = (Arc::clone(&producer), events.to_owned());
                let tasks_of = tasks.clone();
                let orders = orders::Orders { step, events, producer, assigned, tasks: tasks_of };
                drop(tasks.until(name, tasks.stop(), orders.run(Box::new(consumer))));
            }
            names.push("orders");
        }
        let readiness = readiness.with(Component::Kafka, move || {
            kafka_health(producer.is_available(), &troubles(&controls))
        });
        Ok(Self { names, readiness })
    }

    /// Which services are answered.
    pub fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// Has `say` told when requests are read for the first time, and the log why they are not, for as long
    /// as it is polled.
    pub async fn announce(&self, say: impl FnOnce(&[&str])) -> Infallible {
        let (mut announcer, mut say) = (Announcer::new(Instant::now()), Some(say));
        loop {
            let report = self.readiness.report();
            match announcer.look(&report, Instant::now()) {
                Some(Announcement::Ready) => match say.take() {
                    Some(say) => say(&self.names),
                    None => tracing::info!("answering again"),
                },
                Some(Announcement::Unready) => {
                    let reasons = report.reasons.join("; ");
                    tracing::warn!(reasons, "not answering: goes on trying");
                }
                None => {}
            }
            sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Whether the member that reads a topic has joined its group.
fn is_assigned(assigned: &Arc<AtomicBool>, topic: &str) -> impl Fn() -> Health + use<> {
    let reason = format!("no assignment of partitions of {topic} yet");
    let assigned = Arc::clone(assigned);
    move || Health::unready_if(!assigned.load(Ordering::Relaxed), &reason)
}

/// What keeps all of them from reading. They have their brokers in common, and the trouble with them.
fn troubles(controls: &[Arc<dyn ConsumerControl>]) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    for trouble in controls.iter().flat_map(|control| control.troubles()) {
        if !troubles.contains(&trouble) {
            troubles.push(trouble);
        }
    }
    troubles
}

/// Reads until the node stops. A sample answers at most once: what it has read counts as handled.
/// `assigned` is set with the first assignment.
async fn read_all(
    mut consumer: Box<dyn Consumer>,
    assigned: &AtomicBool,
    tasks: &Tasks,
    handle: impl Fn(&Incoming<'_>) + Send + Sync,
) {
    let control = consumer.control();
    let stop = tasks.stop().clone();
    loop {
        let mut read = BTreeMap::new();
        let mut sink = |event: BusEvent<'_>| match event {
            BusEvent::Record(record) => {
                handle(&record);
                read.insert(record.partition, record.offset + 1);
            }
            BusEvent::Assigned(_) => assigned.store(true, Ordering::Relaxed),
            _ => {}
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = consumer.next(256, &mut sink) => {}
        }
        read.into_iter().for_each(|(partition, offset)| control.store(partition, offset));
    }
    consumer.close(CLOSE_WITHIN).await;
}

struct Sample {
    behaviour: Behaviour,
    producer: Arc<dyn Producer>,
    /// Partitions, or none, have been assigned.
    assigned: Arc<AtomicBool>,
    tasks: Tasks,
}

impl Sample {
    async fn run(self, consumer: Box<dyn Consumer>) {
        read_all(consumer, &self.assigned, &self.tasks, |record| self.handle(record)).await;
    }

    fn handle(&self, record: &Incoming<'_>) {
        let header = |name: &str| {
            record.headers.iter().find(|(found, _)| *found == name).and_then(|(_, value)| *value)
        };
        let topic = header(REPLY_TOPIC).and_then(|topic| std::str::from_utf8(topic).ok());
        let (Some(topic), Some(correlation)) = (topic, header(CORRELATION_ID)) else {
            return tracing::debug!("a record that wants no reply");
        };
        let request = record.value.unwrap_or_default();
        let Reaction { after, status, value, parts } = (self.behaviour)(request);
        let content_type = match value {
            None => header("content-type").map(Bytes::copy_from_slice),
            Some(_) => Some(Bytes::from_static(b"application/json")),
        };
        let answer = Answer {
            topic: topic.to_owned(),
            correlation: Bytes::copy_from_slice(correlation),
            status,
            content_type,
            value: value.map_or_else(
                || Bytes::copy_from_slice(request),
                |value| Bytes::from(value.to_string()),
            ),
        };
        if let Some((count, pause)) = parts {
            let producer = Arc::clone(&self.producer);
            let streamed = async move { answer.stream(&*producer, count, pause).await };
            return self.tasks.short_lived(streamed);
        }
        if after.is_zero() {
            return answer.send(&*self.producer);
        }
        let producer = Arc::clone(&self.producer);
        self.tasks.short_lived(async move {
            tokio::time::sleep(after).await;
            answer.send(&*producer);
        });
    }
}

fn echo(_: &[u8]) -> Reaction {
    Reaction { after: Duration::ZERO, status: 200, value: None, parts: None }
}

/// Streams the numbers below `n`, `ms` milliseconds apart.
fn count(request: &[u8]) -> Reaction {
    let number = |name| field(request, name).and_then(|number| number.as_u64());
    let pause = Duration::from_millis(number("ms").unwrap_or(0)).min(SLEEP_MAX);
    let parts = Some((number("n").unwrap_or(3).min(PARTS_MAX), pause));
    Reaction { after: Duration::ZERO, status: 200, value: None, parts }
}

/// Answers with the request's own value after `ms` milliseconds.
fn slow(request: &[u8]) -> Reaction {
    let ms = field(request, "ms").and_then(|ms| ms.as_u64()).unwrap_or(1000);
    let after = Duration::from_millis(ms).min(SLEEP_MAX);
    Reaction { after, status: 200, value: None, parts: None }
}

/// Fails with the request's own `status`.
fn fail(request: &[u8]) -> Reaction {
    let status = field(request, "status").and_then(|status| status.as_u64());
    let status = status.and_then(|status| u16::try_from(status).ok());
    let status = status.filter(|status| (400..600).contains(status)).unwrap_or(500);
    let value = json!({ "error": "failed as asked", "status": status });
    Reaction { after: Duration::ZERO, status, value: Some(value), parts: None }
}

/// Validates an order, which takes a while: it needs an `id`, and at least one of `items` where it
/// names any.
fn orders(request: &[u8]) -> Reaction {
    let Some(id) = field(request, "id").filter(|id| id.is_string() || id.is_number()) else {
        let value = json!({ "error": "an order is an object with an id, a string or a number" });
        let value = Some(value);
        return Reaction { after: Duration::ZERO, status: 422, value, parts: None };
    };
    let is_empty = field(request, "items").is_some_and(|items| items == json!([]));
    let state = if is_empty { "FAILED" } else { "VALIDATED" };
    let value = json!({ "id": id, "state": state });
    Reaction { after: VALIDATION_TIME, status: 200, value: Some(value), parts: None }
}

fn field(request: &[u8], name: &str) -> Option<Value> {
    let mut request: Value = serde_json::from_slice(request).ok()?;
    request.get_mut(name).map(Value::take)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_do_what_they_say() {
        assert!(echo(b"x").value.is_none());
        assert_eq!(slow(br#"{"ms":5}"#).after, Duration::from_millis(5));
        assert_eq!(slow(b"not json").after, Duration::from_secs(1));
        assert_eq!(slow(br#"{"ms":99999999}"#).after, SLEEP_MAX);
        assert_eq!(fail(br#"{"status":418}"#).status, 418);
        assert_eq!(fail(br#"{"status":200}"#).status, 500);
        assert_eq!(orders(br#"{"id":7}"#).value.unwrap()["state"], "VALIDATED");
        assert_eq!(orders(br#"{"id":7,"items":[]}"#).value.unwrap()["state"], "FAILED");
        assert_eq!(orders(b"null").status, 422);
        assert_eq!(count(br#"{"n":7,"ms":5}"#).parts, Some((7, Duration::from_millis(5))));
        assert_eq!(count(b"null").parts, Some((3, Duration::ZERO)));
    }
}
