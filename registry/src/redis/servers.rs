//! The servers that are asked: one, or the masters of a cluster, each for its part of the keys.
//!
//! Owns the time limit of calls. What is asked is up to the callers.

use std::fmt;

use redis::{Cmd, Pipeline, Value};
use tokio::time::{Instant, timeout};

use super::{
    cluster::Cluster,
    limits,
    link::{Answer, Link, Told},
    scripts::Lua,
    target::Target,
};
use crate::error::RegistryError;

/// All servers of a registry.
pub(super) enum Servers {
    /// One has all keys.
    One(Link),
    /// Each key is on one of several.
    Cluster(Cluster),
}

impl Servers {
    /// The servers of a URL. Waits until it is known whether they can be reached, for at most
    /// [`limits::OPEN_TIME_MAX`].
    pub(super) async fn open(target: Target) -> Self {
        let servers = match target {
            Target::Server(server) => Self::One(Link::new(*server)),
            Target::Cluster(seeds) => Self::Cluster(Cluster::new(seeds)),
        };
        let decided = async {
            match &servers {
                Self::One(link) => link.decided().await,
                Self::Cluster(cluster) => cluster.decided().await,
            }
        };
        timeout(limits::OPEN_TIME_MAX, decided).await.ok();
        servers
    }

    /// How many keys one command may have.
    pub(super) fn keys_max(&self) -> usize {
        match self {
            Self::One(_) => usize::MAX,
            Self::Cluster(_) => 1,
        }
    }

    /// Sends a batch, in one round trip to each server and in its order for each key, and gives one
    /// answer for each command. A server that cannot be reached fails what is asked of it alone.
    ///
    /// Ends within [`limits::CALL_TIME_MAX`]. Where an answer is an error the command may have been
    /// carried out all the same, or twice. Cancel safe in the same sense.
    pub(super) async fn batch(&self, batch: &Pipeline) -> Vec<Answer> {
        self.send(batch, None).await
    }

    /// Sends a batch of calls of one script: see [`Servers::batch`].
    pub(super) async fn scripts(&self, script: &Lua, calls: &Pipeline) -> Vec<Answer> {
        self.send(calls, Some(script)).await
    }

    /// Sends one call of a script: see [`Servers::batch`].
    pub(super) async fn script(&self, script: &Lua, call: Cmd) -> Answer {
        self.scripts(script, &alone(call)).await.pop().unwrap_or(Ok(Value::Nil))
    }

    /// Sends a command to every server that has keys.
    pub(super) async fn everywhere(&self, command: Cmd) -> Vec<Told> {
        match self {
            Self::One(link) => {
                let end = Instant::now() + limits::CALL_TIME_MAX;
                vec![link.tell(&alone(command), end).await]
            }
            Self::Cluster(cluster) => cluster.everywhere(&alone(command)).await,
        }
    }

    /// What is the matter with some of them, while others can be reached.
    pub(super) fn trouble(&self) -> Option<RegistryError> {
        match self {
            Self::One(_) => None,
            Self::Cluster(cluster) => cluster.trouble(),
        }
    }

    async fn send(&self, batch: &Pipeline, script: Option<&Lua>) -> Vec<Answer> {
        if batch.is_empty() {
            return Vec::new();
        }
        match self {
            Self::One(link) => {
                let told = timeout(limits::CALL_TIME_MAX, link.send(batch, script)).await;
                match told.unwrap_or_else(|_| Err(link.silence())) {
                    Ok(told) => told.into_iter().map(|answer| link.judge(answer)).collect(),
                    Err(error) => vec![Err(error); batch.len()],
                }
            }
            Self::Cluster(cluster) => cluster.send(batch, script).await,
        }
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One(link) => link.label(),
            Self::Cluster(cluster) => cluster.label(),
        })
    }
}

fn alone(command: Cmd) -> Pipeline {
    let mut batch = Pipeline::with_capacity(1);
    batch.add_command(command);
    batch
}
