//! The processes that are measured: a broker, an echo service, and what stands between.

use std::{net::SocketAddr, process::Command, sync::Arc};

use anyhow::{Context, Result, ensure};
use clap::Args;
use tests::{
    SOON,
    cluster::{Cluster, listening},
    eventually,
    infra::kafka::Kafka,
    meter::Meter,
    process::{Process, run_dir},
};

use crate::bare::Topics;

/// What is measured.
#[derive(Clone, Debug)]
pub enum Target {
    /// Nothing between the asker and Kafka.
    Bare,
    /// A WebSocket server that does the least.
    Floor,
    /// So many gateway nodes.
    Nodes(usize),
    /// Whatever listens there; Kafka and the service are there too.
    Running(Vec<SocketAddr>),
}

/// A running set-up; it ends when dropped.
#[derive(Debug)]
pub struct Lab {
    /// Where the askers connect.
    pub addresses: Vec<SocketAddr>,
    /// For the asker without a gateway.
    pub topics: Topics,
    pub meter: Meter,
    cluster: Option<Cluster>,
    _processes: Vec<Process>,
    /// After its clients.
    _kafka: Option<Arc<Kafka>>,
}

impl std::str::FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "bare" => Self::Bare,
            "floor" => Self::Floor,
            "node" => Self::Nodes(1),
            _ => match text.strip_prefix("nodes=") {
                Some(count) => Self::Nodes(count.parse()?),
                None => {
                    let addresses: Result<_, _> = text.split(',').map(str::parse).collect();
                    Self::Running(
                        addresses.context("neither bare, floor, node, nodes=N nor HOST:PORT,…")?,
                    )
                }
            },
        })
    }
}

/// Where the echo service's replies go.
#[derive(Clone, Debug, Args)]
pub struct Replies {
    /// Partitions of the reply topic.
    #[arg(long, default_value_t = 4)]
    pub reply_partitions: i32,
    /// How a reply finds its partition: librdkafka's `murmur2_random` brings it home by itself,
    /// `random` to any node.
    #[arg(long, default_value = "murmur2_random")]
    pub reply_partitioner: String,
}

/// A binary built beside this one.
fn sibling(name: &str) -> Result<Command> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(
        path.exists(),
        "{} is not built: cargo build --profile dist -p tests -p bench --bins",
        path.display()
    );
    Ok(Command::new(path))
}

impl Lab {
    /// Starts what the target needs.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(target: &Target, replies: &Replies) -> Result<Self> {
        match target {
            Target::Running(addresses) => Ok(Self {
                addresses: addresses.clone(),
                topics: Topics::default(),
                meter: Meter::default().with_self("asker"),
                cluster: None,
                _processes: Vec::new(),
                _kafka: None,
            }),
            Target::Nodes(count) => Self::nodes(*count, replies).await,
            Target::Bare => Self::yardstick(false, replies).await,
            Target::Floor => Self::yardstick(true, replies).await,
        }
    }

    /// Ends it in good order.
    ///
    /// # Errors
    /// When a node does not drain cleanly.
    pub async fn finish(mut self) -> Result<()> {
        match self.cluster.take() {
            Some(cluster) => cluster.finish().await,
            None => Ok(()),
        }
    }

    async fn nodes(count: usize, replies: &Replies) -> Result<Self> {
        let cluster = Cluster::builder()
            .nodes(count)
            .service("echo")
            .reply_partitions(replies.reply_partitions)
            // As often as outside of tests.
            .config("[kafka.properties]\n\"statistics.interval.ms\" = \"5000\"")
            .start()
            .await?;
        let kafka = Arc::clone(cluster.kafka());
        let topics = Topics {
            bootstrap: kafka.bootstrap().to_owned(),
            requests: cluster.topic("echo.requests"),
            replies: cluster.topic("replies"),
        };
        let echo = echo(&topics, replies).await?;
        let mut meter = meter(&kafka, &echo);
        for node in cluster.nodes() {
            meter.add("gateway", node.pid()?);
        }
        if let Some(pid) = cluster.redis().pid() {
            meter.add("redis", pid);
        }
        let addresses = cluster.nodes().iter().map(|node| node.public()).collect();
        let _processes = vec![echo];
        Ok(Self {
            addresses,
            topics,
            meter,
            cluster: Some(cluster),
            _processes,
            _kafka: Some(kafka),
        })
    }

    async fn yardstick(floor: bool, replies: &Replies) -> Result<Self> {
        let kafka = Kafka::shared().await?;
        let topics = Topics {
            bootstrap: kafka.bootstrap().to_owned(),
            requests: "yardstick.requests".to_owned(),
            replies: "yardstick.replies".to_owned(),
        };
        let (requests, count) = (topics.requests.as_str(), replies.reply_partitions);
        let create = [(requests, 4), (topics.replies.as_str(), count)];
        kafka.create_topics(&create).await?;
        let echo = echo(&topics, replies).await?;
        let mut meter = meter(&kafka, &echo);
        let (mut addresses, mut processes) = (Vec::new(), vec![echo]);
        if floor {
            let mut command = sibling("floor")?;
            command.args(["--bootstrap", &topics.bootstrap, "--request-topic", &topics.requests]);
            command.args(["--reply-topic", &topics.replies]);
            let mut floor = Process::spawn(command, &run_dir().join("floor.log"))?;
            let address = eventually(SOON, "the floor listens", async || {
                floor.runs()?;
                let output = floor.output()?;
                listening(&output, "public").context("not listening yet")
            })
            .await?;
            addresses.push(address);
            meter.add("floor", floor.pid());
            processes.push(floor);
        }
        let cluster = None;
        Ok(Self { addresses, topics, meter, cluster, _processes: processes, _kafka: Some(kafka) })
    }
}

async fn echo(topics: &Topics, replies: &Replies) -> Result<Process> {
    let mut command = sibling("test-echo")?;
    command.args(["--bootstrap", &topics.bootstrap, "--topic", &topics.requests]);
    command.args(["--partitioner", &replies.reply_partitioner]);
    let mut echo = Process::spawn(command, &run_dir().join("echo.log"))?;
    eventually(SOON, "the echo service is ready", async || {
        echo.runs()?;
        let output = echo.output()?;
        ensure!(output.contains("ready"), "not ready yet");
        Ok(())
    })
    .await?;
    Ok(echo)
}

fn meter(kafka: &Kafka, echo: &Process) -> Meter {
    let mut meter = Meter::default().with_self("asker");
    meter.add("echo service", echo.pid());
    if let Some(pid) = kafka.pid() {
        meter.add("broker", pid);
    }
    meter
}
