//! One gateway process, and what may be done to it.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::{
    SOON,
    client::{Connect, WsClient},
    eventually,
    http::{HttpClient, Response},
    infra::{built_node, proxy::Proxy},
    metrics::Metrics,
    process::{Process, command},
};

/// A node; killed when dropped.
#[derive(Debug)]
pub struct Node {
    id: String,
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    process: Option<Process>,
    addresses: Option<Addresses>,
    log_filter: Option<String>,
    proxy: Option<Proxy>,
    descriptors: Option<u32>,
    later: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
struct Addresses {
    public: SocketAddr,
    internal: SocketAddr,
}

impl Node {
    pub(super) fn new(
        program: &Path,
        dir: &Path,
        id: &str,
        config: &str,
        log_filter: Option<String>,
        proxy: Option<Proxy>,
    ) -> Result<Self> {
        let path = dir.join(format!("{id}.toml"));
        std::fs::write(&path, config)?;
        Ok(Self {
            id: id.to_owned(),
            program: program.to_owned(),
            config: path,
            log: dir.join(format!("{id}.log")),
            process: None,
            addresses: None,
            log_filter,
            proxy,
            descriptors: None,
            later: None,
        })
    }

    /// From its next start on it may have so many file descriptors, and no more.
    pub(super) fn limit_descriptors(&mut self, descriptors: Option<u32>) {
        self.descriptors = descriptors;
    }

    /// From its next start on it plays that later version, as `src/bin/test-node/main.rs` has them;
    /// or this one.
    pub fn play(&mut self, later: Option<&'static str>) {
        self.later = later;
    }

    /// Its name in the cluster.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The binary it runs.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// What it writes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("the node is not running")?.pid())
    }

    /// Whether it was started, and neither killed nor terminated by the test.
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// Starts the process, without waiting for anything.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self) -> Result<()> {
        let program = match self.later {
            Some(_) => &built_node()?,
            None => &self.program,
        };
        let mut command = match self.descriptors {
            None => command(program),
            // Both limits, the soft and the hard one.
            Some(descriptors) => {
                let mut shell = command(Path::new("sh"));
                let line = format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"");
                shell.args(["-c", &line]).arg(program);
                shell
            }
        };
        command.args(["serve", "--config"]).arg(&self.config);
        if let Some(later) = self.later {
            command.env("TEST_NODE_PLAYS", later);
        }
        if let Some(filter) = &self.log_filter {
            command.env("RUST_LOG", filter);
        }
        self.addresses = None;
        self.process = Some(Process::spawn(command, &self.log)?);
        Ok(())
    }

    /// The proxy between it and its peers.
    ///
    /// # Panics
    /// When the cluster was built without.
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("the cluster is built with proxies")
    }

    /// Waits until it has bound its listeners.
    ///
    /// # Errors
    /// When it does not, or ends.
    pub async fn bound(&mut self) -> Result<()> {
        let addresses = eventually(SOON, "the node binds its listeners", async || {
            let process = self.process()?;
            process.runs()?;
            let output = process.output()?;
            let public = listening(&output, "public").context("no public listener yet")?;
            let internal = listening(&output, "internal").context("no internal listener yet")?;
            Ok(Addresses { public, internal })
        })
        .await?;
        self.addresses = Some(addresses);
        if let Some(proxy) = &self.proxy {
            proxy.lead_to(addresses.internal);
        }
        Ok(())
    }

    /// Waits until it has bound its listeners and calls itself ready.
    ///
    /// # Errors
    /// When it does not, or ends.
    pub async fn ready(&mut self) -> Result<()> {
        self.bound().await?;
        eventually(SOON, "the node is ready", async || {
            self.process()?.runs()?;
            self.is_ready().await
        })
        .await
    }

    /// Checks that it calls itself ready.
    ///
    /// # Errors
    /// Its own reason when it does not.
    pub async fn is_ready(&self) -> Result<()> {
        let response = self.internal("/readyz").await?;
        ensure!(response.status == 200, "{}: {}", response.status, response.text());
        Ok(())
    }

    /// The partitions of a topic that it reads, as its metrics tell.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn partitions(&self, topic: &str) -> Result<BTreeSet<i32>> {
        let metrics = self.metrics().await?;
        let lag = metrics.samples().iter().filter(|sample| {
            sample.name == "roundtrip_consumer_lag" && sample.labels["topic"] == topic
        });
        lag.map(|sample| Ok(sample.labels["partition"].parse()?)).collect()
    }

    /// Where clients connect.
    ///
    /// # Panics
    /// Before it is ready.
    pub fn public(&self) -> SocketAddr {
        self.addresses.expect("the node is ready").public
    }

    /// Where peers and operators connect.
    ///
    /// # Panics
    /// Before it is ready.
    pub fn internal_address(&self) -> SocketAddr {
        self.addresses.expect("the node is ready").internal
    }

    /// How a client may connect to it.
    pub fn connect(&self) -> Connect {
        Connect::to(self.public())
    }

    /// A plain connection, its `welcome` read.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn ws(&self) -> Result<WsClient> {
        Ok(self.connect().welcome().await?.0)
    }

    /// A client of its public listener.
    pub fn http(&self) -> HttpClient {
        HttpClient::new(self.public())
    }

    /// `GET` on its internal listener.
    ///
    /// # Errors
    /// When no answer arrives.
    pub async fn internal(&self, path: &str) -> Result<Response> {
        HttpClient::new(self.internal_address()).get(path).await
    }

    /// Its metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> Result<Metrics> {
        let response = self.internal("/metrics").await?;
        ensure!(response.status == 200, "no metrics: {}", response.status);
        Ok(Metrics::parse(&response.text()))
    }

    /// Its resident memory in bytes.
    ///
    /// # Errors
    /// When it is not running.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kibibytes: u64 = line.split_whitespace().nth(1).context("no VmRSS")?.parse()?;
        Ok(kibibytes * 1024)
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Asks it to drain, and gives its exit code; -1 when a signal ended it.
    ///
    /// # Errors
    /// When it is not running, or still running when its grace is over twice.
    pub async fn term(&mut self) -> Result<i32> {
        self.process()?.signal(Signal::SIGTERM)?;
        self.exit_code().await
    }

    /// Waits for its end, and gives its exit code; -1 when a signal ended it.
    ///
    /// # Errors
    /// When it is not running, or still running when its grace is over twice.
    pub async fn exit_code(&mut self) -> Result<i32> {
        let status = self.process()?.end(SOON * 2).await?;
        self.process = None;
        Ok(status.code().unwrap_or(-1))
    }

    /// Stops it where it stands, as a long pause would.
    ///
    /// # Errors
    /// When it is not running.
    pub fn stop(&mut self) -> Result<()> {
        self.process()?.signal(Signal::SIGSTOP)
    }

    /// Lets it go on after [`Node::stop`].
    ///
    /// # Errors
    /// When it is not running.
    pub fn cont(&mut self) -> Result<()> {
        self.process()?.signal(Signal::SIGCONT)
    }

    /// Starts it again, on other ports, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill();
        self.start()?;
        self.ready().await
    }

    /// Its process.
    ///
    /// # Errors
    /// When it is not running.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the node is not running")
    }
}

/// The address in a line that says `listening public=ADDR`.
pub fn listening(output: &str, listener: &str) -> Option<SocketAddr> {
    let mark = format!("listening {listener}=");
    let (_, rest) = output.split_once(&mark)?;
    let end = rest.find(|c: char| c.is_whitespace() || c == '"')?;
    rest[..end].parse().ok()
}
