//! The only place that starts tasks: each is named, counted and waited for, and one that ends when
//! it should not stops the node.

use std::{fmt, future::Future};

use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Starts tasks and waits for them. Cheap to clone; all clones share one fate.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    /// Cancelled when the node stops: every long-lived task watches it.
    stop: CancellationToken,
    lost: mpsc::Sender<&'static str>,
}

/// Tells when a long-lived task has been lost.
#[derive(Debug)]
pub struct LostTasks(mpsc::Receiver<&'static str>);

impl Tasks {
    /// An empty set of tasks, and the receiver of what is lost from it.
    pub fn new() -> (Self, LostTasks) {
        // One is enough to stop the node; more need not be told.
        let (lost, receiver) = mpsc::channel(1);
        let tasks = Self { tracker: TaskTracker::new(), stop: CancellationToken::new(), lost };
        (tasks, LostTasks(receiver))
    }

    /// Starts a task that lives until the node stops, and is dropped then. When it ends before, be
    /// it by a panic, [`LostTasks::next`] tells.
    pub fn long_lived(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        drop(self.until(name, &self.stop, async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = task => {}
            }
        }));
    }

    /// Starts a task that may end once `stop` is cancelled, and does so by itself. When it ends
    /// before, be it by a panic, [`LostTasks::next`] tells.
    pub fn until(
        &self,
        name: &'static str,
        stop: &CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let alarm = Alarm { name, stop: stop.clone(), lost: self.lost.clone() };
        self.tracker.spawn(async move {
            let _alarm = alarm;
            task.await;
        })
    }

    /// Starts a task that ends by itself, such as a connection. Its panic is its own.
    pub fn short_lived(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.tracker.spawn(task));
    }

    /// Cancelled when the node stops.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Tells every task to stop, and waits until all have ended. Cancel safe.
    pub async fn stop_and_wait(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("running", &self.tracker.len()).finish_non_exhaustive()
    }
}

impl LostTasks {
    /// The name of a long-lived task that ended too early. Cancel safe.
    pub async fn next(&mut self) -> &'static str {
        match self.0.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }
}

/// Reports a loss when it is dropped before the node stops, also while a panic unwinds.
struct Alarm {
    name: &'static str,
    stop: CancellationToken,
    lost: mpsc::Sender<&'static str>,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() && self.lost.try_send(self.name).is_err() {
            tracing::debug!(task = self.name, "another lost task was told already");
        }
    }
}

/// Takes a lock although a panic elsewhere may have poisoned it: the data behind our locks is valid
/// between any two statements, and the loss of the task that panicked is reported anyway.
pub(crate) fn locked<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
