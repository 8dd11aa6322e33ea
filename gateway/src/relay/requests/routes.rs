//! Writes this node's routes to the registry in the background: in batches, in order, and again
//! when the registry has lost them, or could not take them.
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
    relay::{
        cluster::RegistryHealth,
        write_behind::{Batches, Pace},
    },
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
    /// What could not be written. Of these, those that still wait are tried again.
    failed: Vec<RequestId>,
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

    /// These could not be written.
    pub fn failed(&self, requests: impl IntoIterator<Item = RequestId>) {
        let mut queue = locked(&self.queue);
        queue.failed.extend(requests);
        if !queue.failed.is_empty() {
            self.pace.later();
        }
    }

    fn next_batch(&self, pending: &Pending) -> Batch {
        let mut queue = locked(&self.queue);
        if std::mem::take(&mut queue.rewrite) {
            drop(queue);
            // Removals are queued again from here on, so that a request which ends meanwhile is
            // removed after its route was written.
            return Batch { puts: pending.routes(), removes: Vec::new() };
        }
        let puts = queue.puts.drain().collect();
        Batch { puts, removes: std::mem::take(&mut queue.removes) }
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
    /// The requests whose routes are written when some have to be written again.
    pub pending: &'a Pending,
    /// The registry.
    pub registry: &'a dyn Registry,
    /// Whether the registry answers.
    pub health: &'a RegistryHealth,
    /// The metrics of each call.
    pub telemetry: &'a Telemetry,
}

impl Batches for RouteWriter<'_> {
    fn pace(&self) -> &Pace {
        &self.routes.pace
    }

    async fn write(&self) {
        let Batch { puts, removes } = self.routes.next_batch(self.pending);
        self.put(&puts).await;
        self.remove(&removes).await;
    }

    fn try_again(&self) {
        let failed = std::mem::take(&mut locked(&self.routes.queue).failed);
        let route = |request| self.pending.look(request, |entry| Arc::clone(&entry.route));
        let waiting: Vec<_> =
            failed.into_iter().filter_map(|request| Some((request, route(request)?))).collect();
        locked(&self.routes.queue).puts.extend(waiting);
    }
}

impl RouteWriter<'_> {
    async fn put(&self, puts: &[(RequestId, Arc<Route>)]) {
        for puts in puts.chunks(BATCH_MAX) {
            let started = Instant::now();
            let answers = self.registry.put_routes(puts).await;
            self.telemetry.registry_call("put_routes", started.elapsed());
            self.health.heard(&answers);
            let failed = |((request, _), answer): (&(RequestId, _), Result<(), RegistryError>)| {
                let error = answer.err()?;
                tracing::debug!(%request, %error, "route not written");
                Some(*request)
            };
            self.routes.failed(puts.iter().zip(answers).filter_map(failed));
        }
    }

    /// What is not removed expires by itself.
    async fn remove(&self, removes: &[RequestId]) {
        for removes in removes.chunks(BATCH_MAX) {
            let started = Instant::now();
            self.health.heard(&self.registry.remove_routes(removes).await);
            self.telemetry.registry_call("remove_routes", started.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use registry::{MemoryRegistry, NodeId, NodeRef, RequestTable, all, faulty::FaultyRegistry};
    use uuid::Uuid;

    use super::*;
    use crate::{relay::write_behind, tasks::Tasks};

    fn route() -> Arc<Route> {
        let node = NodeRef { id: NodeId::parse("gw-1").unwrap(), incarnation: 1 };
        Arc::new(Route { node, session: None, client_id: None, deadline_ms: 1, may_be_part: false })
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_urgent_route_is_written_before_its_company_came() {
        let (routes, registry) = (Arc::new(Routes::default()), MemoryRegistry::new());
        let (tasks, _lost) = Tasks::new();
        let (written, table) = (Arc::clone(&routes), Arc::new(registry.clone()));
        tasks.long_lived("routes", async move {
            let (pending, telemetry) = (&Pending::new(), &Telemetry::new());
            let (routes, registry, health) = (&*written, &*table, &RegistryHealth::default());
            write_behind::run(&RouteWriter { routes, pending, registry, health, telemetry }).await;
        });
        let [calm, ended, urgent] = [1, 2, 3].map(|n| RequestId::from_uuid(Uuid::from_u128(n)));
        let all = [calm, ended, urgent];
        let found = async || {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let found = registry::all(registry.find_routes(&all).await).unwrap();
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

    #[tokio::test(start_paused = true)]
    async fn a_part_of_the_registry_that_is_away_holds_up_its_own_routes_alone() {
        let (routes, registry) = (Routes::default(), FaultyRegistry::default());
        let (pending, telemetry) = (&Pending::new(), &Telemetry::new());
        let id = |number| RequestId::from_uuid(Uuid::from_u128(number));
        let [away, over, there] = [0, 3, 1].map(id);
        let found = async || {
            let found = all(registry.memory.find_routes(&[away, over, there]).await).unwrap();
            found.iter().map(Option::is_some).collect::<Vec<_>>()
        };
        registry.set_part_away(0);
        pending.insert(away, crate::relay::requests::pending::tests::entry(60));
        for request in [away, over, there] {
            routes.put(request, route(), false);
        }
        let health = &RegistryHealth::default();
        let (queue, table) = (&routes, &registry);
        let writer = RouteWriter { routes: queue, pending, registry: table, health, telemetry };
        let goes_on = async {
            tokio::time::sleep(Duration::from_millis(600)).await;
            assert_eq!(found().await, [false, false, true]);
            assert!(health.is_reachable());
            registry.set_away(false);
            tokio::time::sleep(Duration::from_millis(250)).await;
            assert_eq!(found().await, [true, false, true], "nobody waits for one of them any more");
        };
        tokio::select! {
            () = write_behind::run(&writer) => panic!("it ends with the node"),
            () = goes_on => {}
        }
    }
}
