//! Situation: one node, an echo service; nothing on the client's side but wscat and curl.
//! Action: a bare frame is typed into wscat; curl posts a body.
//! Must hold: wscat shows the welcome and the response, curl the service's bytes.

use anyhow::{Result, ensure};
use tests::{cluster::Cluster, wscat::Wscat};
use tokio::process::Command;

#[tokio::test]
async fn wscat_gets_an_answer_to_a_bare_frame() -> Result<()> {
    let cluster = Cluster::builder().service("echo").start().await?;
    let _echo = cluster.worker("echo").echo()?;

    let url = format!("ws://{}/ws", cluster.node(0).public());
    let mut wscat = Wscat::start(&["-c", &url])?;
    let welcome = wscat.shows().await?;
    ensure!(welcome.contains(r#""type":"welcome""#), "{welcome}");
    wscat.enter(r#"{"service":"echo","payload":"hi"}"#).await?;
    let response = wscat.shows().await?;
    ensure!(response.contains(r#""type":"response""#), "{response}");
    ensure!(response.contains(r#""payload":"hi""#), "{response}");
    cluster.finish().await
}

#[tokio::test]
async fn wscat_may_be_given_the_frame() -> Result<()> {
    let cluster = Cluster::builder().service("echo").start().await?;
    let _echo = cluster.worker("echo").echo()?;

    let url = format!("ws://{}/ws", cluster.node(0).public());
    let frame = r#"{"service":"echo","id":"a","payload":[1.50]}"#;
    let mut wscat = Wscat::start(&["-c", &url, "-w", "-1", "-x", frame])?;
    wscat.shows().await?;
    let response = wscat.shows().await?;
    ensure!(response.contains(r#""id":"a""#), "{response}");
    ensure!(response.contains(r#""payload":[1.50]"#), "{response}");
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
