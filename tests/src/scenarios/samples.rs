//! Situation: `samples`, with a configuration whose broker is not there, or whose topic is not.
//! Action: the broker, and the topic, come.
//! Must hold: it says what is missing, with address and cause, and not that it answers; then it answers.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tests::{
    SOON,
    cluster::Cluster,
    eventually,
    infra::proxy::{Link, Proxy},
    process::{Process, command},
};

/// The command at work, with the broker that its configuration names, or another one.
fn samples(cluster: &Cluster, log: &Path, bootstrap: Option<&str>) -> Result<Process> {
    let mut command = command(cluster.node(0).program());
    command.args(["samples", "--config"]).arg(cluster.node(0).config());
    if let Some(bootstrap) = bootstrap {
        command.env("ROUNDTRIP_KAFKA__BOOTSTRAP_SERVERS", bootstrap);
    }
    Process::spawn(command, log)
}

async fn says(samples: &mut Process, what: &[&str]) -> Result<()> {
    eventually(SOON, "it says what is expected", async || {
        samples.runs()?;
        let output = samples.output()?;
        let is_said = output.lines().any(|line| what.iter().all(|part| line.contains(part)));
        ensure!(is_said, "no line with {what:?} in:\n{output}");
        Ok(())
    })
    .await
}

fn says_nothing_of_answering(samples: &Process) -> Result<()> {
    let output = samples.output()?;
    ensure!(!output.lines().any(|line| line.starts_with("answering")), "{output}");
    Ok(())
}

async fn ends_well(mut samples: Process) -> Result<()> {
    samples.signal(Signal::SIGTERM)?;
    let status = samples.end(SOON).await?;
    ensure!(status.success(), "{status}: {}", samples.output()?);
    Ok(())
}

#[tokio::test]
async fn samples_say_which_broker_they_cannot_reach() -> Result<()> {
    let mut cluster = Cluster::builder().service("echo").prepare().await?;
    let proxy = Proxy::start().await?;
    proxy.set(Link::Cut);
    proxy.lead_to(cluster.kafka().bootstrap().parse().context("an address of this machine")?);
    let address = proxy.address().to_string();

    let log = cluster.node(0).log().with_file_name("samples-without-a-broker.log");
    let mut samples = samples(&cluster, &log, Some(&address))?;
    says(&mut samples, &["WARN", "not answering", "kafka cannot be reached", &address]).await?;
    says_nothing_of_answering(&samples)?;

    proxy.heal();
    says(&mut samples, &["answering echo"]).await?;
    cluster.node_mut(0).restart().await?;
    assert_eq!(cluster.node(0).ws().await?.request("echo", "7").await?.payload(), "7");
    ends_well(samples).await?;
    cluster.finish().await
}

#[tokio::test]
async fn samples_say_which_topic_is_missing() -> Result<()> {
    let config = "[services.echo]\nrequest_topic = \"{tag}.not-yet\"";
    let cluster = Cluster::builder().config(config).prepare().await?;
    let topic = cluster.topic("not-yet");
    let log = cluster.node(0).log().with_file_name("samples-without-a-topic.log");
    let mut samples = samples(&cluster, &log, None)?;
    says(&mut samples, &["WARN", "not answering", &topic, "does not exist"]).await?;
    says_nothing_of_answering(&samples)?;

    cluster.kafka().create_topics(&[(&topic, 1)]).await?;
    says(&mut samples, &["answering echo"]).await?;
    ends_well(samples).await?;
    cluster.finish().await
}
