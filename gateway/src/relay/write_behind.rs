//! Writes to the registry in the background: what is to be written gathers in a queue, which one
//! loop empties batch by batch. After any failure the queue is filled again from memory.

use std::{pin::pin, time::Duration};

use tokio::{sync::Notify, time::sleep};

/// The pause between two attempts to write what could not be written.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// When a queue is emptied: after a moment, so that more fits into a batch, or now; and a little later
/// once more, if something could not be written.
#[derive(Debug)]
pub struct Pace {
    wake: Notify,
    hurry: Notify,
    aside: Notify,
    linger: Duration,
}

impl Pace {
    /// How long a write that is not urgent waits for others to share its batch.
    pub fn new(linger: Duration) -> Self {
        let (wake, hurry, aside) = Default::default();
        Self { wake, hurry, aside, linger }
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

    /// Something could not be written, and was put aside.
    pub fn later(&self) {
        self.aside.notify_one();
    }

    /// Whoever cancels it has something to write as well, and writes all there is.
    async fn turn(&self) {
        self.wake.notified().await;
        tokio::select! {
            biased;
            () = self.hurry.notified() => {}
            () = sleep(self.linger) => {}
        }
    }

    async fn retry(&self) {
        self.aside.notified().await;
        sleep(RETRY_INTERVAL).await;
    }
}

/// A queue, and how its batches are written to the registry.
pub trait Batches {
    /// When it is emptied.
    fn pace(&self) -> &Pace;

    /// Writes all that is queued, and puts aside what could not be written. Not cancel safe: a batch
    /// that is dropped is lost.
    fn write(&self) -> impl Future<Output = ()> + Send;

    /// Queues again what was put aside, as it is by now.
    fn try_again(&self);
}

/// Empties a queue for as long as the node lives. What could not be written holds up nothing else: a
/// part of the registry may be away while the rest is not.
pub async fn run(batches: &impl Batches) {
    let pace = batches.pace();
    let mut retry = pin!(pace.retry());
    loop {
        tokio::select! {
            biased;
            () = &mut retry => {
                batches.try_again();
                retry.set(pace.retry());
            }
            () = pace.turn() => {}
        }
        batches.write().await;
    }
}
