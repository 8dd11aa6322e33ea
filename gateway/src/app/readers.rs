//! What a node reads: each topic once, for one purpose, as a member of a group of its own. Owns the
//! list of purposes; what is read for them is done by the relay's roles.

use std::{collections::BTreeSet, iter, sync::Arc};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{drain::FAREWELL, kafka_health};
use crate::{
    bus::{Consumer, ConsumerControl},
    config::Config,
    readiness::{Component, Health, Readiness},
    relay::{Relay, reading::Role, views::View},
    tasks::Tasks,
    telemetry::Telemetry,
};

/// What a topic is read for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Replies, which requests wait for.
    Replies,
    /// Dead letters, which end requests that their services have given up.
    DeadLetters,
    /// The events of this view.
    View(String),
}

/// A topic that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What for.
    pub purpose: Purpose,
    /// The topic's name.
    pub topic: String,
    /// The group that shares its partitions: all nodes of the cluster.
    pub group: String,
}

impl Source {
    /// Everything that a node with this configuration reads.
    pub fn all(config: &Config) -> Vec<Self> {
        let kafka = &config.kafka;
        let (topic, group) = (kafka.reply_topic.clone(), kafka.group_id.clone());
        let replies = Self { purpose: Purpose::Replies, topic, group };
        let dead_letters: BTreeSet<&String> =
            config.services.values().filter_map(|one| one.dead_letter_topic.as_ref()).collect();
        let of_its_own = |purpose, topic: &String| {
            let group = format!("{}.{topic}", kafka.group_id);
            Self { purpose, topic: topic.clone(), group }
        };
        let dead_letters =
            dead_letters.into_iter().map(|topic| of_its_own(Purpose::DeadLetters, topic));
        let views = config.views.iter().map(|(name, view)| {
            let group = format!("{}.view.{name}", kafka.group_id);
            Self { purpose: Purpose::View(name.clone()), topic: view.topic.clone(), group }
        });
        iter::once(replies).chain(dead_letters).chain(views).collect()
    }
}

/// The readers of a node.
#[derive(Debug)]
pub(super) struct Readers {
    relay: Arc<Relay>,
    tasks: Tasks,
    stop: CancellationToken,
    /// What the rest of the node sees of each.
    seen: Arc<Vec<Seen>>,
    running: Vec<JoinHandle<()>>,
}

/// What can be seen of one reader.
#[derive(Debug)]
pub(super) struct Seen {
    source: Source,
    control: Arc<dyn ConsumerControl>,
    assigned: watch::Receiver<bool>,
}

impl Readers {
    /// Starts a reader for each consumer. They end when `stop` is cancelled.
    pub(super) fn start(
        consumers: Vec<(Source, Box<dyn Consumer>)>,
        relay: &Arc<Relay>,
        tasks: &Tasks,
        stop: &CancellationToken,
    ) -> Self {
        let (relay, tasks, stop) = (Arc::clone(relay), tasks.clone(), stop.clone());
        let mut this = Self { relay, tasks, stop, seen: Arc::default(), running: Vec::new() };
        let seen = consumers.into_iter().map(|(source, consumer)| match &source.purpose {
            Purpose::Replies => this.read("replies", source, consumer, this.relay.replies()),
            Purpose::DeadLetters => {
                this.read("dead letters", source, consumer, this.relay.dead_letters())
            }
            Purpose::View(name) => {
                let role = this.relay.events(name, &consumer.control());
                this.read("events", source, consumer, role)
            }
        });
        let (seen, running) = seen.unzip();
        this.seen = Arc::new(seen);
        this.running = running;
        this
    }

    fn read(
        &self,
        name: &'static str,
        source: Source,
        consumer: Box<dyn Consumer>,
        role: impl Role,
    ) -> (Seen, JoinHandle<()>) {
        let control = consumer.control();
        let (reader, assigned) = self.relay.reader(&source.topic, role, Arc::clone(&control));
        let run = reader.run(consumer, self.stop.clone(), FAREWELL);
        (Seen { source, control, assigned }, self.tasks.until(name, &self.stop, run))
    }

    /// Adds what the node needs of its readers to take requests.
    pub(super) fn checks(&self, mut readiness: Readiness) -> Readiness {
        for (index, seen) in self.seen.iter().enumerate() {
            let (all, relay) = (Arc::clone(&self.seen), Arc::clone(&self.relay));
            match &seen.source.purpose {
                Purpose::Replies => {
                    let assigned = seen.assigned.clone();
                    let reason = "no assignment of reply partitions yet";
                    readiness = readiness
                        .with(Component::Assignment, move || {
                            Health::unready_if(!*assigned.borrow(), reason)
                        })
                        .with(Component::Kafka, move || {
                            kafka_health(relay.is_bus_available(), &all[index].control.troubles())
                        });
                }
                // Without them requests are answered later, by their deadlines.
                Purpose::DeadLetters => {
                    readiness = readiness.with(Component::Kafka, move || all[index].is_behind());
                }
                Purpose::View(name) => {
                    let Ok(view) = relay.requests.views.find(name).cloned() else { continue };
                    readiness = readiness
                        .with(Component::Kafka, move || all[index].is_behind())
                        .with(Component::Views, move || view_health(&view));
                }
            }
        }
        readiness
    }

    /// What can be seen of them.
    pub(super) fn seen(&self) -> Arc<Vec<Seen>> {
        Arc::clone(&self.seen)
    }

    /// Their tasks, which end once they are told to stop.
    pub(super) fn into_tasks(self) -> Vec<JoinHandle<()>> {
        self.running
    }
}

impl Seen {
    /// Degraded as long as the topic is not read.
    fn is_behind(&self) -> Health {
        let topic = &self.source.topic;
        match kafka_health(true, &self.control.troubles()) {
            Health::Unready(reason) => Health::Degraded(reason),
            _ if !*self.assigned.borrow() => {
                Health::Degraded(format!("no assignment of partitions of {topic} yet"))
            }
            health => health,
        }
    }
}

/// A node serves nobody before its views are complete, since a client would take what is missing for what
/// is not there. Later it goes on with all else.
fn view_health(view: &View) -> Health {
    match view.trouble() {
        None => Health::Well,
        Some(trouble) if view.has_been_whole() => Health::Degraded(trouble),
        Some(trouble) => Health::Unready(trouble),
    }
}

/// Tells how far behind the ends of their topics they all are.
pub(super) fn tell_lag(readers: &[Seen], telemetry: &Telemetry) {
    telemetry.set_lag(readers.iter().flat_map(|Seen { source, control, .. }| {
        let lag = control.lag().into_iter();
        lag.map(|lag| (&*source.topic, lag.partition, lag.records))
    }));
}
