//! A Redis Cluster of three masters, each with a third of the keys.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;

use crate::{
    SOON, eventually,
    infra::{free_port, redis::Redis},
};

/// How each server runs: it notices soon that another one is dead, and goes on with its own keys.
const SETTINGS: [&str; 6] = [
    "--cluster-enabled",
    "yes",
    "--cluster-node-timeout",
    "2000",
    "--cluster-require-full-coverage",
    "no",
];

/// The masters. Nothing of them is on disk but who has which keys.
#[derive(Debug)]
pub struct RedisCluster {
    pub masters: Vec<Arc<Redis>>,
}

impl RedisCluster {
    /// Starts the servers, and makes a cluster of them.
    ///
    /// # Errors
    /// When there is none in the end.
    pub async fn start(dir: &Path) -> Result<Self> {
        let mut masters = Vec::new();
        for name in ["1", "2", "3"] {
            let port = free_port().to_string();
            let settings: Vec<_> = SETTINGS.into_iter().chain(["--cluster-port", &port]).collect();
            masters.push(Redis::start_with(&dir.join(name), &settings).await?);
        }
        let cluster = Self { masters };
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(cluster.addresses()).arg("--cluster-yes");
        let created = create.output().await.context("redis-cli is needed, beside redis-server")?;
        ensure!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        cluster.is_whole().await?;
        Ok(cluster)
    }

    /// Its address, as the gateway's configuration takes it.
    pub fn url(&self) -> String {
        format!("redis+cluster://{}", self.addresses().collect::<Vec<_>>().join(","))
    }

    /// Waits until each of the servers says that all of them are there.
    ///
    /// # Errors
    /// When they do not soon.
    pub async fn is_whole(&self) -> Result<()> {
        for master in &self.masters {
            eventually(SOON, "the cluster is whole", async || {
                let mut connection = master.connect().await?;
                let mut command = redis::cmd("CLUSTER");
                let info: String = command.arg("INFO").query_async(&mut connection).await?;
                let is_whole = info.contains("state:ok") && info.contains("slots_ok:16384");
                ensure!(is_whole, "{info}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Which of them has what is kept under a key.
    ///
    /// # Errors
    /// When one cannot be asked.
    pub async fn master_of(&self, key: &str) -> Result<usize> {
        for (index, master) in self.masters.iter().enumerate() {
            let mut connection = master.connect().await?;
            match redis::cmd("EXISTS").arg(key).query_async::<u64>(&mut connection).await {
                Ok(_) => return Ok(index),
                Err(error) if error.code() == Some("MOVED") => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("no master has {key}")
    }

    fn addresses(&self) -> impl Iterator<Item = &str> {
        self.masters.iter().filter_map(|master| master.url().strip_prefix("redis://"))
    }
}
