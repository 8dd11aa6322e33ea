//! The waits of this node's requests: begun and forgotten in the registry in batches, and begun again
//! when it has lost them.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use registry::{After, Latest, Registry, RegistryError, RequestId, StateWait, ViewKey, Waiting};
use tokio::time::Instant;

use crate::{
    relay::{
        cluster::RegistryHealth,
        write_behind::{Batches, Pace},
    },
    tasks::locked,
    telemetry::Telemetry,
};

/// How many go in one round trip.
const BATCH_MAX: usize = 512;
/// How long a wait that is to be forgotten waits for others to share its batch.
const LINGER: Duration = Duration::from_millis(25);
/// How long a wait outlives its request's deadline in the registry.
const GRACE: Duration = Duration::from_secs(10);

/// Is told what became of a wait that was to begin.
pub type Told = Box<dyn FnOnce(Result<Waiting, RegistryError>) + Send>;

/// The waits. Shared by all parts that begin and end requests.
#[derive(Debug)]
pub struct Waits {
    queue: Mutex<Queue>,
    held: Mutex<HashMap<RequestId, Held>>,
    /// How many are held: most nodes hold none, and look no further.
    count: AtomicUsize,
    pace: Pace,
}

#[derive(Default)]
struct Queue {
    begins: Vec<Begin>,
    forgets: Vec<(ViewKey, RequestId)>,
    /// What the registry has lost.
    again: Vec<RequestId>,
    /// What could not be begun again.
    failed: Vec<RequestId>,
}

struct Begin {
    wait: StateWait,
    deadline: Instant,
    told: Told,
}

/// A wait that has begun, as it is begun again.
#[derive(Clone, Debug)]
struct Held {
    wait: StateWait,
    deadline: Instant,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (begins, forgets) = (self.begins.len(), self.forgets.len());
        f.debug_struct("Queue").field("begins", &begins).field("forgets", &forgets).finish()
    }
}

impl Default for Waits {
    fn default() -> Self {
        let (queue, held, count) = Default::default();
        Self { queue, held, count, pace: Pace::new(LINGER) }
    }
}

impl Held {
    fn wait(&self) -> StateWait {
        let ttl = self.deadline.saturating_duration_since(Instant::now()) + GRACE;
        StateWait { ttl, ..self.wait.clone() }
    }
}

impl Waits {
    /// Begins a wait that ends at this time. `told` is called once.
    pub fn begin(&self, wait: StateWait, deadline: Instant, told: Told) {
        locked(&self.queue).begins.push(Begin { wait, deadline, told });
        self.pace.now();
    }

    /// Forgets the wait of a request.
    pub fn forget(&self, key: ViewKey, request: RequestId) {
        self.release(request);
        locked(&self.queue).forgets.push((key, request));
        self.pace.soon();
    }

    /// A request does not wait here any more. Its wait is forgotten where nothing of its answer can be
    /// lost any more; else by whoever has read the event that answers it.
    pub fn ended(&self, request: RequestId, is_over: bool) {
        if let Some(held) = self.release(request)
            && is_over
        {
            locked(&self.queue).forgets.push((held.wait.key, request));
            self.pace.soon();
        }
    }

    /// The registry has lost what it held.
    pub fn write_again(&self) {
        if self.count.load(Ordering::Relaxed) > 0 {
            let all: Vec<RequestId> = locked(&self.held).keys().copied().collect();
            locked(&self.queue).again = all;
            self.pace.now();
        }
    }

    fn release(&self, request: RequestId) -> Option<Held> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut held = locked(&self.held);
        let released = held.remove(&request);
        self.count.store(held.len(), Ordering::Relaxed);
        released
    }

    fn hold(&self, wait: StateWait, deadline: Instant) {
        let mut held = locked(&self.held);
        held.insert(wait.request, Held { wait, deadline });
        self.count.store(held.len(), Ordering::Relaxed);
    }
}

/// Writes the queued waits.
#[expect(missing_debug_implementations, reason = "lives within one call")]
pub struct WaitWriter<'a, F> {
    /// What is to be begun and forgotten.
    pub waits: &'a Waits,
    /// The registry.
    pub registry: &'a dyn Registry,
    /// Whether it answers.
    pub health: &'a RegistryHealth,
    /// The metrics of each call.
    pub telemetry: &'a Telemetry,
    /// Is called with an event that came while the registry had lost the wait for it.
    pub over: F,
}

impl<F: Fn(RequestId, Latest) + Send + Sync> Batches for WaitWriter<'_, F> {
    fn pace(&self) -> &Pace {
        &self.waits.pace
    }

    async fn write(&self) {
        let queue = std::mem::take(&mut *locked(&self.waits.queue));
        locked(&self.waits.queue).failed = queue.failed;
        self.begin(queue.begins).await;
        self.begin_again(&queue.again).await;
        for forgets in queue.forgets.chunks(BATCH_MAX) {
            let started = Instant::now();
            // What is not forgotten ends by itself.
            self.health.heard(&self.registry.forget_waits(forgets).await);
            self.telemetry.registry_call("forget_waits", started.elapsed());
        }
    }

    fn try_again(&self) {
        let mut queue = locked(&self.waits.queue);
        let failed = std::mem::take(&mut queue.failed);
        queue.again.extend(failed);
    }
}

impl<F: Fn(RequestId, Latest) + Send + Sync> WaitWriter<'_, F> {
    async fn begin(&self, begins: Vec<Begin>) {
        let mut begins = begins.into_iter();
        loop {
            let batch: Vec<Begin> = begins.by_ref().take(BATCH_MAX).collect();
            if batch.is_empty() {
                return;
            }
            let waits: Vec<StateWait> = batch.iter().map(|begin| begin.wait.clone()).collect();
            let answers = self.ask(&waits).await;
            for (Begin { wait, deadline, told }, answer) in batch.into_iter().zip(answers) {
                if let Ok(Waiting::Begun(place)) = &answer {
                    let after = place.clone().map_or(After::Nothing, After::Place);
                    self.waits.hold(StateWait { after, ..wait }, deadline);
                }
                told(answer);
            }
        }
    }

    async fn begin_again(&self, requests: &[RequestId]) {
        for requests in requests.chunks(BATCH_MAX) {
            let waits: Vec<StateWait> = {
                let held = locked(&self.waits.held);
                requests.iter().filter_map(|request| Some(held.get(request)?.wait())).collect()
            };
            let answers = self.ask(&waits).await;
            for (wait, answer) in waits.into_iter().zip(answers) {
                match answer {
                    Ok(Waiting::Begun(_)) => {}
                    Ok(Waiting::Over(latest)) => (self.over)(wait.request, latest),
                    Err(error) => {
                        tracing::debug!(request = %wait.request, %error, "not waited for again");
                        locked(&self.waits.queue).failed.push(wait.request);
                        self.waits.pace.later();
                    }
                }
            }
        }
    }

    async fn ask(&self, waits: &[StateWait]) -> Vec<Result<Waiting, RegistryError>> {
        if waits.is_empty() {
            return Vec::new();
        }
        let started = Instant::now();
        let answers = self.registry.begin_waits(waits).await;
        self.telemetry.registry_call("begin_waits", started.elapsed());
        self.health.heard(&answers);
        answers
    }
}
