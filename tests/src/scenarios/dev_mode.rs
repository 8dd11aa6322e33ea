//! Situation: nothing but the binary.
//! Action: `roundtrip dev`; then what it prints is pasted.
//! Must hold: the printed wscat and curl lines are answered as they stand; SIGTERM ends it cleanly.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tests::{
    SOON,
    cluster::Cluster,
    eventually,
    process::{Process, run_dir},
    wscat::Wscat,
};

/// What a person would copy.
struct Printed {
    /// `wscat …`
    wscat: String,
    /// The frame on the line after it, behind wscat's prompt.
    frame: String,
    /// `curl …`
    curl: String,
}

impl Printed {
    fn read(output: &str) -> Option<Self> {
        let mut lines = output.lines().map(str::trim);
        let wscat = lines.find(|line| line.starts_with("wscat "))?.to_owned();
        let frame = lines.next()?.strip_prefix("> ")?.to_owned();
        let curl = lines.find(|line| line.starts_with("curl "))?.to_owned();
        Some(Self { wscat, frame, curl })
    }
}

#[tokio::test]
async fn what_dev_prints_can_be_pasted() -> Result<()> {
    let cluster = Cluster::builder().prepare().await?;
    let mut command = Command::new(cluster.node(0).program());
    command.args(["dev", "--port", "0"]);
    let log = run_dir().join(format!("{}.dev.log", cluster.tag()));
    let mut dev = Process::spawn(command, &log)?;
    let printed = eventually(SOON, "dev prints what to paste", async || {
        Printed::read(&dev.output()?).context("not yet")
    })
    .await?;

    let arguments: Vec<&str> = printed.wscat.split_whitespace().skip(1).collect();
    let mut wscat = Wscat::start(&arguments)?;
    wscat.shows().await?;
    wscat.enter(&printed.frame).await?;
    let response = wscat.shows().await?;
    ensure!(response.contains(r#""type":"response""#), "{response}");

    let shown =
        tokio::process::Command::new("bash").args(["-c", &printed.curl]).output().await?.stdout;
    let shown = String::from_utf8_lossy(&shown).into_owned();
    ensure!(shown.starts_with("HTTP/1.1 200 "), "{}: {shown}", printed.curl);

    dev.signal(Signal::SIGTERM)?;
    assert_eq!(dev.end(SOON).await?.code(), Some(0), "{}", dev.output()?);
    cluster.finish().await
}
