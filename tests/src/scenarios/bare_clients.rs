//! Situation: one node, an echo service; nothing on the client's side but wscat and curl.
//! Action: a bare frame is typed into wscat; curl posts a body.
//! Must hold: wscat shows the welcome and the response, curl the service's bytes.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tests::{SOON, cluster::Cluster, infra::repository};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

#[tokio::test]
async fn wscat_gets_an_answer_to_a_bare_frame() -> Result<()> {
    let cluster = Cluster::builder().service("echo").start().await?;
    let _echo = cluster.worker("echo").echo()?;

    let url = format!("ws://{}/ws", cluster.node(0).public());
    let frame = r#"{"service":"echo","payload":"hi"}"#;
    let wscat = repository().join("tests/.cache/wscat/node_modules/.bin/wscat");
    ensure!(wscat.exists(), "wscat is not installed: tests/setup");
    // Its standard input stays open: at its end wscat leaves.
    let mut wscat = Command::new(wscat)
        .args(["-c", &url, "-w", "-1", "-x", frame])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let shown = BufReader::new(wscat.stdout.take().context("no standard output")?);

    let mut lines = shown.lines();
    let mut next = async || timeout(SOON, lines.next_line()).await??.context("wscat has ended");
    let welcome = next().await?;
    ensure!(welcome.contains(r#""type":"welcome""#), "{welcome}");
    let response = next().await?;
    ensure!(response.contains(r#""type":"response""#), "{response}");
    ensure!(response.contains(r#""payload":"hi""#), "{response}");
    cluster.finish().await
}

#[tokio::test]
async fn curl_gets_the_services_bytes() -> Result<()> {
    let cluster = Cluster::builder().service("echo").start().await?;
    let _echo = cluster.worker("echo").echo()?;

    let url = format!("http://{}/v1/services/echo", cluster.node(0).public());
    let body = r#"{"hello":"world"}"#;
    let curl = ["-sS", "--max-time", "30", "-i", "--json", body, &url];
    let shown = Command::new("curl").args(curl).output().await?;

    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    ensure!(shown.starts_with("HTTP/1.1 200 "), "{shown}");
    ensure!(shown.ends_with(body), "{shown}");
    cluster.finish().await
}
