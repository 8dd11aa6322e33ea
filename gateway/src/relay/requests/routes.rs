//! Writes this node's routes to the registry in the background: in batches, in order, and again
//! when the registry has lost them.
//!
//! Nobody waits for a write. A route is needed only if the node tag in its id does not name a live
//! peer, so it may wait until a batch is full or its time has come; by then most requests are
//! answered, and their routes are never written.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use registry::{Registry, RegistryError, RequestId, Route};
use tokio::time::Instant;

use super::pending::Pending;
use crate::{
    relay::write_behind::{Batches, Pace},
    tasks::locked,
    telemetry::Telemetry,
};

/// How many routes go in one round trip; more wait for the next.
const BATCH_MAX: usize = 1024;
/// How long a route that is not urgent waits for others to share its batch. Far shorter than the
/// time for which a reply without a route is looked up again.
const LINGER: Duration = Duration::from_millis(25);

/// The routes to write and to remove. Shared by all parts that submit and end requests.
#[derive(Debug)]
pub struct Routes {
    queue: Mutex<Queue>,
    pace: Pace,
}

#[derive(Debug, Default)]
struct Queue {
    puts: HashMap<RequestId, Arc<Route>>,
    removes: Vec<RequestId>,
    /// The registry lacks what this node holds.
    rewrite: bool,
}

#[derive(Debug)]
struct Batch {
    puts: Vec<(RequestId, Arc<Route>)>,
    removes: Vec<RequestId>,
}

impl Routes {
    /// Queues a route. An urgent one, without which a reply would have to wait, is written at once.
    /// While the registry is away nothing is queued: what still waits when it comes back is written
    /// then.
    pub fn put(&self, request: RequestId, route: Arc<Route>, urgent: bool) {
        let mut queue = locked(&self.queue);
        if !queue.rewrite {
            queue.puts.insert(request, route);
            drop(queue);
            match urgent {
                true => self.pace.now(),
                false => self.pace.soon(),
            }
        }
    }

    /// Removes a route: at once if it was not written yet, otherwise with the next batch.
    pub fn remove(&self, request: RequestId) {
        let mut queue = locked(&self.queue);
        if queue.puts.remove(&request).is_none() && !queue.rewrite {
            queue.removes.push(request);
            drop(queue);
            self.pace.soon();
        }
    }

    /// The registry has lost what it held: the routes of all that waits are written again.
    pub fn rewrite(&self) {
        let mut queue = locked(&self.queue);
        *queue = Queue { rewrite: true, ..Queue::default() };
        drop(queue);
        self.pace.soon();
    }

    fn next_batch(&self, pending: &Pending) -> Option<Batch> {
        let mut queue = locked(&self.queue);
        if std::mem::take(&mut queue.rewrite) {
            drop(queue);
            // Removals are queued again from here on, so that a request which ends meanwhile is
            // removed after its route was written.
            return Some(Batch { puts: pending.routes(), removes: Vec::new() });
        }
        let puts: Vec<_> = queue.puts.drain().collect();
        let removes = std::mem::take(&mut queue.removes);
        (!puts.is_empty() || !removes.is_empty()).then_some(Batch { puts, removes })
    }
}

impl Default for Routes {
    fn default() -> Self {
        Self { queue: Mutex::default(), pace: Pace::new(LINGER) }
    }
}

/// Writes the queued routes.
#[expect(missing_debug_implementations, reason = "lives within one call")]
pub struct RouteWriter<'a> {
    /// The routes to write and to remove.
    pub routes: &'a Routes,
    /// The requests whose routes are written when all have to be written again.
    pub pending: &'a Pending,
    /// The registry.
    pub registry: &'a dyn Registry,
    /// The metrics of each call.
    pub telemetry: &'a Telemetry,
}

impl Batches for RouteWriter<'_> {
    fn pace(&self) -> &Pace {
        &self.routes.pace
    }

    async fn write(&self) -> Option<Result<(), RegistryError>> {
        let batch = self.routes.next_batch(self.pending)?;
        let outcome = self.send(&batch).await;
        if outcome.is_err() {
            self.routes.rewrite();
        }
        Some(outcome)
    }
}

impl RouteWriter<'_> {
    async fn send(&self, batch: &Batch) -> Result<(), RegistryError> {
        for puts in batch.puts.chunks(BATCH_MAX) {
            let started = Instant::now();
            self.registry.put_routes(puts).await?;
            self.telemetry.registry_call("put_routes", started.elapsed());
        }
        for removes in batch.removes.chunks(BATCH_MAX) {
            let started = Instant::now();
            self.registry.remove_routes(removes).await?;
            self.telemetry.registry_call("remove_routes", started.elapsed());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use registry::{MemoryRegistry, NodeId, NodeRef, RequestTable};
    use uuid::Uuid;

    use super::*;
    use crate::{
        relay::{cluster::RegistryHealth, write_behind},
        tasks::Tasks,
    };

    fn route() -> Arc<Route> {
        let node = NodeRef { id: NodeId::parse("gw-1").unwrap(), incarnation: 1 };
        Arc::new(Route { node, session: None, client_id: None, deadline_ms: 1 })
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_urgent_route_is_written_before_its_company_came() {
        let (routes, registry) = (Arc::new(Routes::default()), MemoryRegistry::new());
        let (tasks, _lost) = Tasks::new();
        let (written, table) = (Arc::clone(&routes), Arc::new(registry.clone()));
        tasks.long_lived("routes", async move {
            let (pending, telemetry) = (Pending::new(), Telemetry::new());
            let (routes, registry) = (&*written, &*table);
            let writer = RouteWriter { routes, pending: &pending, registry, telemetry: &telemetry };
            write_behind::run(&writer, &RegistryHealth::default()).await;
        });
        let [calm, ended, urgent] = [1, 2, 3].map(|n| RequestId::from_uuid(Uuid::from_u128(n)));
        let all = [calm, ended, urgent];
        let found = async || {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let found = registry.find_routes(&all).await.unwrap();
            found.iter().map(Option::is_some).collect::<Vec<_>>()
        };
        routes.put(calm, route(), false);
        routes.put(ended, route(), false);
        assert_eq!(found().await, [false, false, false]);
        routes.remove(ended);
        routes.put(urgent, route(), true);
        assert_eq!(found().await, [true, false, true]);
        routes.put(ended, route(), false);
        assert_eq!(found().await, [true, false, true]);
        tokio::time::sleep(LINGER).await;
        assert_eq!(found().await, [true, true, true]);
    }
}
