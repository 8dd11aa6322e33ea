//! A fault under load: a cluster, services of several kinds, clients that keep their sessions, and
//! one fault, once or again and again.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep_until};

use crate::{
    account::{Account, Allowance},
    cluster::Cluster,
    faults::{Fault, Promise},
    reliable::{Crowd, Profile, directory::Directory},
    worker::{Reply, Worker},
};

/// Answered at once where it was asked, later, or later and anywhere.
pub const SERVICES: [&str; 3] = ["swift", "slow", "astray"];
/// The slow ones answer within this.
const SLOW_MAX: Duration = Duration::from_millis(500);
/// Between two connections of a client that roams, so that nodes which join get some.
const ROAM: Duration = Duration::from_secs(3);

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct Drill {
    pub fault: Fault,
    pub nodes: usize,
    pub clients: usize,
    /// Requests per second of all clients together.
    pub rate: f64,
    pub seed: u64,
    /// The fault strikes again until so many requests were accepted; at least once.
    pub requests: u64,
    /// From one strike to the next.
    pub period: Duration,
    /// Seconds of load before it is counted: a broker that has just been started takes the machine for
    /// itself, and services that still join their groups let the first requests wait.
    pub warm_up: u32,
    /// Whether the broker is the cluster's own, just started.
    pub cold: bool,
    /// How many times longer than promised clients may wait, since the machine of a test has more
    /// to do.
    pub slack: u32,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub account: Account,
    pub strikes: usize,
    /// Requests of which the services have seen more than one record.
    pub produced_again: usize,
    /// Whether the cluster recovered each time, and drained in good order in the end.
    pub ended_well: Result<()>,
    promise: Promise,
}

impl Drill {
    /// A small drill for a test, in which the fault strikes once.
    pub fn small(fault: Fault, seed: u64) -> Self {
        let (rate, requests, period, warm_up) = (300.0, 0, Duration::ZERO, 1);
        let (cold, slack) = (false, 3);
        Self { fault, nodes: 3, clients: 20, rate, seed, requests, period, warm_up, cold, slack }
    }

    /// Runs it. `progress` is told what has been accepted, after each strike.
    ///
    /// # Errors
    /// When it cannot even begin, or a client of the harness fails. What the gateway does wrong is in
    /// the outcome.
    pub async fn run(&self, mut progress: impl FnMut(usize, u64)) -> Result<Outcome> {
        let mut cluster = self.cluster().await?;
        let services = services(&cluster)?;
        cluster.balanced().await?;
        let directory = Arc::<Directory>::default();
        self.fault.list(&cluster, &directory);
        let mut rng = StdRng::seed_from_u64(self.seed);
        let profile = Profile {
            services: self.fault.services(&SERVICES).iter().map(|&name| name.to_owned()).collect(),
            rate: self.rate / self.clients as f64,
            roam: self.fault.needs_roaming().then_some(ROAM),
            seed: rng.random(),
            ..Profile::default()
        };
        self.warm_up(&profile, &directory).await?;
        let crowd = Crowd::start(&profile, self.clients, &directory);
        let mut strikes = 0;
        let recovers = async {
            crowd.goes_on(self.rate as u64).await?;
            while strikes == 0 || crowd.accepted() < self.requests {
                let next = Instant::now() + self.period;
                self.fault.strike(&mut cluster, &directory, &mut rng).await?;
                crowd.goes_on(self.rate as u64).await?;
                strikes += 1;
                progress(strikes, crowd.accepted());
                if crowd.accepted() < self.requests {
                    sleep_until(next).await;
                }
            }
            Ok(())
        };
        let recovers: Result<()> = recovers.await;
        // A cluster that has not recovered has an account all the same.
        let account = crowd.finish().await?;
        let produced_again = services.iter().map(Worker::produced_again).sum();
        let ended_well = match recovers {
            Ok(()) => cluster.finish().await,
            failed => failed,
        };
        let promise = self.promise();
        Ok(Outcome { account, strikes, produced_again, ended_well, promise })
    }

    /// What is promised of the fault. How long a broker that has just been started lets its clients
    /// wait depends on the machine alone.
    fn promise(&self) -> Promise {
        let promise = self.fault.promise();
        let survivors_wait_max = promise.survivors_wait_max.filter(|_| !self.cold);
        let survivors_wait_max = survivors_wait_max.map(|most| most * self.slack);
        Promise { survivors_wait_max, ..promise }
    }

    async fn warm_up(&self, profile: &Profile, directory: &Arc<Directory>) -> Result<()> {
        let crowd = Crowd::start(profile, self.clients, directory);
        let warms = async {
            for _ in 0..self.warm_up {
                crowd.goes_on(self.rate as u64).await?;
            }
            Ok(())
        };
        let warm: Result<()> = warms.await;
        crowd.finish().await?.check(&Allowance::default())?;
        warm.context("before anything has happened")
    }

    async fn cluster(&self) -> Result<Cluster> {
        let builder = Cluster::builder().nodes(self.nodes);
        let builder = SERVICES.into_iter().fold(builder, |builder, name| builder.service(name));
        let builder = if self.cold { builder.own_kafka(&[]) } else { builder };
        // Four partitions for each node there will be.
        let partitions = i32::try_from(4 * self.nodes).context("so many nodes")?;
        self.fault.prepare(builder.reply_partitions(partitions)).start().await
    }
}

impl Outcome {
    /// Checks that the promises of that fault were kept.
    ///
    /// # Errors
    /// When one was not.
    pub fn check(self, fault: Fault) -> Result<()> {
        self.ended_well.with_context(|| format!("{fault}: {}", self.account))?;
        let promise = self.promise;
        self.account.check(&promise.allowed)?;
        let waited = self.account.longest_wait_of_survivors;
        let kept = promise.survivors_wait_max.is_none_or(|most| waited <= most);
        ensure!(kept, "{fault}: callers on nodes that were well waited {waited:?}");
        // A registry that goes back must not cost a client the connection that it has.
        let closes = &self.account.closes;
        let is_taken =
            fault == Fault::RedisOlder && [1012, 4002].iter().any(|c| closes.contains_key(c));
        ensure!(!is_taken, "{fault}: connections were closed: {closes:?}");
        // A node that is killed may not have known that Kafka had a record, and its client asks again.
        // And where a record's time has run out unacknowledged, the producer writes those behind it
        // anew, in a sequence in which the broker does not recognise what it has.
        let again = self.produced_again;
        let may_be = promise.allowed.repeats || self.account.unserved > 0;
        ensure!(again == 0 || may_be, "{fault}: {again} produced again");
        Ok(())
    }
}

/// Starts the services.
///
/// # Errors
/// When Kafka's client cannot be set up.
pub fn services(cluster: &Cluster) -> Result<Vec<Worker>> {
    let late = || SLOW_MAX.mul_f64(rand::rng().random_range(0.0..1.0));
    Ok(vec![
        cluster.worker("swift").echo()?,
        cluster.worker("slow").start(move |seen| vec![Reply::echo(seen).after(late())])?,
        cluster
            .worker("astray")
            .start(move |seen| vec![Reply::echo(seen).anywhere().after(late())])?,
    ])
}
