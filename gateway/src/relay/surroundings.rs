//! What all rooms of a relay need: handed down to them, and each takes its part.

use std::sync::Arc;

use registry::{NodeRef, Registry};

use super::environment::Environment;
use crate::{bus::Producer, peer::PeerLink, tasks::Tasks, telemetry::Telemetry};

/// Everything that a node has, apart from its relay.
#[derive(Debug)]
pub struct Surroundings {
    /// Which run of which node it is.
    pub node: NodeRef,
    /// Where its peers reach it.
    pub url: String,
    /// The producer, which writes requests.
    pub producer: Arc<dyn Producer>,
    /// The registry, which all nodes share.
    pub registry: Arc<dyn Registry>,
    /// The client that calls peers.
    pub link: Arc<dyn PeerLink>,
    /// Clock and randomness.
    pub environment: Arc<Environment>,
    /// The metrics.
    pub telemetry: Arc<Telemetry>,
    /// Starts the relay's own tasks.
    pub tasks: Tasks,
}
