//! One run of a node: the relay's real parts, on simulated ground.

use std::sync::Arc;

use gateway::{
    config::Config,
    relay::{Nature, Relay, handover::Handover, parts::Parts},
    tasks::Tasks,
    telemetry::Telemetry,
};
use registry::{NodeId, NodeRef, NodeState};
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{Reader, Writer},
    net::Wires,
    world::{Life, World},
};

/// How long a session lives without a connection.
pub(crate) const WINDOW: Duration = Duration::from_secs(6);

/// A run of a node.
pub(crate) struct Node {
    pub(crate) life: Arc<Life>,
    pub(crate) parts: Parts,
    pub(crate) handover: Handover,
    tasks: Tasks,
}

impl Node {
    /// Starts a node; dead with all its tasks once its `life.dead` is cancelled.
    pub(crate) fn start(world: &Arc<World>, index: usize) -> Arc<Self> {
        let (tasks, _) = Tasks::new();
        let life = Life::new(index, tasks.stop().clone());
        let wires = Wires { world: Arc::clone(world), life: Arc::clone(&life) };
        let id = NodeId::parse(&format!("gw-{index}")).unwrap();
        let clock = world.clock_of(index);
        let incarnation = clock.unix_ms();
        let nature = Nature::simulated(clock, world.below(u64::MAX));
        let (writer, reader) = (Writer::new(wires.clone()), Reader::new(wires.clone()));
        let (node, telemetry) = (NodeRef { id, incarnation }, Arc::new(Telemetry::new()));
        let relay = Relay::new(&config(index), node, Arc::new(writer), telemetry);
        let relay = Arc::new(relay.with_nature(nature));
        let registry = Arc::new(wires.clone());
        let parts = Parts::join(relay, index.to_string(), registry, Arc::new(wires), tasks.clone());
        let control = gateway::bus::Consumer::control(&reader);
        let (dispatch, _) = parts.reader(control);
        let never = CancellationToken::new();
        tasks.long_lived("dispatch", dispatch.run(Box::new(reader), never, Duration::ZERO));
        parts.start(&life.dead);
        parts.membership.set_state(NodeState::Ready);
        let handover = parts.handover();
        Arc::new(Self { life, parts, handover, tasks })
    }

    /// Starts what dies with the node.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let dead = self.life.dead.clone();
        self.tasks.short_lived(async move {
            tokio::select! {
                biased;
                () = dead.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// What is left of what should be nothing by now.
    pub(crate) fn left(&self) -> Option<String> {
        let relay = &self.parts.relay;
        let (pending, sessions) = (relay.pending().len(), relay.hub().len());
        let is_rest = pending == 0 && sessions == 0 && relay.backups().is_empty();
        let backups = relay.backups();
        (!is_rest).then(|| {
            format!("node {}: {pending} pending, {sessions} sessions, {backups:?}", self.life.index)
        })
    }
}

fn config(index: usize) -> Config {
    let window = WINDOW.as_secs();
    let text = format!(
        r#"
        node_id = "gw-{index}"
        internal.secret = "a-secret-of-the-tests"
        kafka = {{ bootstrap_servers = "memory", reply_topic = "replies" }}
        registry.url = "memory:"
        session.resume_window = "{window}s"
        [services.echo]
        request_topic = "echo"
        timeout = "20s"
        "#
    );
    Config::parse(&text, std::iter::empty()).unwrap()
}
