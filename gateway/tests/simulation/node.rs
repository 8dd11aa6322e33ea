//! One run of a node: the relay's real parts, on simulated ground.

use std::{pin::pin, sync::Arc};

use gateway::{
    config::Config,
    edge::Edge,
    relay::{Nature, Relay, parts::Parts},
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
/// What a session may gather without a connection.
pub(crate) const MAILBOX_FRAMES: usize = 20;
pub(crate) const MAILBOX_BYTES: usize = 16 * 1024;

/// A run of a node.
pub(crate) struct Node {
    pub(crate) life: Arc<Life>,
    pub(crate) parts: Parts,
    pub(crate) edge: Edge,
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
        let config = config(index);
        let relay = Relay::new(&config, node, Arc::new(writer), telemetry);
        let relay = Arc::new(relay.with_nature(nature));
        let registry = Arc::new(wires.clone());
        let parts = Parts::join(relay, index.to_string(), registry, Arc::new(wires), tasks.clone());
        let control = gateway::bus::Consumer::control(&reader);
        let (dispatch, _) = parts.reader(control);
        let never = CancellationToken::new();
        tasks.long_lived("dispatch", dispatch.run(Box::new(reader), never, Duration::ZERO));
        parts.start(&life.dead);
        parts.membership.set_state(NodeState::Ready);
        let relay = Arc::clone(&parts.relay);
        let edge = Edge::new(&config, relay, parts.handover(), tasks.clone());
        Arc::new(Self { life, parts, edge, tasks })
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

    /// Does something, but for the time that the node sleeps.
    pub(crate) async fn while_awake(&self, task: impl Future<Output = ()>) {
        let mut task = pin!(task);
        loop {
            self.life.awake().await;
            tokio::select! {
                biased;
                () = self.life.asleep() => {}
                () = &mut task => return,
            }
        }
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
        [session]
        resume_window = "{window}s"
        ping_interval = "2s"
        pong_timeout = "1s"
        outbox_bytes_max = "8KiB"
        mailbox_bytes_max = "{MAILBOX_BYTES}B"
        mailbox_frames_max = {MAILBOX_FRAMES}
        [limits]
        in_flight_per_connection_max = 24
        [services.echo]
        request_topic = "echo"
        timeout = "20s"
        "#
    );
    Config::parse(&text, std::iter::empty()).unwrap()
}
