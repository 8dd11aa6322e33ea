//! Situation: three nodes, a service that keys its replies with the correlation id.
//! Action: requests on every node; then Kafka's own Java class says where each reply belongs.
//! Must hold: every reply is where Java's partitioner puts its key, and no partition serves two
//! nodes: the request ids were chosen for the partitions their node owns.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use tests::{cluster::Cluster, infra::repository};
use tokio::{io::AsyncWriteExt, process::Command};

const REQUESTS: usize = 100;
const PARTITIONS: i32 = 12;

#[tokio::test]
async fn request_ids_hash_to_partitions_of_their_node() -> Result<()> {
    let cluster =
        Cluster::builder().nodes(3).service("echo").reply_partitions(PARTITIONS).start().await?;
    let _echo = cluster.worker("echo").echo()?;
    cluster.balanced().await?;
    let tap = cluster.tap("replies")?;

    let mut asked_on = BTreeMap::new();
    for node in cluster.nodes() {
        let mut ws = node.ws().await?;
        for _ in 0..REQUESTS {
            let id = ws.request("echo", "1").await?.request_id();
            asked_on.insert(id, node.id().to_owned());
        }
    }
    let replies = tap.has_seen(asked_on.len()).await?;

    let ids: Vec<&str> = asked_on.keys().map(String::as_str).collect();
    let java = java_partitions(&ids).await?;
    let mut owners: BTreeMap<i32, BTreeSet<&str>> = BTreeMap::new();
    for reply in &replies {
        let id = reply.header("kafka_correlationId");
        let expected = *java.get(&id).context("a reply to nobody")?;
        ensure!(reply.partition == expected, "{id} in {}, not {expected}", reply.partition);
        owners.entry(expected).or_default().insert(&asked_on[&id]);
    }
    for (partition, nodes) in owners {
        ensure!(nodes.len() == 1, "partition {partition} serves {nodes:?}");
    }
    cluster.finish().await
}

/// Asks the partitioner of Kafka's Java client.
async fn java_partitions(keys: &[&str]) -> Result<BTreeMap<String, i32>> {
    let fetched = Command::new(repository().join("compose/kafka/fetch")).output().await?;
    let lib = String::from_utf8(fetched.stdout)?;
    let mut java = Command::new("java")
        .args(["-cp", &format!("{}/*", lib.trim())])
        .arg(repository().join("tests/src/scenarios/Murmur.java"))
        .arg(PARTITIONS.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = java.stdin.take().context("no standard input")?;
    stdin.write_all(keys.join("\n").as_bytes()).await?;
    drop(stdin);
    let output = java.wait_with_output().await?;
    ensure!(output.status.success(), "java failed: {}", output.status);
    let lines = String::from_utf8(output.stdout)?;
    lines
        .lines()
        .map(|line| {
            let (key, partition) = line.split_once(' ').context("no partition")?;
            Ok((key.to_owned(), partition.parse()?))
        })
        .collect()
}
