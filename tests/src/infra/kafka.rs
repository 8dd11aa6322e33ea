//! A Kafka broker.

mod disk;

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer},
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use tokio::sync::OnceCell;

use crate::{
    SOON, eventually,
    infra::{free_port, repository},
    process::{Process, keep_files, run_dir},
};

/// How long a broker may take to start on a busy machine.
const START: Duration = Duration::from_secs(90);

/// A broker that answers, or did until a test interfered.
#[derive(Debug)]
pub struct Kafka {
    bootstrap: String,
    /// Absent for a broker that was there before us.
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    dir: PathBuf,
    port: u16,
    controller_port: u16,
    settings: Vec<String>,
    process: Mutex<Process>,
}

impl Kafka {
    /// The broker that all tests of this process share.
    ///
    /// # Errors
    /// When there is none and none can be started.
    pub async fn shared() -> Result<Arc<Self>> {
        static SHARED: OnceCell<Arc<Kafka>> = OnceCell::const_new();
        let shared = SHARED
            .get_or_try_init(async || {
                if let Ok(bootstrap) = std::env::var("ROUNDTRIP_TEST_KAFKA") {
                    return Ok(Arc::new(Self { bootstrap, own: None }));
                }
                Self::start(&run_dir().join("kafka"), &[]).await
            })
            .await;
        shared.cloned()
    }

    /// Starts a broker of one's own, with additional lines for its `server.properties`.
    ///
    /// # Errors
    /// When it cannot be started; the message says what is missing.
    pub async fn start(dir: &Path, settings: &[&str]) -> Result<Arc<Self>> {
        let own = Own::spawn(dir, settings)?;
        let kafka = Self { bootstrap: format!("127.0.0.1:{}", own.port), own: Some(own) };
        kafka.answers().await?;
        Ok(Arc::new(kafka))
    }

    /// What clients are given as `bootstrap.servers`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// A client's configuration with the broker's address and an old broker's patience.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    /// Waits until the broker answers.
    ///
    /// # Errors
    /// When it does not, or has ended.
    pub async fn answers(&self) -> Result<()> {
        let wait = repository().join("compose/kafka/wait");
        eventually(START, "Kafka answers", async || {
            if let Some(own) = &self.own {
                own.running()?;
            }
            let status = tokio::process::Command::new(&wait)
                .args([&self.bootstrap, "1"])
                .stderr(Stdio::null())
                .status()
                .await?;
            ensure!(status.success(), "no answer from {}", self.bootstrap);
            Ok(())
        })
        .await
        .inspect_err(|_| keep_files())
    }

    /// Creates topics, each with its number of partitions, and waits until they can be written.
    ///
    /// # Errors
    /// When one cannot be created, or exists.
    pub async fn create_topics(&self, topics: &[(&str, i32)]) -> Result<()> {
        let new = topics
            .iter()
            .map(|&(name, partitions)| NewTopic::new(name, partitions, TopicReplication::Fixed(1)));
        // The broker's log tells why.
        self.create(new.collect()).await.inspect_err(|_| keep_files())
    }

    /// Creates topics with settings of their own.
    ///
    /// # Errors
    /// When one cannot be created, or exists.
    pub async fn create(&self, topics: Vec<NewTopic<'_>>) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        for outcome in admin.create_topics(&topics, &options).await? {
            outcome.map_err(|(topic, code)| anyhow!("topic {topic} not created: {code}"))?;
        }
        let asking: BaseConsumer = self.client().create()?;
        for topic in &topics {
            eventually(Duration::from_secs(20), "a new topic has leaders", async || {
                let metadata = asking.fetch_metadata(Some(topic.name), Duration::from_secs(5))?;
                let topic = metadata.topics().first().context("no answer about the topic")?;
                ensure!(topic.error().is_none(), "topic error {:?}", topic.error());
                ensure!(topic.partitions().iter().all(|p| p.leader() >= 0), "no leader yet");
                // A leader that is named may not know it yet: ask each.
                for partition in topic.partitions() {
                    let within = Duration::from_secs(5);
                    asking.fetch_watermarks(topic.name(), partition.id(), within)?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Deletes a topic and creates it again, under the same name.
    ///
    /// # Errors
    /// When it does not exist, or does not come back.
    pub async fn make_anew(&self, topic: &str, partitions: i32) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        for outcome in admin.delete_topics(&[topic], &options).await? {
            outcome.map_err(|(topic, code)| anyhow!("topic {topic} not deleted: {code}"))?;
        }
        eventually(SOON, "the name is free again", async || {
            self.create_topics(&[(topic, partitions)]).await
        })
        .await
    }

    /// Gives a topic more partitions, so many in all.
    ///
    /// # Errors
    /// When Kafka does not.
    pub async fn grow(&self, topic: &str, partitions: usize) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let more = NewPartitions::new(topic, partitions);
        for outcome in admin.create_partitions([&more], &AdminOptions::new()).await? {
            outcome.map_err(|(topic, code)| anyhow!("topic {topic} did not grow: {code}"))?;
        }
        Ok(())
    }

    /// Commits an offset for a group that nobody is in.
    ///
    /// # Errors
    /// When Kafka does not take it.
    pub fn commit(
        &self,
        group: &str,
        topic: &str,
        partition: i32,
        offset: i64,
        metadata: &str,
    ) -> Result<()> {
        let committing: BaseConsumer = self.client().set("group.id", group).create()?;
        let mut list = TopicPartitionList::new();
        let mut element = list.add_partition(topic, partition);
        element.set_offset(Offset::Offset(offset))?;
        element.set_metadata(metadata);
        Ok(committing.commit(&list, CommitMode::Sync)?)
    }

    /// Writes one record and waits until it is there.
    ///
    /// # Errors
    /// When Kafka does not take it.
    pub async fn produce(
        &self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<()> {
        let producer: FutureProducer = self.client().create()?;
        let mut carried = OwnedHeaders::new();
        for &(key, value) in headers {
            carried = carried.insert(Header { key, value });
        }
        let mut record: FutureRecord<'_, [u8], [u8]> =
            FutureRecord::to(topic).partition(partition).headers(carried);
        record.key = key;
        record.payload = value;
        producer.send(record, SOON).await.map_err(|(error, _)| error)?;
        Ok(())
    }

    /// How many records of a topic a group has not handled yet, by what it has committed.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub fn lag(&self, group: &str, topic: &str, partitions: i32) -> Result<i64> {
        self.lag_within(group, topic, 0..=partitions - 1)
    }

    /// The same of one partition.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub fn lag_of(&self, group: &str, topic: &str, partition: i32) -> Result<i64> {
        self.lag_within(group, topic, partition..=partition)
    }

    fn lag_within(&self, group: &str, topic: &str, partitions: RangeInclusive<i32>) -> Result<i64> {
        let asking: BaseConsumer = self.client().set("group.id", group).create()?;
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition_range(topic, *partitions.start(), *partitions.end());
        let committed = asking.committed_offsets(wanted, SOON)?;
        let mut lag = 0;
        for partition in committed.elements() {
            let (first, end) = asking.fetch_watermarks(topic, partition.partition(), SOON)?;
            lag += end - partition.offset().to_raw().filter(|&at| at >= 0).unwrap_or(first);
        }
        Ok(lag)
    }

    /// The broker's process id, for a broker of our own.
    pub fn pid(&self) -> Option<u32> {
        self.own.as_ref().map(|own| own.process().pid())
    }

    /// Kills the broker, as a crash would.
    ///
    /// # Errors
    /// For a broker that is not ours.
    pub fn kill(&self) -> Result<()> {
        self.own()?.process().kill();
        Ok(())
    }

    /// Sends it a signal: `SIGSTOP` and `SIGCONT` for a broker that hangs, `SIGTERM` to end it.
    ///
    /// # Errors
    /// For a broker that is not ours or has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.own()?.process().signal(signal)
    }

    /// Ends the broker in good order, so that it takes what is on its disk for granted.
    ///
    /// # Errors
    /// For a broker that is not ours, or does not end.
    pub async fn stop(&self) -> Result<()> {
        let own = self.own()?;
        own.process().signal(Signal::SIGTERM)?;
        eventually(START, "Kafka ends", async || {
            ensure!(own.process().runs().is_err(), "it runs");
            Ok(())
        })
        .await
    }

    /// Starts the broker again, on the same port and data, and waits until it answers.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn restart(&self) -> Result<()> {
        let own = self.own()?;
        own.process().kill();
        *own.process() = own.command()?;
        self.answers().await
    }

    fn own(&self) -> Result<&Own> {
        self.own.as_ref().context("this broker is not ours: leave ROUNDTRIP_TEST_KAFKA unset")
    }
}

impl Own {
    fn spawn(dir: &Path, settings: &[&str]) -> Result<Self> {
        let (port, controller_port) = (free_port(), free_port());
        let settings: Vec<String> = settings.iter().map(|&line| line.to_owned()).collect();
        let process = Mutex::new(spawn(dir, port, controller_port, &settings)?);
        Ok(Self { dir: dir.to_owned(), port, controller_port, settings, process })
    }

    fn command(&self) -> Result<Process> {
        spawn(&self.dir, self.port, self.controller_port, &self.settings)
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Result<()> {
        self.process().runs()
    }
}

fn spawn(dir: &Path, port: u16, controller_port: u16, settings: &[String]) -> Result<Process> {
    let mut command = Command::new(repository().join("compose/kafka/run"));
    command.arg("--dir").arg(dir);
    command.args(["--port", &port.to_string()]);
    command.args(["--controller-port", &controller_port.to_string()]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    Process::spawn(command, &dir.join("kafka.log"))
}
