//! A service that answers when it is told to.

use anyhow::Result;
use tokio::sync::watch;

use super::{Reply, Seen, Worker, WorkerBuilder};

impl WorkerBuilder {
    /// Answers every request with its own bytes, in any partition, while the switch that comes with it is
    /// on. What has been asked before waits for that, or until the switch is dropped.
    ///
    /// # Errors
    /// When Kafka's client cannot be set up.
    pub fn held(self) -> Result<(Worker, watch::Sender<bool>)> {
        self.start_held(|seen| Reply::echo(seen).anywhere())
    }

    /// The same with the record that the closure gives.
    ///
    /// # Errors
    /// When Kafka's client cannot be set up.
    pub fn start_held(
        self,
        behaviour: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Result<(Worker, watch::Sender<bool>)> {
        let (switch, told) = watch::channel(false);
        let worker = self.start(move |seen| {
            let mut told = told.clone();
            let until = async move { drop(told.wait_for(|told| *told).await) };
            vec![behaviour(seen).when(until)]
        })?;
        Ok((worker, switch))
    }
}
