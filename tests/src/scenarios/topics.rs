//! Situation: a broker without the topics that a configuration names, then with them, then with one
//! that is not as it should be; and no broker at all.
//! Action: `topics`, with and without `--dry-run` and `--check`; `serve`, and a call.
//! Must hold: they are created as configured, and not by a dry run; what exists is left alone, and
//! what differs is said, as a failure only where that is asked for. A broker that is not there is
//! told within five seconds, with address and cause. What is missing is named, and what creates it; a
//! node creates nothing by itself, also where the broker would let it.

use std::time::Duration;

use anyhow::{Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use tests::{SOON, cluster::Cluster, eventually, infra::free_port, process::command};
use tokio::{process::Command, time::Instant};

/// What `topics` shows, after it ended well.
async fn topics(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let (code, shown, said) = run(cluster, arguments).await?;
    ensure!(code == Some(0), "{code:?}: {shown}{said}");
    Ok(shown)
}

/// Its exit code, and what it shows and says.
async fn run(cluster: &Cluster, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    let mut command = command(cluster.node(0).program());
    command.args(["topics", "--config"]).arg(cluster.node(0).config()).args(arguments);
    let output = Command::from(command).output().await?;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code(), shown, said))
}

/// How many partitions a topic has; 0 when there is none.
fn partitions(cluster: &Cluster, topic: &str) -> Result<usize> {
    let asking: BaseConsumer = cluster.kafka().client().create()?;
    let metadata = asking.fetch_metadata(None, SOON)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    Ok(found.map_or(0, |topic| topic.partitions().len()))
}

#[tokio::test]
async fn topics_are_created_and_compared() -> Result<()> {
    let config = "[kafka]\nreply_topic = \"{tag}.new-replies\"\nreply_partitions = 5\n\
                  [services.new]\nrequest_topic = \"{tag}.new\"";
    let mut cluster = Cluster::builder().service("old").config(config).prepare().await?;
    let (replies, new, old) =
        (cluster.topic("new-replies"), cluster.topic("new"), cluster.topic("old.requests"));

    let shown = topics(&cluster, &["--dry-run"]).await?;
    ensure!(shown.contains(&format!("{replies}: would be created")), "{shown}");
    ensure!(shown.contains(&format!("{new}: would be created")), "{shown}");
    ensure!(shown.contains(&format!("{old}: exists as configured")), "{shown}");
    assert_eq!((partitions(&cluster, &replies)?, partitions(&cluster, &new)?), (0, 0));

    let shown = topics(&cluster, &[]).await?;
    ensure!(shown.contains(&format!("{replies}: created")), "{shown}");
    ensure!(shown.contains(&format!("{new}: created")), "{shown}");
    assert_eq!(partitions(&cluster, &replies)?, 5);

    let shown = topics(&cluster, &[]).await?;
    for topic in [&replies, &new, &old] {
        ensure!(shown.contains(&format!("{topic}: exists as configured")), "{shown}");
    }

    let changed = std::fs::read_to_string(cluster.node(0).config())?
        .replace("reply_partitions = 5", "reply_partitions = 8");
    std::fs::write(cluster.node(0).config(), changed)?;
    let shown = topics(&cluster, &[]).await?;
    ensure!(shown.contains(&format!("{replies}: exists and differs")), "{shown}");
    ensure!(shown.contains("number of partitions is 5, should be 8"), "{shown}");
    let (code, shown, said) = run(&cluster, &["--check"]).await?;
    ensure!(code == Some(1) && shown.contains("should be 8"), "{code:?}: {shown}{said}");
    assert_eq!(partitions(&cluster, &replies)?, 5, "what exists is left alone");

    // And a node can work with what was created.
    cluster.node_mut(0).restart().await?;
    let _worker = cluster.worker("old").echo()?;
    assert_eq!(cluster.node(0).ws().await?.request("old", "1").await?.payload(), "1");
    cluster.finish().await
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_named() -> Result<()> {
    let nobody = format!("127.0.0.1:{}", free_port());
    let config = format!("kafka.bootstrap_servers = \"{nobody}\"");
    let cluster = Cluster::builder().config(&config).prepare().await?;
    let began = Instant::now();
    let (code, shown, said) = run(&cluster, &[]).await?;
    let took = began.elapsed();
    ensure!(code == Some(1), "{code:?}: {shown}{said}");
    ensure!(took < Duration::from_secs(5), "it took {took:?}");
    ensure!(said.contains(&nobody) && said.contains("Connection refused"), "{said}");
    cluster.finish().await
}

#[tokio::test]
async fn missing_topics_are_named_with_what_creates_them() -> Result<()> {
    let config = "[kafka]\nreply_topic = \"{tag}.no-replies\"\n\
                  [services.lost]\nrequest_topic = \"{tag}.no-requests\"";
    let lenient = ["auto.create.topics.enable=true"];
    let mut cluster = Cluster::builder().config(config).own_kafka(&lenient).prepare().await?;
    let (replies, requests) = (cluster.topic("no-replies"), cluster.topic("no-requests"));
    let missing = run(&cluster, &["--check"]).await?;
    ensure!(missing.0 == Some(1), "{missing:?}");
    ensure!(partitions(&cluster, &replies)? == 0, "a check creates nothing");

    cluster.node_mut(0).start()?;
    cluster.node_mut(0).bound().await?;
    eventually(SOON, "both are named", async || {
        let log = std::fs::read_to_string(cluster.node(0).log())?;
        for topic in [&replies, &requests] {
            let is_named = |line: &str| {
                line.contains("WARN") && line.contains(topic) && line.contains("roundtrip topics")
            };
            ensure!(log.lines().any(is_named), "{topic} is not named");
        }
        let answer = cluster.node(0).internal("/readyz").await?.text();
        ensure!(answer.contains(&format!("topic {replies} does not exist")), "{answer}");
        Ok(())
    })
    .await?;

    cluster.kafka().create_topics(&[(&replies, 4)]).await?;
    cluster.node_mut(0).ready().await?;
    let answer = cluster.node(0).http().post("/v1/services/lost", "1").await?.text();
    ensure!(answer.contains(&requests) && answer.contains("roundtrip topics"), "{answer}");
    ensure!(partitions(&cluster, &requests)? == 0, "a call creates nothing");
    cluster.finish().await
}
