//! Writes to the registry behind the backs of those who need them: what is to be written gathers in a
//! queue, which one loop empties batch by batch, and fills anew from memory after any trouble.

use std::time::Duration;

use registry::RegistryError;
use tokio::sync::Notify;

use super::cluster::RegistryHealth;

/// Between two attempts while the registry cannot be reached.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// When a queue is emptied: soon, so that more comes along, or now.
#[derive(Debug)]
pub struct Pace {
    wake: Notify,
    hurry: Notify,
    linger: Duration,
}

impl Pace {
    /// What is not urgent waits so long for company.
    pub fn new(linger: Duration) -> Self {
        Self { wake: Notify::new(), hurry: Notify::new(), linger }
    }

    /// There is something to write.
    pub fn soon(&self) {
        self.wake.notify_one();
    }

    /// The same, and somebody waits for it.
    pub fn now(&self) {
        self.wake.notify_one();
        self.hurry.notify_one();
    }

    async fn turn(&self) {
        self.wake.notified().await;
        tokio::select! {
            biased;
            () = self.hurry.notified() => {}
            () = tokio::time::sleep(self.linger) => {}
        }
    }
}

/// A queue, and how its batches are written.
pub trait Batches {
    /// When it is emptied.
    fn pace(&self) -> &Pace;

    /// Writes all that is queued; `None` where that is nothing. What could not be written is queued
    /// again, as it is by then.
    ///
    /// # Errors
    /// The registry could not do it. Not cancel safe: a batch that is dropped is lost.
    fn write(&self) -> impl Future<Output = Option<Result<(), RegistryError>>> + Send;
}

/// Empties a queue for as long as the node lives.
pub async fn run(batches: &impl Batches, health: &RegistryHealth) {
    loop {
        batches.pace().turn().await;
        let Some(outcome) = batches.write().await else { continue };
        health.set_reachable(outcome.is_ok());
        if let Err(error) = outcome {
            tracing::debug!(%error, "not written behind");
            tokio::time::sleep(RETRY_INTERVAL).await;
            batches.pace().soon();
        }
    }
}
