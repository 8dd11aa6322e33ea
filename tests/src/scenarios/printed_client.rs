//! Situation: the client that PROTOCOL.md prints, run by Node.js without `crypto.randomUUID`, which pages
//! over plain http lack.
//! Action: its node is killed while it waits; it is closed by its user while it connects, and while it waits
//! for its next try; it is asked after that.
//! Must hold: every promise settles, with what was answered or why not; once closed it leaves no socket and
//! no timer, so that its process ends.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use tests::{
    cluster::Cluster,
    infra::{free_port, repository},
    process::run_dir,
    terminal::Terminal,
};
use tokio::net::TcpListener;

/// The printed client as a module.
fn client() -> Result<PathBuf> {
    let page = fs::read_to_string(repository().join("gateway/PROTOCOL.md"))?;
    let (_, code) = page.split_once("```js\nexport function connect").context("no client")?;
    let (code, _) = code.split_once("\n```").context("the client does not end")?;
    let path = run_dir().join("printed_client.mjs");
    fs::write(&path, format!("export function connect{code}\n"))?;
    Ok(path)
}

/// Runs one of the stories of `printed_client.mjs` on these addresses.
fn tells(story: &str, urls: &[String]) -> Result<Terminal> {
    let here = repository().join("tests");
    let script = here.join("src/scenarios/printed_client.mjs");
    let ws = here.join(".cache/wscat/node_modules/ws/wrapper.mjs");
    let (script, ws, client) = (script.display(), ws.display(), client()?);
    Terminal::run(&format!("node {script} {} {ws} {story} {}", client.display(), urls.join(" ")))
}

#[tokio::test]
async fn the_printed_client_survives_its_node() -> Result<()> {
    let builder = Cluster::builder().nodes(2).service("echo").service("held");
    let mut cluster = builder.start().await?;
    cluster.balanced().await?;
    let _echo = cluster.worker("echo").echo()?;
    let (held, go) = cluster.worker("held").held()?;

    let urls: Vec<String> =
        cluster.nodes().iter().map(|node| format!("ws://{}", node.public())).collect();
    let mut page = tells("survives", &urls)?;
    page.sees(r#"first: response {"n":1}"#).await?;
    held.has_seen(1).await?;
    cluster.node_mut(0).kill();
    go.send_replace(true);

    page.sees(r#"held: response "late""#).await?;
    page.sees("unknown: rejected, unknown_service").await?;
    page.sees("huge: rejected, over ").await?;
    page.sees("small: response 3").await?;
    page.sees("after: rejected, closed by its user").await?;
    page.ends().await?;
    cluster.finish().await
}

#[tokio::test]
async fn the_printed_client_closes_while_it_connects() -> Result<()> {
    let mute = TcpListener::bind("127.0.0.1:0").await?;
    let mut page = tells("connecting", &[format!("ws://{}", mute.local_addr()?)])?;
    page.sees("asked").await?;
    let _connection = mute.accept().await?;
    page.types("close").await?;
    page.sees("one: rejected, closed by its user").await?;
    page.ends().await?;
    Ok(())
}

#[tokio::test]
async fn the_printed_client_closes_while_it_waits() -> Result<()> {
    let mut page = tells("waiting", &[format!("ws://127.0.0.1:{}", free_port())])?;
    page.sees("one: rejected, closed by its user").await?;
    let shown = page.ends().await?;
    ensure!(!shown.contains("tries again"), "{shown}");
    Ok(())
}
