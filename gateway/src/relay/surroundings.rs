//! What a relay stands on: handed down to its rooms, each of which takes what it needs.

use std::sync::Arc;

use registry::{NodeRef, Registry};

use super::environment::Environment;
use crate::{bus::Producer, peer::PeerLink, tasks::Tasks, telemetry::Telemetry};

/// A node without its relay.
#[derive(Debug)]
pub struct Surroundings {
    /// Which run of which node it is.
    pub node: NodeRef,
    /// Where its peers reach it.
    pub url: String,
    /// Writes requests.
    pub producer: Arc<dyn Producer>,
    /// The table that all nodes share.
    pub registry: Arc<dyn Registry>,
    /// Calls peers.
    pub link: Arc<dyn PeerLink>,
    /// Clock and randomness.
    pub environment: Arc<Environment>,
    /// Counts.
    pub telemetry: Arc<Telemetry>,
    /// Runs what the relay has to do by itself.
    pub tasks: Tasks,
}
