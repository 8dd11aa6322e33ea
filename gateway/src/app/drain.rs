//! A node's ordered end: who is told when, what is written, what stops. Owns the order of the
//! steps; their limits and log lines are in `steps`.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use registry::NodeState;
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::steps::{self, Steps, holds};
use crate::{bus::Producer, config::ShutdownConfig, error::CloseCode, relay::Relay, tasks::Tasks};

/// The end of `shutdown.grace` that is reserved for telling those who could not be answered, and
/// for leaving in order.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);

/// Cancelled in this order, each to stop one part.
#[derive(Clone, Debug, Default)]
pub struct Stops {
    /// No more clients are let in.
    pub accepting: CancellationToken,
    /// No more topics are read.
    pub reading: CancellationToken,
    /// Peers may not call any more.
    pub internal: CancellationToken,
}

/// The node that is drained.
#[derive(Debug)]
pub struct Drain {
    /// How long it may take.
    pub config: ShutdownConfig,
    /// The relay, with all that the node holds.
    pub relay: Arc<Relay>,
    /// The producer, which has to be flushed.
    pub producer: Arc<dyn Producer>,
    /// All tasks of the node.
    pub tasks: Tasks,
    /// Tells the parts to stop.
    pub stops: Stops,
    /// The tasks that read topics.
    pub readers: Vec<JoinHandle<()>>,
}

impl Drain {
    /// How many sockets to close per second, so that all have had their turn half-way to the end.
    fn pace(&self, end: Instant) -> u32 {
        let time = end.saturating_duration_since(Instant::now()).as_secs_f64() / 2.0;
        let needed = (self.relay.gate.served() as f64 / time.max(0.1)).ceil() as u32;
        needed.max(self.config.closes_per_second)
    }

    /// The ordered end, within `shutdown.grace`: each step has a bound of its own, and what it cannot
    /// finish is left behind.
    pub async fn run(self) {
        let grace = self.config.grace;
        let farewell = FAREWELL.min(grace / 2);
        let steps = Steps::new(Instant::now() + grace, &self.relay);
        let end = steps.deadline() - farewell;
        let waits = steps.waits();
        tracing::info!(%waits, sessions = self.relay.sessions.len(), "draining");
        // 1. Not ready; peers see it.
        self.relay.gate.drain();
        self.relay.membership.set_state(NodeState::Draining);
        // 2. No new connections. HTTP calls that wait go on.
        self.stops.accepting.cancel();
        // 3. Sockets close one after the other: those of sessions that go on elsewhere without loss
        // at once, the others when they are owed nothing. HTTP calls that wait are answered, as far
        // as the services answer in time.
        steps.until(end, "sockets", self.relay.lifecycle.close_connections(self.pace(end))).await;
        let is_idle =
            || self.relay.completion.pending.calls() == 0 && self.relay.gate.served() == 0;
        steps.until(end, "answers", holds(is_idle)).await;
        // 4. HTTP callers are told that they will not be answered; sessions go with what they are
        //    owed and what they wait for, which the registry has now.
        let given_up = self.relay.completion.give_up_calls();
        self.relay.sessions.close(CloseCode::Draining);
        let is_written =
            || self.relay.checkpoints.is_empty() && self.relay.completion.results.is_empty();
        let is_gone = || self.relay.gate.served() == 0 && is_written();
        steps
            .within(steps::COPIES_WITHIN, farewell / 2, "copies of sessions", holds(is_gone))
            .await;
        // 5. Store offsets, leave the groups.
        self.stops.reading.cancel();
        let readers = join_all(self.readers);
        steps.within(steps::READERS_WITHIN, farewell / 4, "readers", readers).await;
        // 6. What is still with the producer.
        let flushed = self.producer.flush(grace);
        steps.within(steps::RECORDS_WITHIN, farewell / 8, "records", flushed).await;
        // 7. Out of the node table; peers may not call any more.
        steps
            .within(steps::TABLE_WITHIN, farewell / 16, "node table", self.relay.membership.leave())
            .await;
        self.stops.internal.cancel();
        // 8. The rest: sockets whose clients have not read the close frame yet. A client that reads
        // nothing at all delays none of the above.
        steps
            .within(steps::TASKS_WITHIN, Duration::ZERO, "tasks", self.tasks.stop_and_wait())
            .await;
        tracing::info!(given_up, "drained");
    }
}
