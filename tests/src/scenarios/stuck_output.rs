//! Situation: a standard output that is a full pipe, which nobody reads.
//! Action: `roundtrip serve` and `roundtrip dev` are started, and asked to stop.
//! Must hold: they become ready, and drain.

use std::process::Command;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tests::{
    SOON,
    cluster::Cluster,
    eventually,
    infra::node_program,
    process::{Process, command, run_dir},
};

/// Starts it, waits until it says to its log that it takes requests, and stops it.
async fn starts_and_stops(command: Command, name: &str) -> Result<()> {
    let log = run_dir().join(format!("{name}-stuck.log"));
    let (mut process, _unread) = Process::spawn_stuck(command, &log)?;
    eventually(SOON, "the node is ready", async || {
        process.runs()?;
        ensure!(process.output()?.contains("ready: takes requests"), "not yet");
        Ok(())
    })
    .await?;
    process.signal(Signal::SIGTERM)?;
    let status = process.end(SOON).await?;
    ensure!(status.success(), "{name} ended with {status}: {}", process.output()?);
    Ok(())
}

#[tokio::test]
async fn a_node_starts_and_stops_whoever_does_not_read_where_it_listens() -> Result<()> {
    let cluster = Cluster::builder().service("echo").prepare().await?;
    let mut serve = command(cluster.node(0).program());
    serve.args(["serve", "--config"]).arg(cluster.node(0).config());
    starts_and_stops(serve, "serve").await?;
    cluster.finish().await
}

#[tokio::test]
async fn dev_starts_and_stops_whoever_does_not_read_what_it_prints() -> Result<()> {
    let mut dev = command(&node_program()?);
    dev.args(["dev", "--port", "0"]);
    starts_and_stops(dev, "dev").await
}
