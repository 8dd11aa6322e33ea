//! Faults at scale: what is lost, repeated or late when nodes, Redis, Kafka and links fail again and
//! again under load.
//!
//! `chaos --requests 100000 --report RELIABILITY.md` runs every fault on a cluster of its own, one
//! after the other, and writes the loss report. Exit code 1 when anything was lost or wrong.

use std::{fmt::Write, fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Result, ensure};
use clap::Parser;
use rand::RngExt;
use tests::{
    drill::{Drill, Outcome},
    faults::Fault,
};

#[derive(Clone, Debug, Parser)]
struct Options {
    /// How many requests must be accepted under each fault.
    #[arg(long, default_value_t = 100_000)]
    requests: u64,
    /// Which faults, by name; `all` for all of them. May be repeated.
    #[arg(long, default_value = "all")]
    fault: Vec<String>,
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    #[arg(long, default_value_t = 50)]
    clients: usize,
    /// Requests per second of all clients together.
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// Seconds from one strike of the fault to the next.
    #[arg(long, default_value_t = 15.0)]
    period: f64,
    /// Seconds of load before a fault's first strike that are not counted.
    #[arg(long, default_value_t = 30)]
    warm_up: u32,
    /// What all choices follow from; random, unless said otherwise.
    #[arg(long)]
    seed: Option<u64>,
    /// Writes the loss report to this file.
    #[arg(long)]
    report: Option<PathBuf>,
}

struct Line {
    fault: Fault,
    outcome: Outcome,
    command: String,
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "says how far it is")]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    ensure!(options.nodes >= 2 && options.clients >= 1 && options.rate >= 1.0, "too few");
    let faults = match options.fault.iter().any(|name| name == "all") {
        true => Fault::ALL.to_vec(),
        false => options.fault.iter().map(|name| name.parse()).collect::<Result<_>>()?,
    };
    let seed = options.seed.unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    let mut lines = Vec::new();
    for fault in faults {
        let line = run(&options, fault, seed).await?;
        let verdict = if line.failed() { "FAILED" } else { "ok" };
        println!("{fault}: {verdict}; {}", summary(&line.outcome));
        if let Err(error) = &line.outcome.ended_well {
            println!("{fault}: {error:#}");
        }
        for complaint in &line.outcome.account.complaints {
            println!("{fault}: {complaint}");
        }
        lines.push(line);
        // After each: a run of hours that breaks off has a report all the same.
        if let Some(path) = &options.report {
            fs::write(path, report(&options, &lines)?)?;
        }
    }
    let failed = lines.iter().any(Line::failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[expect(clippy::print_stdout, reason = "says how far it is")]
async fn run(options: &Options, fault: Fault, seed: u64) -> Result<Line> {
    let Options { requests, nodes, clients, rate, period, warm_up, .. } = *options;
    let command = format!(
        "chaos --fault {fault} --requests {requests} --nodes {nodes} --clients {clients} \
         --rate {rate} --period {period} --warm-up {warm_up} --seed {seed}"
    );
    println!("{fault}: {}; {command}", fault.description());
    let period = Duration::from_secs_f64(period);
    let cold = warm_up == 0;
    let slack = 1;
    let drill = Drill { fault, nodes, clients, rate, seed, requests, period, warm_up, cold, slack };
    let outcome = drill.run(|_, _| {}).await?;
    Ok(Line { fault, outcome, command })
}

impl Line {
    fn failed(&self) -> bool {
        let account = &self.outcome.account;
        account.breaches() > 0
            || account.silent > 0
            || (account.unserved > 0 && !self.fault.promise().allowed.unserved)
            || self.outcome.ended_well.is_err()
    }
}

fn summary(outcome: &Outcome) -> String {
    let account = &outcome.account;
    format!(
        "{} strikes, {} accepted, {} answered, {} lost, {} wrong, {} repeated, resume p99 {}",
        outcome.strikes,
        account.accepted,
        account.answered,
        account.lost + account.silent + account.broken,
        account.wrong + account.duplicated,
        account.repeats,
        millis(account.resume_percentile(99)),
    )
}

fn report(options: &Options, lines: &[Line]) -> Result<String> {
    let mut text = String::from(
        "# Reliability\n\n\
         What became of requests while a fault struck again and again. Each line is a cluster of its \
         own with a real\nKafka and a real Redis, on one machine. The clients acknowledge, resume on \
         whatever node they find, and keep\nbook of every frame; the services answer at once, within \
         500 ms, or within 500 ms on any partition.\n\n",
    );
    let Options { nodes, clients, rate, period, warm_up, .. } = options;
    writeln!(
        text,
        "{nodes} nodes, {clients} clients, {rate} requests per second, a strike every {period} s \
         (or as soon as the cluster is well again),\nafter {warm_up} s that are not counted: a cold \
         broker lets its clients wait for seconds by itself.\n"
    )?;
    text.push_str(
        "| fault | strikes | accepted | answered | errors | lost | wrong | repeated | produced \
         twice | longest wait | of others | resume p50 | p99 |\n\
         |---|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for Line { fault, outcome, .. } in lines {
        let account = &outcome.account;
        let errors: Vec<String> =
            account.errors.iter().map(|(code, count)| format!("{count} `{code}`")).collect();
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            fault.description(),
            outcome.strikes,
            account.accepted,
            account.answered,
            errors.join(", "),
            account.lost + account.silent + account.broken,
            account.wrong + account.duplicated,
            account.repeats,
            outcome.produced_again,
            millis(account.longest_wait),
            millis(account.longest_wait_of_survivors),
            millis(account.resume_percentile(50)),
            millis(account.resume_percentile(99)),
        )?;
    }
    text.push_str(
        "\n* *errors*: each says whether its request is, or may be, recorded. While Kafka is away new requests \
         are refused; the\n  services' own clients fail with it too, and what they do not answer ends with `timeout`.\n\
         * *lost*: accepted and never ended, or never heard of again, or a session that was not \
         resumed.\n\
         * *wrong*: an answer too many, another's answer, a number out of order, a close code that \
         nothing explains.\n\
         * *repeated*: frames that came again because their node was killed before it had the \
         acknowledgement.\n\
         * *produced twice*: requests that the service saw twice, under one request id: two records, or one that \
         its consumer\n  read again because it had been missed by its group while Kafka stood still.\n\
         * *of others*: the longest wait of those whose node was well.\n\
         * *resume*: from the beginning of a connection, to a node that was well, to its `welcome`.\n\n\
         Each line again, after `cargo build --profile dist -p tests -p bench --bins`, from `target/dist`:\n\n```\n",
    );
    for line in lines {
        writeln!(text, "{}", line.command)?;
    }
    text.push_str("```\n");
    Ok(text)
}

fn millis(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}
