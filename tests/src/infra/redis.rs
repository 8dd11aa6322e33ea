//! A Redis server.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tokio::{sync::OnceCell, time::timeout};

use crate::{
    eventually,
    infra::free_port,
    process::{Process, run_dir},
};

/// A server that answers, or did until a test interfered.
#[derive(Debug)]
pub struct Redis {
    url: String,
    /// Absent for a server that was there before us.
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    dir: PathBuf,
    port: u16,
    settings: Vec<String>,
    process: Mutex<Process>,
}

impl Redis {
    /// The server that all tests of this process share.
    ///
    /// # Errors
    /// When there is none and none can be started.
    pub async fn shared() -> Result<Arc<Self>> {
        static SHARED: OnceCell<Arc<Redis>> = OnceCell::const_new();
        let shared = SHARED
            .get_or_try_init(async || {
                if let Ok(url) = std::env::var("ROUNDTRIP_TEST_REDIS") {
                    return Ok(Arc::new(Self { url, own: None }));
                }
                Self::start(&run_dir().join("redis")).await
            })
            .await;
        shared.cloned()
    }

    /// Starts a server of one's own, which keeps nothing on disk by itself: restarted, it is empty,
    /// or has what it held when it was last told to save that.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start(dir: &Path) -> Result<Arc<Self>> {
        Self::start_with(dir, &[]).await
    }

    /// The same with settings of one's own, as its command line takes them.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start_with(dir: &Path, settings: &[&str]) -> Result<Arc<Self>> {
        let port = free_port();
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        let process = Mutex::new(spawn(dir, port, &settings)?);
        let own = Own { dir: dir.to_owned(), port, settings, process };
        let redis = Self { url: format!("redis://127.0.0.1:{port}"), own: Some(own) };
        redis.answers().await?;
        Ok(Arc::new(redis))
    }

    /// Its address, as the gateway's configuration takes it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A connection, for what a test looks up or breaks.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn connect(&self) -> Result<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(self.url.as_str())?;
        let connecting = client.get_multiplexed_async_connection();
        Ok(timeout(Duration::from_secs(2), connecting).await??)
    }

    /// Waits until the server answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn answers(&self) -> Result<()> {
        eventually(Duration::from_secs(20), "Redis answers", async || {
            if let Some(own) = &self.own {
                own.process().runs()?;
            }
            let mut connection = self.connect().await?;
            Ok(redis::cmd("PING").query_async::<()>(&mut connection).await?)
        })
        .await
    }

    /// The server's process id, for a server of our own.
    pub fn pid(&self) -> Option<u32> {
        self.own.as_ref().map(|own| own.process().pid())
    }

    /// Kills the server, as a crash would.
    ///
    /// # Errors
    /// For a server that is not ours.
    pub fn kill(&self) -> Result<()> {
        self.own()?.process().kill();
        Ok(())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// For a server that is not ours or has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.own()?.process().signal(signal)
    }

    /// Has the server write a dump of what it holds now, from which it starts from then on.
    ///
    /// # Errors
    /// When it does not.
    pub async fn save(&self) -> Result<()> {
        let mut connection = self.connect().await?;
        Ok(redis::cmd("SAVE").query_async::<()>(&mut connection).await?)
    }

    /// Kills the server and starts it again on the same port.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn restart(&self) -> Result<()> {
        let own = self.own()?;
        own.process().kill();
        *own.process() = spawn(&own.dir, own.port, &own.settings)?;
        self.answers().await
    }

    fn own(&self) -> Result<&Own> {
        self.own.as_ref().context("this server is not ours: leave ROUNDTRIP_TEST_REDIS unset")
    }
}

impl Own {
    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spawn(dir: &Path, port: u16, settings: &[String]) -> Result<Process> {
    std::fs::create_dir_all(dir)?;
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
    command.args(["--save", "", "--appendonly", "no", "--enable-debug-command", "local"]);
    command.arg("--dir").arg(dir).args(settings);
    Process::spawn(command, &dir.join("redis.log"))
        .context("a Redis server is needed: tests/setup installs one")
}
