//! One run of a node: the relay's real parts, on simulated ground.

use std::{
    pin::pin,
    sync::{Arc, Mutex},
};

use gateway::{
    app::drain::{Drain, Stops},
    bus::Producer,
    config::{Config, ShutdownConfig},
    edge::Edge,
    relay::{Environment, Relay, Surroundings},
    tasks::Tasks,
    telemetry::Telemetry,
};
use registry::{NodeId, NodeRef, NodeState};
use tokio::{task::JoinHandle, time::Duration};

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
    pub(crate) relay: Arc<Relay>,
    pub(crate) edge: Edge,
    tasks: Tasks,
    shutdown: ShutdownConfig,
    producer: Arc<dyn Producer>,
    stops: Stops,
    /// What reads replies, until the node drains.
    reader: Mutex<Option<JoinHandle<()>>>,
}

impl Node {
    /// Starts a node. It is dead, with all its tasks, once its `life.dead` is cancelled.
    pub(crate) fn start(world: &Arc<World>, index: usize) -> Arc<Self> {
        let (tasks, _) = Tasks::new();
        let life = Life::new(index, tasks.stop().clone());
        let wires = Wires { world: Arc::clone(world), life: Arc::clone(&life) };
        let id = NodeId::parse(&format!("gw-{index}")).unwrap();
        let clock = world.clock_of(index);
        let incarnation = clock.unix_ms();
        let environment = Environment::simulated(clock, world.below(u64::MAX));
        let (writer, reader) = (Writer::new(wires.clone()), Reader::new(wires.clone()));
        let (node, telemetry) = (NodeRef { id, incarnation }, Arc::new(Telemetry::new()));
        let config = config(index);
        let (producer, stops) = (Arc::new(writer) as Arc<dyn Producer>, Stops::default());
        let surroundings = Surroundings {
            node,
            url: index.to_string(),
            producer: Arc::clone(&producer),
            registry: Arc::new(wires.clone()),
            link: Arc::new(wires),
            environment: Arc::new(environment),
            telemetry,
            tasks: tasks.clone(),
        };
        let relay = Arc::new(Relay::new(&config, surroundings));
        let control = gateway::bus::Consumer::control(&reader);
        let (dispatch, _) = relay.reader(&config.kafka.reply_topic, relay.replies(), control);
        let reading = dispatch.run(Box::new(reader), stops.reading.clone(), Duration::ZERO);
        // The reader ends with its node, in whatever way that ends.
        let (dead, stop) = (life.dead.clone(), stops.reading.clone());
        let reader = tasks.until("dispatch", &stop, async move {
            tokio::select! {
                biased;
                () = dead.cancelled() => {}
                () = reading => {}
            }
        });
        relay.start(&life.dead);
        relay.membership.set_state(NodeState::Ready);
        let edge = Edge::new(&config, Arc::clone(&relay), tasks.clone());
        let (shutdown, reader) = (config.shutdown, Mutex::new(Some(reader)));
        Arc::new(Self { life, relay, edge, tasks, shutdown, producer, stops, reader })
    }

    /// Whether it lets clients in.
    pub(crate) fn is_open(&self) -> bool {
        !self.relay.gate.is_draining()
    }

    /// Stops in order; the node is dead, with all its tasks, when this returns. Does nothing where
    /// the node stops already.
    pub(crate) async fn drain(&self) {
        let Some(reader) = self.reader.lock().unwrap().take() else { return };
        let drain = Drain {
            config: self.shutdown.clone(),
            relay: Arc::clone(&self.relay),
            producer: Arc::clone(&self.producer),
            tasks: self.tasks.clone(),
            stops: self.stops.clone(),
            readers: vec![reader],
        };
        self.while_awake(drain.run()).await;
    }

    /// Starts a task that dies with the node.
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

    /// Runs a task that stands still while the node sleeps.
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

    /// What the node still holds at a time when it should hold nothing.
    pub(crate) fn left(&self) -> Option<String> {
        let relay = &self.relay;
        let (pending, sessions) = (relay.completion.pending.len(), relay.sessions.len());
        let is_rest = pending == 0 && sessions == 0 && relay.checkpoints.is_empty();
        let checkpoints = &relay.checkpoints;
        (!is_rest).then(|| {
            format!(
                "node {}: {pending} pending, {sessions} sessions, {checkpoints:?}",
                self.life.index
            )
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
        [shutdown]
        grace = "10s"
        [services.echo]
        request_topic = "echo"
        deletable = true
        timeout = "20s"
        "#
    );
    Config::parse(&text, std::iter::empty()).unwrap()
}
