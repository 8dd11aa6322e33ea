//! What all simulated parts share: chance, faults that are on at present, and the nodes.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use gateway::bus::memory::MemoryBus;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use registry::{Clock, MemoryRegistry, faulty::FaultyRegistry};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{book::Book, defect::Defect, node::Node};

pub(crate) const NODES: usize = 3;
pub(crate) const REPLY_PARTITIONS: i32 = 6;
/// When every simulation begins, in milliseconds since the Unix epoch.
const UNIX_MS: u64 = 1_800_000_000_000;

/// One simulated cluster, its clients and its faults.
pub(crate) struct World {
    pub(crate) defect: Defect,
    pub(crate) clock: Clock,
    /// How much the nodes' clocks are ahead of that, in milliseconds.
    pub(crate) clocks: [Arc<AtomicI64>; NODES],
    pub(crate) started: Instant,
    pub(crate) bus: MemoryBus,
    pub(crate) table: FaultyRegistry,
    pub(crate) book: Book,
    /// Whether something has failed, or may have.
    pub(crate) is_troubled: AtomicBool,
    /// Cancelled when nothing fails any more; then the clients finish.
    pub(crate) calm: CancellationToken,
    dice: Mutex<StdRng>,
    faults: Mutex<Faults>,
    nodes: Mutex<[Option<Arc<Node>>; NODES]>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct Faults {
    /// Which nodes cannot reach the registry.
    registry_away: [bool; NODES],
    /// Which nodes cannot reach each other.
    cut: [[bool; NODES]; NODES],
    /// Whether calls get lost now and then.
    shaky: bool,
}

impl World {
    pub(crate) fn new(seed: u64, defect: Defect) -> Arc<Self> {
        let clock = Self::clock_ahead(Arc::default());
        Arc::new(Self {
            defect,
            clock: clock.clone(),
            started: Instant::now(),
            bus: MemoryBus::new(&[("replies", REPLY_PARTITIONS), ("echo", 2)]),
            table: FaultyRegistry::in_memory(MemoryRegistry::with_clock(clock)),
            clocks: [const { AtomicI64::new(0) }; NODES].map(Arc::new),
            book: Book::default(),
            is_troubled: AtomicBool::new(false),
            calm: CancellationToken::new(),
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            faults: Mutex::default(),
            nodes: Mutex::default(),
            tasks: Mutex::default(),
        })
    }

    fn clock_ahead(ahead_ms: Arc<AtomicI64>) -> Clock {
        Clock::Since { start: Instant::now(), unix_ms: UNIX_MS, ahead_ms }
    }

    /// The clock of a node, right or wrong.
    pub(crate) fn clock_of(&self, node: usize) -> Clock {
        let Clock::Since { start, unix_ms, .. } = self.clock else { return Clock::System };
        Clock::Since { start, unix_ms, ahead_ms: Arc::clone(&self.clocks[node]) }
    }

    /// Sets a node's clock: up to ten seconds ahead or behind.
    pub(crate) fn set_clock(&self, node: usize) {
        let ahead_ms = i64::try_from(self.below(20_001)).unwrap() - 10_000;
        self.clocks[node].store(ahead_ms, Ordering::Relaxed);
    }

    /// Lets every clock go a little too fast or too slow, for as long as the world lasts.
    pub(crate) async fn drift(self: Arc<Self>) {
        loop {
            sleep(Duration::from_secs(1)).await;
            for (node, clock) in self.clocks.iter().enumerate() {
                let drift_ms = [7, -11, 3][node % 3];
                clock.fetch_add(drift_ms, Ordering::Relaxed);
            }
        }
    }

    /// A number below `end`.
    pub(crate) fn below(&self, end: u64) -> u64 {
        self.dice.lock().unwrap().random_range(0..end)
    }

    /// Whether the next verdict of a peer is one that this version does not know.
    pub(crate) fn is_strange(&self) -> bool {
        self.defect == Defect::StrangeWords && self.chance(5)
    }

    pub(crate) fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn ms(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    pub(crate) async fn sleep(&self, from: u64, to: u64) {
        sleep(self.ms(from, to)).await;
    }

    /// Starts a task that goes on by itself, whatever becomes of the node that began it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap()
    }

    pub(crate) fn is_shaky(&self) -> bool {
        self.faults().shaky
    }

    pub(crate) fn set_shaky(&self, shaky: bool) {
        self.is_troubled.fetch_or(shaky, Ordering::Relaxed);
        self.faults().shaky = shaky;
    }

    pub(crate) fn is_registry_away(&self, node: usize) -> bool {
        self.faults().registry_away[node]
    }

    pub(crate) fn set_registry_away(&self, node: usize, away: bool) {
        self.faults().registry_away[node] = away;
    }

    pub(crate) fn is_cut(&self, one: usize, other: usize) -> bool {
        self.faults().cut[one][other]
    }

    pub(crate) fn set_cut(&self, one: usize, other: usize, cut: bool) {
        let mut faults = self.faults();
        faults.cut[one][other] = cut;
        faults.cut[other][one] = cut;
    }

    /// The run of a node that is not dead.
    pub(crate) fn node(&self, index: usize) -> Option<Arc<Node>> {
        self.nodes.lock().unwrap()[index].clone()
    }

    pub(crate) fn set_node(&self, index: usize, node: Option<Arc<Node>>) -> Option<Arc<Node>> {
        std::mem::replace(&mut self.nodes.lock().unwrap()[index], node)
    }

    pub(crate) fn live_nodes(&self) -> Vec<Arc<Node>> {
        self.nodes.lock().unwrap().iter().flatten().cloned().collect()
    }

    /// Ends every fault.
    pub(crate) fn calm_down(&self) {
        *self.faults() = Faults::default();
        self.table.set_away(false);
        self.bus.set_available(true);
        self.live_nodes().iter().for_each(|node| node.life.set_asleep(false));
    }

    /// Ends everything.
    pub(crate) fn end(&self) {
        self.live_nodes().iter().for_each(|node| node.life.dead.cancel());
        *self.nodes.lock().unwrap() = [const { None }; NODES];
        self.tasks.lock().unwrap().abort_all();
    }
}

/// Whether a run of a node lives, sleeps or is dead.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) index: usize,
    pub(crate) dead: CancellationToken,
    /// Whether it has died without stopping in order.
    has_crashed: AtomicBool,
    /// Whether the registry has said that it is new, and it may not have heard so.
    pub(crate) is_fresh: AtomicBool,
    asleep: AtomicBool,
    /// Wakes those who wait in the order in which they came, so that a seed happens again exactly;
    /// a watched value would not.
    changed: Notify,
}

impl Life {
    pub(crate) fn new(index: usize, dead: CancellationToken) -> Arc<Self> {
        let [has_crashed, is_fresh, asleep] = [(); 3].map(|()| AtomicBool::new(false));
        Arc::new(Self { index, dead, has_crashed, is_fresh, asleep, changed: Notify::new() })
    }

    pub(crate) fn crash(&self) {
        self.has_crashed.store(true, Ordering::Relaxed);
        self.dead.cancel();
    }

    pub(crate) fn has_crashed(&self) -> bool {
        self.has_crashed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_asleep(&self, asleep: bool) {
        self.asleep.store(asleep, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    pub(crate) async fn awake(&self) {
        self.is(false).await;
    }

    pub(crate) async fn asleep(&self) {
        self.is(true).await;
    }

    async fn is(&self, asleep: bool) {
        while self.asleep.load(Ordering::Relaxed) != asleep {
            self.changed.notified().await;
        }
    }
}
