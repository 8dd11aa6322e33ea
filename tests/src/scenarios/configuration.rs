//! Situation: configuration files with several mistakes, and one without.
//! Action: `check-config` and `serve`.
//! Must hold: exit code 64, and every mistake is named at once by its key; no secret is shown.

use std::process::Output;

use anyhow::{Result, ensure};
use tests::{cluster::Cluster, process::run_dir};
use tokio::process::Command;

const BAD: &str = r#"
[public]
listen = "nowhere"
[internal]
secret = "do-not-show-me"
[limits]
message_bytes_max = "many"
no_such_limit = 1
[services.echo]
timeout = "2m"
timeout_max = "1m"
request_topic = "echo.requests"
"#;

const NAMED: [&str; 4] =
    ["public.listen", "limits.message_bytes_max", "limits.no_such_limit", "services.echo.timeout"];

async fn run(cluster: &Cluster, arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(cluster.node(0).program()).args(arguments).output().await?)
}

fn shown(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

#[tokio::test]
async fn every_mistake_is_named_at_once() -> Result<()> {
    let cluster = Cluster::builder().prepare().await?;
    let bad = run_dir().join(format!("{}.bad.toml", cluster.tag()));
    std::fs::write(&bad, BAD)?;
    let bad = bad.to_string_lossy().into_owned();

    for arguments in [vec!["check-config", &bad], vec!["serve", "--config", &bad]] {
        let output = run(&cluster, &arguments).await?;
        let shown = shown(&output);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {shown}");
        for key in NAMED {
            ensure!(shown.contains(key), "{arguments:?} does not name {key}: {shown}");
        }
        ensure!(!shown.contains("do-not-show-me"), "a secret is shown: {shown}");
    }
    cluster.finish().await
}

#[tokio::test]
async fn a_good_file_passes_without_its_secrets() -> Result<()> {
    let cluster = Cluster::builder().service("echo").prepare().await?;
    let config = cluster.node(0).config().to_string_lossy().into_owned();
    let output = run(&cluster, &["check-config", &config]).await?;
    let shown = shown(&output);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    ensure!(!shown.contains("not-a-secret-in-tests"), "a secret is shown: {shown}");
    cluster.finish().await
}

#[tokio::test]
async fn bad_usage_is_64() -> Result<()> {
    let cluster = Cluster::builder().prepare().await?;
    for arguments in [vec!["no-such-command"], vec!["serve"], vec!["serve", "--config", "/no/file"]]
    {
        let output = run(&cluster, &arguments).await?;
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", shown(&output));
    }
    cluster.finish().await
}
