//! An edge without a network: one node that is alone, for units.

use std::{sync::Arc, time::Duration};

use registry::{MemoryRegistry, NodeId, NodeRef};
use tokio_util::sync::CancellationToken;

use super::Edge;
use crate::{
    bus::memory::MemoryBus,
    config::Config,
    peer::alone::Alone,
    relay::{Relay, parts::Parts},
    tasks::Tasks,
    telemetry::Telemetry,
};

const CONFIG: &str = r#"
    node_id = "gw-1"
    internal.secret = "a-secret-of-the-tests"
    kafka = { bootstrap_servers = "memory", reply_topic = "replies" }
    registry.url = "memory:"
    session = { ping_interval = "25s", pong_timeout = "10s", resume_window = "300s" }
    [services.echo]
    request_topic = "echo"
    "#;

/// The edge of a node that has been there for a moment, on a paused clock. Its service never answers.
pub(super) async fn edge() -> Arc<Edge> {
    let config = Config::parse(CONFIG, std::iter::empty()).unwrap();
    let node = NodeRef { id: NodeId::parse("gw-1").unwrap(), incarnation: 1 };
    let bus = MemoryBus::new(&[("replies", 1), ("echo", 1)]);
    let telemetry = Arc::new(Telemetry::new());
    let relay = Arc::new(Relay::new(&config, node, Arc::new(bus.producer()), telemetry));
    let (tasks, _) = Tasks::new();
    let registry = Arc::new(MemoryRegistry::new());
    let parts =
        Parts::join(Arc::clone(&relay), String::new(), registry, Arc::new(Alone), tasks.clone());
    parts.start(&CancellationToken::new());
    tokio::time::sleep(Duration::from_secs(1)).await;
    Arc::new(Edge::new(&config, relay, parts.handover(), tasks))
}
