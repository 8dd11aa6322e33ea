//! Situation: nothing but the binary.
//! Action: `roundtrip dev`; then what it prints is pasted.
//! Must hold: the printed wscat and curl lines are answered as they stand.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::{
    SOON,
    cluster::Cluster,
    eventually,
    infra::repository,
    process::{Process, run_dir},
};

/// The first printed command of that program.
fn printed(output: &str, program: &str) -> Option<String> {
    let at = output.find(&format!("{program} "))?;
    Some(output[at..].lines().next()?.trim().to_owned())
}

#[tokio::test]
async fn what_dev_prints_can_be_pasted() -> Result<()> {
    let cluster = Cluster::builder().prepare().await?;
    let mut command = Command::new(cluster.node(0).program());
    command.args(["dev", "--port", "0"]);
    let log = run_dir().join(format!("{}.dev.log", cluster.tag()));
    let mut dev = Process::spawn(command, &log)?;

    let (wscat, curl) = eventually(SOON, "dev prints what to paste", async || {
        let output = dev.output()?;
        ensure!(dev.ended()?.is_none(), "dev has ended: {output}");
        let wscat = printed(&output, "wscat").context("no wscat line")?;
        Ok((wscat, printed(&output, "curl").context("no curl line")?))
    })
    .await?;
    for (line, expected) in [(format!("{wscat} -w 5"), "response"), (curl, "hi")] {
        eventually(SOON, "the first answer", async || {
            let shown = paste(&line).await?;
            ensure!(shown.contains(expected), "{line}: {shown}");
            Ok(())
        })
        .await?;
    }
    cluster.finish().await
}

/// Runs a line in a shell, as a person would.
async fn paste(line: &str) -> Result<String> {
    let bin = repository().join("tests/.cache/wscat/node_modules/.bin");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    let output =
        tokio::process::Command::new("bash").args(["-c", line]).env("PATH", path).output().await?;
    let shown = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&shown).into_owned())
}
