//! Load on an echo service, and what a round trip, a socket and a handshake cost.
//!
//! `loadgen --target floor load --rate 1000` starts a broker, an echo service and the floor,
//! measures them and prints a report. `node` and `nodes=3` measure the gateway in the same way.

use std::{fs::OpenOptions, io::Write, path::PathBuf};

use anyhow::Result;
use bench::{
    bare,
    idle::{self, IdlePlan},
    lab::{Lab, Replies, Target},
    plan::Plan,
    sockets,
};
use clap::{Parser, Subcommand};
use serde::Serialize;

#[derive(Debug, Parser)]
struct Options {
    /// What is measured: bare (no gateway), floor, node, nodes=N, or HOST:PORT,… of running nodes.
    #[arg(long, default_value = "floor")]
    target: String,
    /// One more process to measure, as NAME=PID; of use with running nodes.
    #[arg(long)]
    pid: Vec<String>,
    #[command(flatten)]
    replies: Replies,
    /// Appends the report to this file, as one line of JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Fails when others burned more of the machine than this, in percent.
    #[arg(long, default_value_t = 5.0)]
    noise_max: f64,
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Clone, Debug, Subcommand)]
enum Measurement {
    /// Round trips, in an open or a closed loop.
    Load(Plan),
    /// Handshakes, and sockets that are merely held.
    Idle(IdlePlan),
}

// One thread: the asker shares the machine with what it measures.
#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "prints its report")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let target: Target = options.target.parse()?;
    let mut lab = Lab::start(&target, &options.replies).await?;
    for pid in &options.pid {
        let (name, pid) = pid.split_once('=').unwrap_or(("target", pid));
        lab.meter.add(name, pid.parse()?);
    }
    let (shown, json, noise) = measure(&options, &target, &lab).await?;
    println!("{shown}");
    if let Some(path) = &options.json {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        writeln!(file, "{json}")?;
    }
    lab.finish().await?;
    anyhow::ensure!(noise <= options.noise_max, "too noisy: others burned {noise:.1} %");
    Ok(())
}

async fn measure(options: &Options, target: &Target, lab: &Lab) -> Result<(String, String, f64)> {
    match &options.measurement {
        Measurement::Idle(plan) => {
            let report = idle::run(&options.target, plan, &lab.addresses, &lab.meter).await?;
            Ok((report.to_string(), json(&report)?, report.machine.rest_percent))
        }
        Measurement::Load(plan) => {
            let (recorder, usage, unsent) = match target {
                Target::Bare => bare::run(plan, &lab.topics, &lab.meter).await?,
                _ => sockets::run(plan, &lab.addresses, &lab.meter).await?,
            };
            let report = recorder.report(&options.target, plan, unsent, usage);
            let noise = report.usage.machine.rest_percent;
            Ok((report.to_string(), json(&report)?, noise))
        }
    }
}

fn json(report: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(report)?)
}
