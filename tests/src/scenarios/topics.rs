//! Situation: a broker without the topics that a configuration names, then with them, then with one
//! that is not as it should be.
//! Action: `topics`, with and without `--dry-run`.
//! Must hold: they are created as configured, and not by a dry run; what exists is left alone, and
//! what differs is said.

use anyhow::{Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use tests::{SOON, cluster::Cluster, process::command};
use tokio::process::Command;

async fn topics(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let mut command = command(cluster.node(0).program());
    command.args(["topics", "--config"]).arg(cluster.node(0).config()).args(arguments);
    let output = Command::from(command).output().await?;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(0), "{}: {shown}{said}", output.status);
    Ok(shown)
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
    assert_eq!(partitions(&cluster, &replies)?, 5, "what exists is left alone");

    // And a node can work with what was created.
    cluster.node_mut(0).restart().await?;
    let _worker = cluster.worker("old").echo()?;
    assert_eq!(cluster.node(0).ws().await?.request("old", "1").await?.payload(), "1");
    cluster.finish().await
}
