//! Sockets that are opened and held: what one costs to open, and to have.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use tests::{
    client::{Connect, WsClient},
    meter::{Machine, Meter},
};
use tokio::time::sleep;

/// How long the target may settle before its memory is read.
const SETTLE: Duration = Duration::from_secs(2);

/// A number of sockets.
#[derive(Args, Clone, Debug, Serialize)]
pub struct IdlePlan {
    /// Sockets, spread over the addresses.
    #[arg(long, default_value_t = 5_000)]
    pub sockets: usize,
    /// Handshakes at a time.
    #[arg(long, default_value_t = 64)]
    pub concurrency: usize,
    /// Each socket asks the service once before it falls silent.
    #[arg(long)]
    pub ask: Option<String>,
}

/// What they cost.
#[derive(Clone, Debug, Serialize)]
pub struct IdleReport {
    pub target: String,
    pub plan: IdlePlan,
    pub handshakes_per_second: f64,
    /// Processor time per handshake, by process.
    pub handshake_micros: BTreeMap<String, f64>,
    /// Resident memory per socket, by process.
    pub socket_bytes: BTreeMap<String, f64>,
    pub machine: Machine,
}

/// Opens the sockets and reads the meters.
///
/// # Errors
/// When a connection fails.
pub async fn run(
    target: &str,
    plan: &IdlePlan,
    nodes: &[SocketAddr],
    meter: &Meter,
) -> Result<IdleReport> {
    // Whatever is set up with the first connections is not theirs.
    let first = open(64, 16, nodes).await?;
    drop(first);
    sleep(SETTLE).await;
    let (resident, before) = (meter.resident_bytes()?, meter.read()?);
    let mut sockets = open(plan.sockets, plan.concurrency, nodes).await?;
    let usage = before.until(&meter.read()?);
    if let Some(service) = &plan.ask {
        for socket in &mut sockets {
            socket.request(service, &format!("\"{}\"", "x".repeat(298))).await?;
        }
    }
    sleep(SETTLE).await;
    let count = plan.sockets as f64;
    let grown = meter.resident_bytes()?.into_iter().map(|(name, bytes)| {
        let before = resident.get(&name).copied().unwrap_or_default();
        (name, (bytes as f64 - before as f64) / count)
    });
    let micros = usage.cpu_micros.iter().map(|(name, micros)| (name.clone(), micros / count));
    Ok(IdleReport {
        target: target.to_owned(),
        plan: plan.clone(),
        handshakes_per_second: count / usage.seconds,
        handshake_micros: micros.collect(),
        socket_bytes: grown.collect(),
        machine: usage.machine,
    })
}

async fn open(count: usize, concurrency: usize, nodes: &[SocketAddr]) -> Result<Vec<WsClient>> {
    let nodes: Arc<[SocketAddr]> = nodes.into();
    let opening = stream::iter(0..count).map(|index| {
        let node = nodes[index % nodes.len()];
        async move { Ok::<_, anyhow::Error>(Connect::to(node).welcome().await?.0) }
    });
    let opened: Vec<Result<WsClient>> = opening.buffer_unordered(concurrency).collect().await;
    opened.into_iter().collect::<Result<_>>().context("is the limit of open files high enough?")
}

impl fmt::Display for IdleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, plan, handshakes_per_second, .. } = self;
        let asked = if plan.ask.is_some() { ", each after one request" } else { "" };
        writeln!(f, "{target}: {} idle sockets{asked}", plan.sockets)?;
        writeln!(f, "  handshakes {handshakes_per_second:.0}/s")?;
        for (name, micros) in &self.handshake_micros {
            let kibibytes = self.socket_bytes.get(name).copied().unwrap_or_default() / 1024.0;
            writeln!(f, "  each       {micros:8.2} us, {kibibytes:8.2} KiB  {name}")?;
        }
        write!(f, "  {}", self.machine)
    }
}
