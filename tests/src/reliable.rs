//! Clients that keep one session whatever happens, as the contract wants it of them: they
//! acknowledge, come back after every end that allows it, resume, ask again for what is unanswered,
//! and keep book of every frame.
//!
//! * [`directory`]: where nodes are, and what was done to them
//! * [`ledger`]: what was asked and told, and whether it was allowed
//! * `client`: the connections of one of them
//!
//! What has come of it is an [`Account`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    SOON,
    account::Account,
    eventually,
    reliable::{client::Client, directory::Directory, ledger::Ledger},
};

mod client;
pub mod directory;
pub mod ledger;

/// What clients do.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Whether they acknowledge what they get. Those who do not never ask again for anything: what
    /// was answered meanwhile would be done twice.
    pub reliable: bool,
    /// Each request goes to any of these.
    pub services: Vec<String>,
    /// Requests per second of each client.
    pub rate: f64,
    /// How many requests of a client may wait at a time; at this many it asks no more.
    pub depth_max: usize,
    /// The time limit of each request.
    pub timeout: Duration,
    /// A connection that says nothing for so long, not even to a ping, is given up.
    pub silence_max: Duration,
    /// How long a connection is kept on average before its client goes elsewhere.
    pub roam: Option<Duration>,
    /// What their choices follow from.
    pub seed: u64,
}

/// How far they all are.
#[derive(Debug, Default)]
pub struct Progress {
    pub accepted: AtomicU64,
    pub answered: AtomicU64,
}

/// Running clients.
#[derive(Debug)]
pub struct Crowd {
    stop: CancellationToken,
    progress: Arc<Progress>,
    clients: JoinSet<Account>,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            reliable: true,
            services: vec!["echo".to_owned()],
            rate: 10.0,
            depth_max: 200,
            timeout: Duration::from_secs(60),
            silence_max: Duration::from_secs(5),
            roam: None,
            seed: 0,
        }
    }
}

impl Crowd {
    /// Starts so many clients.
    pub fn start(profile: &Profile, clients: usize, directory: &Arc<Directory>) -> Self {
        let (stop, progress) = (CancellationToken::new(), Arc::<Progress>::default());
        let mut tasks = JoinSet::new();
        let mut rng = StdRng::seed_from_u64(profile.seed);
        // Two crowds in one cluster have payloads of their own, even of the same seed.
        let crowd = Uuid::new_v4().simple().to_string();
        for index in 0..clients {
            let name = format!("{}-{index}", &crowd[..8]);
            let ledger = Ledger::new(name, profile, Arc::clone(directory), Arc::clone(&progress));
            let rng = StdRng::seed_from_u64(rng.random());
            let client = Client::new(profile.clone(), index, Arc::clone(directory), ledger, rng);
            tasks.spawn(client.run(stop.clone()));
        }
        Self { stop, progress, clients: tasks }
    }

    /// How many requests have been accepted so far.
    pub fn accepted(&self) -> u64 {
        self.progress.accepted.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests have been answered.
    ///
    /// # Errors
    /// When they have not soon.
    pub async fn goes_on(&self, more: u64) -> Result<()> {
        let answered = || self.progress.answered.load(Ordering::Relaxed);
        let before = answered();
        eventually(SOON * 2, "requests are answered", async || {
            let now = answered();
            ensure!(now >= before + more, "{} of {more}", now - before);
            Ok(())
        })
        .await
    }

    /// Asks no more, waits for what is in flight, and sums up.
    ///
    /// # Errors
    /// When a client has panicked.
    pub async fn finish(mut self) -> Result<Account> {
        self.stop.cancel();
        let mut total = Account::default();
        while let Some(account) = self.clients.join_next().await {
            total.add(account?);
        }
        Ok(total)
    }
}
