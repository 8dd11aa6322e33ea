//! Situation: two nodes; a service whose framework writes what it cannot handle into a dead-letter
//! topic, as Spring Kafka does; among its letters some that belong to no request.
//! Action: requests that it handles and others that it does not, over both edges of both nodes.
//! Must hold: each ends once, those it has given up with `service_error` and the exception's message,
//! long before their deadlines; nothing stops the readers.

use anyhow::{Result, ensure};
use tests::{SOON, cluster::Cluster, eventually, worker::Reply};

const CONFIG: &str = "[services.orders]\ndead_letter_topic = \"{tag}.dead\"\ntimeout = \"60s\"";
const PARTITIONS: i32 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_ends_its_request() -> Result<()> {
    let cluster = Cluster::builder()
        .nodes(2)
        .service("orders")
        .topic("dead", PARTITIONS)
        .config(CONFIG)
        .start()
        .await?;
    let dead = cluster.topic("dead");
    let _service = cluster.worker("orders").start({
        let dead = dead.clone();
        move |seen| match seen.text().as_str() {
            "1" => vec![Reply::echo(seen)],
            // The key is the request's own, and says nothing of it.
            "2" => vec![
                Reply::echo(seen)
                    .to(&dead)
                    .keyed("order-1")
                    .header("kafka_dlt-exception-message", "no such order"),
            ],
            _ => vec![Reply::echo(seen).to(&dead)],
        }
    })?;
    for partition in 0..PARTITIONS {
        let nobody = [("kafka_correlationId", Some(b"x".as_slice()))];
        cluster.kafka().produce(&dead, partition, Some(b"order-1"), Some(b"2"), &nobody).await?;
    }

    for round in 0..8 {
        let node = cluster.node(round % 2);
        let mut ws = node.ws().await?;
        assert_eq!(ws.request("orders", "1").await?.payload(), "1");
        let error = ws.request("orders", "2").await?;
        ensure!(error.raw("code") == Some(r#""service_error""#), "{error:?}");
        ensure!(error.raw("status") == Some("502"), "{error:?}");
        ensure!(error.raw("recorded") == Some("true"), "{error:?}");
        ensure!(error.payload() == r#""no such order""#, "{error:?}");
        let error = ws.request("orders", "3").await?;
        ensure!(error.raw("status") == Some("502"), "{error:?}");

        let answer = node.http().post("/v1/services/orders", "2").await?;
        ensure!(answer.status == 502 && answer.text() == "no such order", "{answer:?}");
        ensure!(answer.header("content-type").starts_with("text/plain"), "{answer:?}");
        let answer = node.http().post("/v1/services/orders", "3").await?;
        ensure!(answer.status == 502, "{answer:?}");
        ensure!(answer.json()?["code"] == "service_error", "{answer:?}");
    }

    let labels = [("reason", "malformed_correlation")];
    let skipped = cluster.sum("roundtrip_records_skipped_total", &labels).await?;
    // A partition that changes its reader before its offset is committed is read again.
    ensure!(skipped >= f64::from(PARTITIONS), "{skipped}");
    eventually(SOON, "all of it is handled", async || {
        let group = format!("{}.{dead}", cluster.tag());
        let lag = cluster.kafka().lag(&group, &dead, PARTITIONS)?;
        ensure!(lag == 0, "{lag} letters are not handled");
        Ok(())
    })
    .await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_dead_letter_topic_that_is_not_there_is_named_and_created() -> Result<()> {
    let cluster = Cluster::builder().service("orders").config(CONFIG).start().await?;
    let dead = cluster.topic("dead");
    let _echo = cluster.worker("orders").echo()?;
    assert_eq!(cluster.node(0).ws().await?.request("orders", "1").await?.payload(), "1");
    let degraded = async || {
        let ready = cluster.node(0).internal("/readyz").await?;
        ensure!(ready.status == 200, "{ready:?}");
        Ok(ready.json()?["degraded"].to_string())
    };
    eventually(SOON, "the topic is named", async || {
        let degraded = degraded().await?;
        ensure!(degraded.contains(&format!("topic {dead} does not exist")), "{degraded}");
        Ok(())
    })
    .await?;
    let program = cluster.node(0).program();
    let mut command = tests::process::command(program);
    command.args(["topics", "--config"]).arg(cluster.node(0).config());
    let output = tokio::process::Command::from(command).output().await?;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(shown.contains(&format!("{dead}: created")), "{shown}");
    eventually(SOON, "it is read", async || {
        let degraded = degraded().await?;
        ensure!(degraded == "[]", "{degraded}");
        Ok(())
    })
    .await?;
    cluster.finish().await
}
