//! One request, from its id to its one end.
//!
//! Owns how a request is taken ([`submit`]), gets an id that brings its reply to this node
//! ([`affinity`]), is written to its service's topic (`record`), waits ([`pending`]) and ends
//! ([`completion`]). Also owns the queue of replies for which nobody on this node waits
//! ([`foreign`]). Never reads the log, and never calls a peer.

use std::sync::Arc;

use registry::NodeRef;

use super::{
    cluster::{Membership, NodeTag, RegistryHealth},
    environment::Environment,
    gate::Gate,
    services::Services,
    surroundings::Surroundings,
    views::Views,
};
use crate::{
    bus::Producer,
    config::{Config, LimitsConfig},
    telemetry::Telemetry,
};

pub mod affinity;
pub mod answer;
pub(in crate::relay) mod awaiting;
pub mod call;
pub mod caller;
pub mod completion;
pub mod deletion;
pub mod delivery;
mod following;
pub mod foreign;
mod kept;
pub mod outcome;
mod over;
mod owed;
pub mod parts;
pub mod pending;
mod record;
pub mod recording;
mod rolling;
pub mod routes;
pub mod stored;
pub mod stream;
pub mod submission;
pub mod submit;

pub use completion::Completion;
pub use following::Reception;
pub use rolling::Rolling;
pub use submission::Submission;

use affinity::Affinity;

/// Takes requests from the edge.
#[derive(Debug)]
pub struct Requests {
    pub(super) node: NodeRef,
    pub(super) reply_topic: String,
    limits: LimitsConfig,
    /// The services to which requests may go.
    pub services: Arc<Services>,
    /// The views on whose events some of them respond.
    pub views: Arc<Views>,
    /// Whether requests are taken at all.
    pub gate: Arc<Gate>,
    /// Which partitions' replies this node reads by itself.
    pub affinity: Affinity,
    pub(super) completion: Arc<Completion>,
    pub(super) health: Arc<RegistryHealth>,
    pub(super) producer: Arc<dyn Producer>,
    pub(super) telemetry: Arc<Telemetry>,
    environment: Arc<Environment>,
}

impl Requests {
    /// Takes requests for the services of `config`.
    pub fn new(
        config: &Config,
        around: &Surroundings,
        completion: &Arc<Completion>,
        membership: &Membership,
        views: &Arc<Views>,
    ) -> Self {
        Self {
            node: around.node.clone(),
            reply_topic: config.kafka.reply_topic.clone(),
            limits: config.limits.clone(),
            services: Arc::new(Services::new(config, &around.telemetry)),
            views: Arc::clone(views),
            affinity: Affinity::new(NodeTag::of(&around.node)),
            gate: Arc::default(),
            completion: Arc::clone(completion),
            health: Arc::clone(&membership.health),
            producer: Arc::clone(&around.producer),
            telemetry: Arc::clone(&around.telemetry),
            environment: Arc::clone(&around.environment),
        }
    }

    /// Where requests wait, and how they end.
    pub fn completion(&self) -> &Arc<Completion> {
        &self.completion
    }

    /// What keeps the segments of topics rolling of which messages can be deleted.
    pub fn rolling(&self) -> Rolling {
        let topics = self.services.deletable_topics().into_iter();
        let paced = topics.map(|(topic, compaction)| (topic, compaction.pace()));
        Rolling::new(paced, &self.producer, &self.gate)
    }

    /// The topic to which services reply.
    pub fn reply_topic(&self) -> &str {
        &self.reply_topic
    }

    /// The limits that the edge enforces.
    pub fn limits(&self) -> &LimitsConfig {
        &self.limits
    }
}
