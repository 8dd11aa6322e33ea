//! An edge without a network: one node that is alone, for units.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::Edge;
use crate::{
    bus::memory::MemoryBus,
    config::Config,
    relay::{
        Relay,
        bed::{self, Ground},
    },
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
    let producer = Arc::new(MemoryBus::new(&[("replies", 1), ("echo", 1)]).producer());
    let surroundings = bed::surroundings(Ground { producer, ..Ground::default() });
    let tasks = surroundings.tasks.clone();
    let relay = Arc::new(Relay::new(&config, surroundings));
    relay.start(&CancellationToken::new());
    tokio::time::sleep(Duration::from_secs(1)).await;
    Arc::new(Edge::new(&config, relay, tasks))
}
