//! The steps of a drain: how long each may take, and what is logged meanwhile. Their order is in
//! `drain`.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::relay::Relay;

/// How long each step of a drain may take during which nobody is served. None of these steps may
/// use up the whole grace: other nodes will find what a checkpoint or an acknowledgement has not
/// come for by then.
pub(super) const COPIES_WITHIN: Duration = Duration::from_secs(5);
pub(super) const READERS_WITHIN: Duration = Duration::from_secs(4);
pub(super) const RECORDS_WITHIN: Duration = Duration::from_secs(5);
pub(super) const TABLE_WITHIN: Duration = Duration::from_secs(3);
pub(super) const TASKS_WITHIN: Duration = Duration::from_secs(3);

/// What the steps of a drain have in common.
pub(super) struct Steps {
    deadline: Instant,
    relay: Arc<Relay>,
}

impl Steps {
    pub(super) fn new(deadline: Instant, relay: &Arc<Relay>) -> Self {
        Self { deadline, relay: Arc::clone(relay) }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Runs one step, for this time at most, and so that this much of the grace is left for the
    /// steps after it.
    pub(super) async fn within<T>(
        &self,
        within: Duration,
        left: Duration,
        step: &'static str,
        work: impl Future<Output = T>,
    ) {
        let until = (Instant::now() + within).min(self.deadline - left);
        self.until(until, step, work).await;
    }

    /// Runs one step, until this time at most. Logs once a second what it still waits for.
    pub(super) async fn until<T>(
        &self,
        until: Instant,
        step: &'static str,
        work: impl Future<Output = T>,
    ) {
        let mut work = std::pin::pin!(work);
        loop {
            let look = (Instant::now() + Duration::from_secs(1)).min(until);
            if tokio::time::timeout_at(look, work.as_mut()).await.is_ok() {
                return;
            }
            let waits = self.waits();
            if Instant::now() >= until {
                return tracing::warn!(step, %waits, "not finished in time; left behind");
            }
            tracing::info!(step, %waits, "still draining");
        }
    }

    /// How much there is to wait for, of each kind.
    pub(super) fn waits(&self) -> String {
        let relay = &self.relay;
        let (served, requests) = (relay.gate.served(), relay.completion.pending.len());
        let dismissed = relay.gate.connections().saturating_sub(served);
        let (calls, copies) = (relay.completion.pending.calls(), relay.checkpoints.len());
        let records = relay.unacknowledged();
        format!(
            "{served} connections, {dismissed} that are told good-bye, {requests} requests \
             ({calls} of them HTTP calls), {copies} copies of sessions, {records} records"
        )
    }
}

/// Ready once the condition holds.
pub(super) async fn holds(that: impl Fn() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    while !that() {
        tick.tick().await;
    }
}
