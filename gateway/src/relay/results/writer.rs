//! Writes results to the registry in the background, and again what it could not take.

use registry::{Arrival, Expectation, RequestId};
use tokio::time::Instant;

use super::{OfThisNode, Results, Unwritten};
use crate::{
    relay::write_behind::{Batches, Pace},
    tasks::locked,
};

/// How many go in one round trip, at most.
const BATCH_MAX: usize = 256;
/// How many bytes of results go in one round trip, unless one has more.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Writes what is queued.
#[expect(missing_debug_implementations, reason = "lives within one call")]
pub struct ResultWriter<'a>(pub &'a Results);

impl Batches for ResultWriter<'_> {
    fn pace(&self) -> &Pace {
        &self.0.pace
    }

    async fn write(&self) {
        self.expect_again().await;
        let mut left = std::mem::take(&mut locked(&self.0.queue).fresh);
        while !left.is_empty() {
            let batch = self.take_batch(&mut left);
            let answers = self.0.store_all(&batch).await;
            let mut queue = locked(&self.0.queue);
            for (Arrival { request, .. }, answer) in batch.into_iter().zip(answers) {
                match answer {
                    Ok(_) => {
                        if let Some(Unwritten { guard: Some(guard), .. }) =
                            queue.unwritten.remove(&request)
                        {
                            guard.done();
                        }
                    }
                    Err(_) => queue.failed.push(request),
                }
            }
            if !queue.failed.is_empty() {
                self.0.pace.later();
            }
        }
    }

    fn try_again(&self) {
        let mut queue = locked(&self.0.queue);
        let failed = std::mem::take(&mut queue.failed);
        queue.fresh.extend(failed);
    }
}

impl ResultWriter<'_> {
    /// As many as go in one round trip.
    fn take_batch(&self, left: &mut Vec<RequestId>) -> Vec<Arrival> {
        let queue = locked(&self.0.queue);
        let mut bytes = 0;
        let fits = |request: &&RequestId| {
            bytes += queue.unwritten.get(request).map_or(0, |one| one.arrival.result.len());
            bytes <= BATCH_BYTES_MAX
        };
        let count = left.iter().take(BATCH_MAX).take_while(fits).count().max(1);
        let arrival = |request| Some(queue.unwritten.get(&request)?.arrival.clone());
        left.drain(..count.min(left.len())).filter_map(arrival).collect()
    }

    /// Notes again what the registry has lost.
    async fn expect_again(&self) {
        let expected: Vec<Expectation> = {
            let mut queue = locked(&self.0.queue);
            if !std::mem::take(&mut queue.rewrite) {
                return;
            }
            let expectation =
                |(request, one): (&RequestId, &OfThisNode)| self.0.expectation(*request, one);
            queue.expected.iter().map(expectation).collect()
        };
        for expected in expected.chunks(BATCH_MAX) {
            let started = Instant::now();
            let answers = self.0.registry.expect_results(expected).await;
            self.0.telemetry.registry_call("expect_results", started.elapsed());
            self.0.membership.health.heard(&answers);
            if answers.iter().any(Result::is_err) {
                locked(&self.0.queue).rewrite = true;
                self.0.pace.later();
            }
        }
    }
}
