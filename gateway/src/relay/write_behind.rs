//! Writes to the registry in the background: what is to be written gathers in a queue, which one
//! loop empties batch by batch. After any failure the queue is filled again from memory.

use std::time::Duration;

use registry::RegistryError;
use tokio::sync::Notify;

use super::cluster::RegistryHealth;

/// The pause between two attempts while the registry cannot be reached.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// When a queue is emptied: after a moment, so that more fits into a batch, or now.
#[derive(Debug)]
pub struct Pace {
    wake: Notify,
    hurry: Notify,
    linger: Duration,
}

impl Pace {
    /// How long a write that is not urgent waits for others to share its batch.
    pub fn new(linger: Duration) -> Self {
        Self { wake: Notify::new(), hurry: Notify::new(), linger }
    }

    /// There is something to write.
    pub fn soon(&self) {
        self.wake.notify_one();
    }

    /// There is something to write, and somebody waits for it.
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

/// A queue, and how its batches are written to the registry.
pub trait Batches {
    /// When it is emptied.
    fn pace(&self) -> &Pace;

    /// Writes all that is queued; `None` if the queue is empty. What could not be written is queued
    /// again, in the state that it has by then.
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
