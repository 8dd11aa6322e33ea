//! A relay for tests: the node `gw-1` with one service, on ground of the test's choice.

mod peers;

use std::sync::Arc;

use registry::{MemoryRegistry, NodeId, NodeRef, Registry};

use super::{Environment, Relay, Surroundings};
use crate::{
    bus::{Producer, memory::MemoryBus},
    config::Config,
    peer::PeerLink,
    tasks::Tasks,
    telemetry::Telemetry,
};

pub(crate) use peers::Peers;

const CONFIG: &str = r#"
    node_id = "gw-1"
    internal.secret = "a-secret-of-the-tests"
    kafka = { bootstrap_servers = "memory", reply_topic = "replies" }
    registry.url = "memory:"
    [services.echo]
    request_topic = "echo"
    "#;

/// What a relay stands on, until a test has it otherwise: nobody else.
pub(crate) struct Ground {
    pub(crate) producer: Arc<dyn Producer>,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) link: Arc<dyn PeerLink>,
}

impl Default for Ground {
    fn default() -> Self {
        Self {
            producer: Arc::new(MemoryBus::new(&[]).producer()),
            registry: Arc::new(MemoryRegistry::new()),
            link: Arc::new(Peers::default()),
        }
    }
}

/// This run of the node.
pub(crate) fn node() -> NodeRef {
    NodeRef { id: NodeId::parse("gw-1").unwrap(), incarnation: 1 }
}

/// A relay in which nothing runs yet.
pub(crate) fn relay(ground: Ground) -> Arc<Relay> {
    relay_of(node(), ground)
}

/// The same of another node.
pub(crate) fn relay_of(node: NodeRef, ground: Ground) -> Arc<Relay> {
    let config = Config::parse(CONFIG, std::iter::empty()).unwrap();
    Arc::new(Relay::new(&config, Surroundings { node, ..surroundings(ground) }))
}

/// The same without the relay.
pub(crate) fn surroundings(ground: Ground) -> Surroundings {
    let Ground { producer, registry, link } = ground;
    let (tasks, _) = Tasks::new();
    Surroundings {
        node: node(),
        url: String::new(),
        producer,
        registry,
        link,
        environment: Arc::new(Environment::default()),
        telemetry: Arc::new(Telemetry::new()),
        tasks,
    }
}
