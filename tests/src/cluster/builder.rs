//! What a cluster is made of: its configuration, its topics, its servers.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use toml::{Table, Value};
use uuid::Uuid;

use crate::{
    cluster::{Cluster, Node, SECRET},
    infra::{kafka::Kafka, node_program, proxy::Proxy, redis::Redis},
    process::run_dir,
};

/// What a cluster is made of, before it runs.
#[derive(Debug)]
pub struct ClusterBuilder {
    nodes: usize,
    services: Vec<String>,
    topics: Vec<(String, i32)>,
    config: Vec<String>,
    reply_partitions: i32,
    own_kafka: Option<Vec<String>>,
    own_redis: bool,
    proxied: bool,
    log_filter: Option<String>,
    program: Option<PathBuf>,
    later: Vec<(usize, &'static str)>,
    descriptors: Option<u32>,
}

impl ClusterBuilder {
    pub(super) fn new() -> Self {
        Self {
            nodes: 1,
            services: Vec::new(),
            topics: Vec::new(),
            config: Vec::new(),
            reply_partitions: 12,
            own_kafka: None,
            own_redis: false,
            proxied: false,
            log_filter: None,
            program: None,
            later: Vec::new(),
            descriptors: None,
        }
    }

    /// How many nodes; one, unless said otherwise.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// A service with a request topic of four partitions.
    #[must_use]
    pub fn service(mut self, name: &str) -> Self {
        self.services.push(name.to_owned());
        self
    }

    /// A topic of the cluster's own: `{tag}.NAME`.
    #[must_use]
    pub fn topic(mut self, name: &str, partitions: i32) -> Self {
        self.topics.push((name.to_owned(), partitions));
        self
    }

    /// Configuration in TOML, merged over what the harness writes; `{tag}` stands for the
    /// cluster's tag, with which the names of its topics begin.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config.push(toml.to_owned());
        self
    }

    /// Partitions of the reply topic; 12, unless said otherwise.
    #[must_use]
    pub fn reply_partitions(mut self, partitions: i32) -> Self {
        self.reply_partitions = partitions;
        self
    }

    /// A broker that only this cluster uses, so that it may be stopped.
    #[must_use]
    pub fn own_kafka(mut self, settings: &[&str]) -> Self {
        self.own_kafka = Some(settings.iter().map(|&setting| setting.to_owned()).collect());
        self
    }

    /// A Redis server that only this cluster uses, so that it may be stopped.
    #[must_use]
    pub fn own_redis(mut self) -> Self {
        self.own_redis = true;
        self
    }

    /// Puts a proxy before the internal listener of each node, so that the links of its peers to it
    /// can be disturbed.
    #[must_use]
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// What the nodes log; `info`, unless said otherwise.
    #[must_use]
    pub fn log_filter(mut self, filter: &str) -> Self {
        self.log_filter = Some(filter.to_owned());
        self
    }

    /// Another program than the node built with these tests.
    #[must_use]
    pub fn program(mut self, path: &Path) -> Self {
        self.program = Some(path.to_owned());
        self
    }

    /// A node, counted from 0, that plays a later version: see [`Node::play`].
    #[must_use]
    pub fn later(mut self, index: usize, how: &'static str) -> Self {
        self.later.push((index, how));
        self
    }

    /// How many file descriptors a node may have; as many as the tests, unless said otherwise.
    #[must_use]
    pub fn descriptors(mut self, descriptors: u32) -> Self {
        self.descriptors = Some(descriptors);
        self
    }

    /// Creates the topics, starts the nodes, and waits until all are ready.
    ///
    /// # Errors
    /// When anything of that fails; the logs are shown.
    pub async fn start(self) -> Result<Cluster> {
        let mut cluster = self.prepare().await?;
        for node in &mut cluster.nodes {
            node.start()?;
        }
        for node in &mut cluster.nodes {
            node.ready().await?;
        }
        Ok(cluster)
    }

    /// Creates the topics and writes the configuration, but starts no node.
    ///
    /// # Errors
    /// When anything of that fails.
    pub async fn prepare(mut self) -> Result<Cluster> {
        let tag = format!("t-{}", &Uuid::new_v4().simple().to_string()[..8]);
        let dir = run_dir().join(&tag);
        fs::create_dir_all(&dir)?;
        let kafka = match self.own_kafka.take() {
            Some(settings) => {
                let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
                // Beside the logs: it is used until the last of its clients is closed.
                Kafka::start(&run_dir().join(format!("{tag}-kafka")), &settings).await?
            }
            None => Kafka::shared().await?,
        };
        let redis = match self.own_redis {
            true => Redis::start(&run_dir().join(format!("{tag}-redis"))).await?,
            false => Redis::shared().await?,
        };
        self.create_topics(&kafka, &tag).await?;
        let reply_partitions = self.reply_partitions;
        let mut cluster = Cluster {
            nodes: Vec::new(),
            tag,
            dir,
            reply_partitions,
            finished: false,
            redis,
            kafka,
            recipe: self,
        };
        for _ in 0..cluster.recipe.nodes {
            cluster.prepare_node().await?;
        }
        Ok(cluster)
    }

    /// One more node for that cluster, not started.
    pub(super) async fn node(&self, cluster: &Cluster) -> Result<Node> {
        let id = format!("gw-{}", cluster.nodes.len() + 1);
        let mut config = self.node_config(&id, &cluster.tag, &cluster.kafka, &cluster.redis)?;
        let proxy = match self.proxied {
            true => Some(Proxy::start().await?),
            false => None,
        };
        if let Some(proxy) = &proxy {
            let advertise = format!("internal.advertise = \"http://{}\"", proxy.address());
            merge(&mut config, toml::from_str(&advertise)?);
        }
        let program = match &self.program {
            Some(program) => program.clone(),
            None => node_program()?,
        };
        let log_filter = self.log_filter.clone();
        let mut node =
            Node::new(&program, &cluster.dir, &id, &config.to_string(), log_filter, proxy)?;
        node.limit_descriptors(self.descriptors);
        let later = self.later.iter().find(|(index, _)| *index == cluster.nodes.len());
        node.play(later.map(|(_, how)| *how));
        Ok(node)
    }

    async fn create_topics(&self, kafka: &Kafka, tag: &str) -> Result<()> {
        let mut topics = vec![(format!("{tag}.replies"), self.reply_partitions)];
        topics.extend(self.services.iter().map(|name| (format!("{tag}.{name}.requests"), 4)));
        topics.extend(self.topics.iter().map(|(name, count)| (format!("{tag}.{name}"), *count)));
        let topics: Vec<(&str, i32)> =
            topics.iter().map(|(n, count)| (n.as_str(), *count)).collect();
        kafka.create_topics(&topics).await
    }

    fn node_config(&self, id: &str, tag: &str, kafka: &Kafka, redis: &Redis) -> Result<Table> {
        let mut config: Table = toml::from_str(&format!(
            r#"
            node_id = "{id}"
            public.listen = "127.0.0.1:0"
            internal = {{ listen = "127.0.0.1:0", secret = "{SECRET}" }}
            registry = {{ url = "{redis}", prefix = "{tag}:" }}
            [kafka]
            bootstrap_servers = "{kafka}"
            reply_topic = "{tag}.replies"
            group_id = "{tag}"
            reply_partitions = {partitions}
            # The lag is seen sooner.
            properties = {{ "statistics.interval.ms" = "500" }}
            "#,
            redis = redis.url(),
            kafka = kafka.bootstrap(),
            partitions = self.reply_partitions,
        ))?;
        for name in &self.services {
            let service = format!("[services.{name}]\nrequest_topic = \"{tag}.{name}.requests\"\n");
            merge(&mut config, toml::from_str(&service)?);
        }
        for text in &self.config {
            let text = text.replace("{tag}", tag);
            merge(&mut config, toml::from_str(&text).with_context(|| text.clone())?);
        }
        Ok(config)
    }
}

/// Lays one table over another, level by level.
fn merge(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => merge(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}
