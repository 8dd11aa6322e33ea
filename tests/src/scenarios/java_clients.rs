//! Situation: a service of which messages can be deleted; Kafka's own Java clients, with the plug-ins of
//! `clients/java`, which Maven builds and tests.
//! Action: a producer writes three messages of one key, and the gateway deletes the second; producers
//! write random keys, with the plug-ins and as Java does it.
//! Must hold: a Java consumer sees the first and the third under the key that was meant, and commits all
//! there is, also when what comes last are deletions. All agree on the partition of every key.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use gateway::{bus::partitioner::partition_for, deletable};
use http::Method;
use tests::{SOON, cluster::Cluster, eventually, infra::repository};
use tokio::{process::Command, sync::OnceCell};
use uuid::Uuid;

const PARTITIONS: i32 = 5;
const KEYS: usize = 1000;
const CONFIG: &str = "[services.notes]\nrequest_topic = \"{tag}.notes.requests\"\n\
                      deletable = true\ngone_within = \"10s\"";
/// However slow the machine is.
const PATIENCE: Duration = Duration::from_secs(90);

/// Where `java` finds the plug-ins, which are built and tested once, and Kafka's classes.
async fn class_path() -> Result<&'static str> {
    static BUILT: OnceCell<String> = OnceCell::const_new();
    Ok(BUILT.get_or_try_init(build).await?)
}

async fn build() -> Result<String> {
    let clients = repository().join("clients/java");
    let mut maven = Command::new("mvn");
    maven.args(["-q", "-B", "-f"]).arg(clients.join("pom.xml")).arg("package");
    let built = maven.output().await.context("mvn is missing: tests/setup installs it")?;
    ensure!(
        built.status.success(),
        "Maven could not build clients/java (tests/setup gets what it needs):\n{}",
        String::from_utf8_lossy(&built.stdout)
    );
    let fetched = Command::new(repository().join("compose/kafka/fetch")).output().await?;
    let lib = String::from_utf8(fetched.stdout)?;
    let jar = clients.join("target/roundtrip-kafka-0.1.0.jar");
    Ok(format!("{}:{}/*", jar.display(), lib.trim()))
}

struct Java {
    class_path: &'static str,
    program: PathBuf,
    broker: String,
}

impl Java {
    async fn new(cluster: &Cluster) -> Result<Self> {
        let program = repository().join("tests/src/scenarios/DeletableClients.java");
        let broker = cluster.kafka().bootstrap().to_owned();
        Ok(Self { class_path: class_path().await?, program, broker })
    }

    /// What a client prints.
    async fn run(&self, verb: &str, arguments: &[&str]) -> Result<Vec<String>> {
        let mut java = Command::new("java");
        java.args(["-cp", self.class_path]).arg(&self.program).arg(verb).arg(&self.broker);
        let output = java.args(arguments).kill_on_drop(true).output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "java failed: {}: {said}", output.status);
        Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
    }
}

async fn cluster() -> Result<Cluster> {
    let settings = ["num.partitions=5"];
    let builder = Cluster::builder().config(CONFIG).own_kafka(&settings);
    let mut cluster = builder.topic("plain", PARTITIONS).prepare().await?;
    let mut topics = tests::process::command(cluster.node(0).program());
    topics.args(["topics", "--config"]).arg(cluster.node(0).config());
    let created = Command::from(topics).output().await?;
    ensure!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    cluster.node_mut(0).start()?;
    cluster.node_mut(0).ready().await?;
    Ok(cluster)
}

#[tokio::test]
async fn what_java_has_written_is_deleted_and_read_by_java() -> Result<()> {
    let cluster = cluster().await?;
    let java = Java::new(&cluster).await?;
    let topic = cluster.topic("notes.requests");
    let key = "customer-7/ä#1";
    let values = [(); 3].map(|()| Uuid::new_v4().to_string());
    let [first, second, third] = values.each_ref().map(String::as_str);

    let places = java.run("write", &[&topic, key, first, second, third]).await?;
    let partition = partition_for(key.as_bytes(), PARTITIONS);
    ensure!(places.len() == 3, "{places:?}");
    ensure!(places.iter().all(|at| at.starts_with(&format!("{partition} "))), "{places:?}");

    let tap = cluster.tap("notes.requests")?;
    let guids = eventually(SOON, "all three are seen", async || {
        let seen = tap.seen();
        let guid_of = |value: &str| {
            let found = seen.iter().find(|seen| seen.text() == value)?;
            let (bare, guid) = deletable::split(found.key.as_deref()?)?;
            (bare == key.as_bytes()).then(|| guid.to_owned())
        };
        let guids: Option<Vec<String>> = values.iter().map(|value| guid_of(value)).collect();
        guids.with_context(|| format!("{seen:?}"))
    })
    .await?;

    let path = format!("/v1/services/notes/messages/customer-7%2F%C3%A4%231/{}", guids[1]);
    let deleted = cluster.node(0).http().send(Method::DELETE, &path, &[], "").await?;
    assert_eq!(deleted.status, 202, "{}", deleted.text());
    assert_eq!(deleted.json()?["partition"], partition);
    eventually(PATIENCE, "it is gone", async || {
        let segments = cluster.kafka().segments()?;
        let has = |content: &[u8]| content.windows(36).any(|window| window == second.as_bytes());
        ensure!(!segments.iter().any(|(_, content)| has(content)), "it is still there");
        Ok(())
    })
    .await?;

    let group = cluster.topic("java");
    let read = java.run("read", &[&topic, &group, third]).await?;
    assert_eq!(
        read,
        [format!("{key} {} {first}", guids[0]), format!("{key} {} {third}", guids[2]),]
    );
    cluster.finish().await
}

#[tokio::test]
async fn all_agree_on_the_partition_of_a_key() -> Result<()> {
    let cluster = cluster().await?;
    let java = Java::new(&cluster).await?;
    let (topic, plain) = (cluster.topic("notes.requests"), cluster.topic("plain"));
    let lines = java.run("partitions", &[&topic, &plain, &KEYS.to_string()]).await?;
    assert_eq!(lines.len(), KEYS);
    for line in lines {
        let mut words = line.split(' ');
        let key = hex(words.next().context("no key")?)?;
        let expected = partition_for(&key, PARTITIONS).to_string();
        assert_eq!(words.collect::<Vec<_>>(), [&*expected, &*expected], "{line}");
    }
    cluster.finish().await
}

fn hex(text: &str) -> Result<Vec<u8>> {
    let pair = |at: usize| Ok(u8::from_str_radix(text.get(at..at + 2).context("odd")?, 16)?);
    (0..text.len()).step_by(2).map(pair).collect()
}
