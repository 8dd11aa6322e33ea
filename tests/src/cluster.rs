//! A cluster of gateway processes with its own topics and keys.
//!
//! A test ends with [`Cluster::finish`], which drains every node and wants exit code 0. A cluster
//! that is dropped without it has failed: its logs are kept, and their ends are shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;

pub use builder::ClusterBuilder;
pub use node::{Node, listening};

use crate::{
    SOON, eventually,
    infra::{kafka::Kafka, redis::Redis},
    process::{keep_files, tail},
    worker::{Partitioner, Worker, WorkerBuilder},
};

mod builder;
mod node;

/// What the nodes authenticate each other with.
pub const SECRET: &str = "not-a-secret-in-tests";

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    tag: String,
    dir: PathBuf,
    reply_partitions: i32,
    finished: bool,
    /// What further nodes are made with.
    recipe: ClusterBuilder,
    redis: Arc<Redis>,
    /// After the nodes: a Kafka client without its broker takes long to close.
    kafka: Arc<Kafka>,
}

impl Cluster {
    /// A cluster of one node, to be changed.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::new()
    }

    /// A node, counted from 0.
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// A node, to do something to it.
    pub fn node_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }

    /// Starts one more node, waits until it is ready, and gives its number.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_node(&mut self) -> Result<usize> {
        let index = self.prepare_node().await?;
        self.nodes[index].start()?;
        self.nodes[index].ready().await?;
        Ok(index)
    }

    async fn prepare_node(&mut self) -> Result<usize> {
        let node = self.recipe.node(self).await?;
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Its broker.
    pub fn kafka(&self) -> &Arc<Kafka> {
        &self.kafka
    }

    /// Its Redis server.
    pub fn redis(&self) -> &Arc<Redis> {
        &self.redis
    }

    /// What the names of its topics and keys begin with.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// How many partitions its reply topic has.
    pub fn reply_partitions(&self) -> i32 {
        self.reply_partitions
    }

    /// The full name of a topic: `replies`, `SERVICE.requests` or one of the builder's.
    pub fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.tag)
    }

    /// A backend for that service.
    pub fn worker(&self, service: &str) -> WorkerBuilder {
        WorkerBuilder {
            kafka: Arc::clone(&self.kafka),
            topic: self.topic(&format!("{service}.requests")),
            group: format!("{}.{service}", self.tag),
            reply_partitions: self.reply_partitions,
            partitioner: Partitioner::default(),
            compression: "none",
        }
    }

    /// A consumer of all records of one of its topics, from the beginning.
    ///
    /// # Errors
    /// When Kafka's client cannot be set up.
    pub fn tap(&self, topic: &str) -> Result<Worker> {
        let group = format!("{}.tap.{topic}", self.tag);
        let topic = self.topic(topic);
        WorkerBuilder { topic, group, ..self.worker("") }.silent()
    }

    /// Waits until each node is ready.
    ///
    /// # Errors
    /// When one is not soon.
    pub async fn ready(&self) -> Result<()> {
        for node in &self.nodes {
            eventually(SOON, "the node is ready", async || node.is_ready().await).await?;
        }
        Ok(())
    }

    /// Waits until the reply topic's partitions are spread evenly over the nodes that run.
    ///
    /// # Errors
    /// When they are not soon.
    pub async fn balanced(&self) -> Result<()> {
        let topic = self.topic("replies");
        let running: Vec<&Node> = self.nodes.iter().filter(|node| node.is_started()).collect();
        let share = self.reply_partitions as usize / running.len();
        eventually(SOON, "the partitions are spread evenly", async || {
            let mut owned = Vec::new();
            for node in &running {
                owned.push(node.partitions(&topic).await?);
            }
            let all: BTreeSet<i32> = owned.iter().flatten().copied().collect();
            let sum: usize = owned.iter().map(BTreeSet::len).sum();
            let count = self.reply_partitions as usize;
            let even = owned.iter().all(|partitions| partitions.len() >= share);
            ensure!(all.len() == count && sum == count && even, "{owned:?}");
            Ok(())
        })
        .await
    }

    /// The sum of a metric over the nodes that run.
    ///
    /// # Errors
    /// When a node does not answer.
    pub async fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let mut sum = 0.0;
        for node in self.nodes.iter().filter(|node| node.is_started()) {
            sum += node.metrics().await?.sum(name, labels);
        }
        Ok(sum)
    }

    /// Drains every node that runs, all at once, and removes the logs.
    ///
    /// # Errors
    /// When a node ends with anything but exit code 0.
    pub async fn finish(mut self) -> Result<()> {
        let mut codes = BTreeMap::new();
        for node in self.nodes.iter_mut().filter(|node| node.is_started()) {
            node.process()?.signal(Signal::SIGTERM)?;
        }
        for node in self.nodes.iter_mut().filter(|node| node.is_started()) {
            codes.insert(node.id().to_owned(), node.exit_code().await?);
        }
        if codes.values().any(|code| *code != 0) {
            bail!("nodes did not drain cleanly: {codes:?}");
        }
        ensure!(!std::thread::panicking(), "finished while failing");
        self.finished = true;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.kill();
        }
        if self.finished {
            // The folder of the whole run is removed later in any case.
            drop(fs::remove_dir_all(&self.dir));
            return;
        }
        keep_files();
        let mut report = format!("logs of a failed test are in {}\n", self.dir.display());
        for node in &self.nodes {
            report +=
                &format!("--- the end of {}\n{}\n", node.log().display(), tail(node.log(), 30));
        }
        // The test runner shows what a failed test has written.
        crate::say(&report);
    }
}
