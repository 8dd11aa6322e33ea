//! What a node reads: each topic once, for one purpose, as a member of a group of its own. Owns the
//! list of purposes; what is read for them is done by the relay's roles.

use std::sync::Arc;

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{drain::FAREWELL, kafka_health};
use crate::{
    bus::{Consumer, ConsumerControl},
    config::Config,
    readiness::{Component, Health, Readiness},
    relay::{Relay, reading::Role},
    tasks::Tasks,
    telemetry::Telemetry,
};

/// What a topic is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Replies, which requests wait for.
    Replies,
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
        let (topic, group) = (config.kafka.reply_topic.clone(), config.kafka.group_id.clone());
        vec![Self { purpose: Purpose::Replies, topic, group }]
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
        let seen = consumers.into_iter().map(|(source, consumer)| match source.purpose {
            Purpose::Replies => this.read("replies", source, consumer, this.relay.replies()),
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
            match seen.source.purpose {
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

/// Tells how far behind the ends of their topics they all are.
pub(super) fn tell_lag(readers: &[Seen], telemetry: &Telemetry) {
    telemetry.set_lag(readers.iter().flat_map(|Seen { source, control, .. }| {
        let lag = control.lag().into_iter();
        lag.map(|lag| (&*source.topic, lag.partition, lag.records))
    }));
}
