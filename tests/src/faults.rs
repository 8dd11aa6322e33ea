//! What may happen to a cluster while it is used, and what its clients may notice of it.
//!
//! One round of a fault begins with a cluster that is well and ends with one that is well again.
//! A wait in here is part of the fault; what must become true is waited for as such.

use std::{fmt, str::FromStr, time::Duration};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use rand::{RngExt, rngs::StdRng};
use tokio::time::sleep;

use crate::{
    account::Allowance,
    cluster::{Cluster, ClusterBuilder},
    infra::proxy::Link,
    reliable::directory::Directory,
};

mod brokers;
mod descriptors;
pub mod nodes;

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A node that holds sockets is killed, and started again some time later.
    KillSockets,
    /// A node that reads replies, but holds no socket, is killed, and started again.
    KillReader,
    /// A node that holds sockets stands still for ten seconds.
    Pause,
    /// All nodes are drained and started again, one after the other.
    Rolling,
    /// One more node joins; later it leaves.
    Join,
    /// Redis is killed, and comes back empty.
    RedisEmptied,
    /// Redis is killed, and comes back with what it held some seconds ago.
    RedisOlder,
    /// Redis stands still for five seconds.
    RedisPaused,
    /// Kafka is killed, and comes back.
    KafkaKilled,
    /// Kafka stands still for ten seconds.
    KafkaPaused,
    /// The reply topic is deleted and created again, and a node is killed, and started again.
    TopicAnew,
    /// A node's peers cannot connect to it.
    LinkCut,
    /// What a node's peers say arrives late.
    LinkDelayed,
    /// What a node's peers say is swallowed.
    LinkBlackHole,
    /// Clients take all the descriptors of a node that they can have.
    DescriptorsUsedUp,
}

/// What the contract promises while it happens.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    pub allowed: Allowance,
    /// The longest wait of callers whose node was well, where that is promised.
    pub survivors_wait_max: Option<Duration>,
}

const REDIS_PAUSE: Duration = Duration::from_secs(5);
const LINK_FAULT: Duration = Duration::from_secs(5);
const LINK_DELAY: Duration = Duration::from_millis(300);
/// How old the dump is from which Redis comes back.
const DUMP_AGE: Duration = Duration::from_secs(4);
/// How long what was killed stays away, at most.
const AWAY_MAX: Duration = Duration::from_secs(8);

impl Fault {
    pub const ALL: [Self; 15] = [
        Self::KillSockets,
        Self::KillReader,
        Self::Pause,
        Self::Rolling,
        Self::Join,
        Self::RedisEmptied,
        Self::RedisOlder,
        Self::RedisPaused,
        Self::KafkaKilled,
        Self::KafkaPaused,
        Self::TopicAnew,
        Self::LinkCut,
        Self::LinkDelayed,
        Self::LinkBlackHole,
        Self::DescriptorsUsedUp,
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::KillSockets => "kill-sockets",
            Self::KillReader => "kill-reader",
            Self::Pause => "pause",
            Self::Rolling => "rolling",
            Self::Join => "join",
            Self::RedisEmptied => "redis-emptied",
            Self::RedisOlder => "redis-older",
            Self::RedisPaused => "redis-paused",
            Self::KafkaKilled => "kafka-killed",
            Self::KafkaPaused => "kafka-paused",
            Self::TopicAnew => "topic-anew",
            Self::LinkCut => "link-cut",
            Self::LinkDelayed => "link-delayed",
            Self::LinkBlackHole => "link-black-hole",
            Self::DescriptorsUsedUp => "descriptors-used-up",
        }
    }

    /// What it is, for a report.
    pub fn description(self) -> &'static str {
        match self {
            Self::KillSockets => "`kill -9` of a node that holds sockets, restarted",
            Self::KillReader => "`kill -9` of a node that only reads replies, restarted",
            Self::Pause => "`SIGSTOP` of a node that holds sockets for 10 s",
            Self::Rolling => "`SIGTERM` and restart of all nodes in turn",
            Self::Join => "one more node joins and leaves",
            Self::RedisEmptied => "Redis killed and restarted empty",
            Self::RedisOlder => "Redis back from a dump of 4 s before",
            Self::RedisPaused => "Redis paused for 5 s",
            Self::KafkaKilled => "Kafka killed and restarted",
            Self::KafkaPaused => "Kafka paused for 10 s",
            Self::TopicAnew => "reply topic made anew, and a node killed",
            Self::LinkCut => "a node unreachable for its peers for 5 s",
            Self::LinkDelayed => "300 ms of delay towards a node for 5 s",
            Self::LinkBlackHole => "a node's peer links swallow everything for 5 s",
            Self::DescriptorsUsedUp => "descriptors of a node used up by clients for 5 s",
        }
    }

    /// What its clients may notice.
    pub fn promise(self) -> Promise {
        const NONE: Allowance = Allowance { codes: &[], unserved: false, repeats: false };
        let killed = Allowance { repeats: true, ..NONE };
        // A node that drains takes nothing new, and says so.
        let drained = Allowance { codes: &["unavailable"], ..NONE };
        let seconds = |seconds| Some(Duration::from_secs_f64(seconds));
        let (allowed, survivors_wait_max) = match self {
            Self::KillSockets | Self::KillReader => (killed, seconds(12.0)),
            Self::Pause => (killed, seconds(12.0)),
            // Partitions move, which takes a group of two or three some seconds on a busy machine.
            // A client whose connection is closed goes on with all it waits for on a node that is
            // ready.
            Self::Rolling => (NONE, seconds(6.0)),
            Self::Join => (drained, seconds(6.0)),
            // New requests that would need the registry are refused.
            Self::RedisEmptied | Self::RedisOlder | Self::RedisPaused => (drained, None),
            // A record that Kafka has not acknowledged in time may be there all the same.
            Self::KafkaKilled | Self::KafkaPaused => {
                let codes = &["unavailable", "overloaded"];
                (Allowance { codes, unserved: true, ..NONE }, None)
            }
            // Replies that were in the former topic alone are gone with it.
            Self::TopicAnew => (Allowance { codes: &["timeout"], unserved: true, ..killed }, None),
            Self::LinkCut | Self::LinkDelayed | Self::LinkBlackHole => (NONE, seconds(8.0)),
            // Its links are cut meanwhile, and come back.
            Self::DescriptorsUsedUp => (NONE, seconds(8.0)),
        };
        Promise { allowed, survivors_wait_max }
    }

    /// Which of the services are asked.
    pub fn services(self, all: &'static [&'static str]) -> &'static [&'static str] {
        match self {
            // One service has four partitions: with more of them librdkafka does not spin, and the
            // fault would not be seen.
            Self::KafkaPaused => &all[..1],
            _ => all,
        }
    }

    /// Whether clients have to change their nodes by themselves, so that new nodes get some, or that
    /// sessions have changed hands since a dump.
    pub fn needs_roaming(self) -> bool {
        matches!(self, Self::Join | Self::RedisOlder)
    }

    /// Adds to a cluster what the fault needs.
    pub fn prepare(self, builder: ClusterBuilder) -> ClusterBuilder {
        match self {
            // Slower than clients come back, so that the pace shows.
            Self::Rolling => builder.config("[shutdown]\ncloses_per_second = 5"),
            Self::RedisEmptied | Self::RedisOlder | Self::RedisPaused => builder.own_redis(),
            Self::KafkaKilled | Self::KafkaPaused => builder.own_kafka(&[]),
            Self::LinkCut | Self::LinkDelayed | Self::LinkBlackHole => builder.proxied(),
            Self::DescriptorsUsedUp => builder.descriptors(descriptors::LIMIT).proxied(),
            _ => builder,
        }
    }

    /// Lists the nodes on which clients may have their sockets.
    pub fn list(self, cluster: &Cluster, directory: &Directory) {
        let aside = usize::from(self == Self::KillReader);
        let nodes = cluster.nodes();
        nodes[..nodes.len() - aside].iter().for_each(|node| directory.list(node));
    }

    /// One round, until all is well again.
    ///
    /// # Errors
    /// When the cluster does not recover.
    pub async fn strike(
        self,
        cluster: &mut Cluster,
        directory: &Directory,
        rng: &mut StdRng,
    ) -> Result<()> {
        let away = AWAY_MAX.mul_f64(rng.random_range(0.0..1.0));
        let last = cluster.nodes().len() - 1;
        let any = rng.random_range(0..=last);
        match self {
            Self::KillSockets => nodes::kill(cluster, directory, any, away, true).await,
            Self::KillReader => nodes::kill(cluster, directory, last, away, false).await,
            Self::Pause => nodes::pause(cluster, directory, any).await,
            Self::Rolling => {
                for index in 0..=last {
                    nodes::replace(cluster, directory, index, None).await?;
                }
                Ok(())
            }
            Self::Join => nodes::join(cluster, directory, away).await,
            Self::RedisEmptied => {
                cluster.redis().kill()?;
                sleep(away / 4).await;
                cluster.redis().restart().await
            }
            Self::RedisOlder => {
                cluster.redis().save().await?;
                sleep(DUMP_AGE).await;
                cluster.redis().restart().await
            }
            Self::RedisPaused => {
                cluster.redis().signal(Signal::SIGSTOP)?;
                sleep(REDIS_PAUSE).await;
                cluster.redis().signal(Signal::SIGCONT)?;
                cluster.redis().answers().await
            }
            Self::KafkaKilled => {
                cluster.kafka().kill()?;
                sleep(away / 4).await;
                cluster.kafka().restart().await?;
                brokers::all_well(cluster).await
            }
            Self::KafkaPaused => brokers::pause(cluster).await,
            Self::TopicAnew => {
                let topic = cluster.topic("replies");
                cluster.kafka().make_anew(&topic, cluster.reply_partitions()).await?;
                nodes::kill(cluster, directory, any, away / 4, true).await
            }
            Self::LinkCut => disturb(cluster, any, Link::Cut).await,
            Self::LinkDelayed => disturb(cluster, any, Link::Delayed(LINK_DELAY)).await,
            Self::LinkBlackHole => disturb(cluster, any, Link::BlackHole).await,
            Self::DescriptorsUsedUp => descriptors::use_up(cluster.node(any)).await,
        }
    }
}

async fn disturb(cluster: &Cluster, index: usize, link: Link) -> Result<()> {
    let proxy = cluster.node(index).proxy();
    proxy.set(link);
    sleep(LINK_FAULT).await;
    proxy.heal();
    Ok(())
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|fault| fault.name() == name);
        found.with_context(|| format!("no fault {name}; there are {}", all()))
    }
}
