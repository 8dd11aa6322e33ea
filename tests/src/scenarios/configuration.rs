//! Situation: configuration files and environments with several mistakes, and without.
//! Action: `check-config` and `serve`.
//! Must hold: exit code 64, and every mistake is named at once by its key; no secret is shown; the
//! environment goes over the file.

use std::{
    fs::OpenOptions,
    process::{Output, Stdio},
};

use anyhow::{Result, ensure};
use tests::{
    cluster::{Cluster, SECRET},
    process::{command, run_dir},
};
use tokio::process::Command;

const BAD: &str = r#"
[public]
listen = "nowhere"
[internal]
secret = "do-not-show-me"
[kafka.properties]
no.such.property = 1
[limits]
message_bytes_max = "many"
no_such_limit = 1
[services.echo]
timeout = "2m"
timeout_max = "1m"
request_topic = "echo.requests"
"#;

const NAMED: [&str; 5] = [
    "public.listen",
    "kafka.properties.\"no.such.property\": librdkafka has no such property",
    "limits.message_bytes_max",
    "limits.no_such_limit",
    "services.echo.timeout",
];

async fn run(cluster: &Cluster, arguments: &[&str]) -> Result<Output> {
    run_with(cluster, arguments, &[]).await
}

async fn run_with(
    cluster: &Cluster,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> Result<Output> {
    let mut command = command(cluster.node(0).program());
    command.args(arguments).envs(environment.iter().copied());
    Ok(Command::from(command).output().await?)
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

    let commands = [
        vec!["check-config", &bad],
        vec!["check-config", "--config", &bad],
        vec!["serve", "--config", &bad],
    ];
    for arguments in commands {
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
    ensure!(!shown.contains(SECRET), "a secret is shown: {shown}");
    cluster.finish().await
}

#[tokio::test]
async fn the_environment_goes_over_the_file() -> Result<()> {
    let cluster = Cluster::builder().service("echo").prepare().await?;
    let config = cluster.node(0).config().to_string_lossy().into_owned();
    let check = ["check-config", config.as_str()];

    let good = [
        ("ROUNDTRIP_NODE_ID", "gw-from-outside"),
        ("ROUNDTRIP_LIMITS__MESSAGE_BYTES_MAX", "7KiB"),
        ("ROUNDTRIP_REGISTRY__URL", "redis://:pass-from-outside@127.0.0.1:1"),
    ];
    let output = run_with(&cluster, &check, &good).await?;
    let text = shown(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    ensure!(text.contains("gw-from-outside") && text.contains("7KiB"), "no effect: {text}");
    ensure!(!text.contains("pass-from-outside"), "a secret is shown: {text}");

    let bad = [("ROUNDTRIP_NO_SUCH_KEY", "1"), ("ROUNDTRIP_LIMITS__FRAME_BYTES_MAX", "wide")];
    let output = run_with(&cluster, &check, &bad).await?;
    let text = shown(&output);
    assert_eq!(output.status.code(), Some(64), "{text}");
    ensure!(text.contains("ROUNDTRIP_NO_SUCH_KEY"), "not named: {text}");
    ensure!(text.contains("limits.frame_bytes_max"), "not named: {text}");
    cluster.finish().await
}

#[tokio::test]
async fn an_address_that_is_taken_is_named_with_its_option() -> Result<()> {
    let cluster = Cluster::builder().prepare().await?;
    let config = cluster.node(0).config().to_string_lossy().into_owned();
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?;
    let (text, port) = (address.to_string(), address.port().to_string());
    let (serve, dev) = (["serve", "--config", &config], ["dev", "--port", &port]);
    for (arguments, variable, option) in [
        (&serve[..], "ROUNDTRIP_PUBLIC__LISTEN", "public.listen"),
        (&serve[..], "ROUNDTRIP_INTERNAL__LISTEN", "internal.listen"),
        (&dev[..], "UNUSED", "--port"),
    ] {
        let output = run_with(&cluster, arguments, &[(variable, &text)]).await?;
        let shown = shown(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {shown}");
        let expected = format!("{option}: cannot listen on {address}");
        ensure!(shown.contains(&expected), "no {expected} in {shown}");
    }
    cluster.finish().await
}

#[tokio::test]
async fn output_that_cannot_be_written_is_an_error() -> Result<()> {
    let cluster = Cluster::builder().service("echo").start().await?;
    let config = cluster.node(0).config().to_string_lossy().into_owned();
    for arguments in [
        &["check-config", &*config][..],
        &["topics", "--config", &config],
        &["topics", "--config", &config, "--dry-run"],
        &["--help"],
        &["--version"],
        &["serve", "--help"],
    ] {
        let run_into = async |out: Stdio| -> Result<Output> {
            let mut command = command(cluster.node(0).program());
            command.args(arguments);
            // `output` would take standard output for itself.
            let child = Command::from(command).stdout(out).stderr(Stdio::piped()).spawn()?;
            Ok(child.wait_with_output().await?)
        };
        let full = OpenOptions::new().write(true).open("/dev/full")?;
        let output = run_into(full.into()).await?;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", shown(&output));
        ensure!(shown(&output).contains("standard output: "), "{}", shown(&output));

        // One that has read enough, as `head` does, is no reason to fail.
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let output = run_into(writer.into()).await?;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", shown(&output));
    }
    cluster.finish().await
}

#[tokio::test]
async fn bad_usage_is_64() -> Result<()> {
    let cluster = Cluster::builder().prepare().await?;
    for arguments in [
        vec!["no-such-command"],
        vec!["serve"],
        vec!["serve", "--config", "/no/file"],
        vec!["check-config"],
        vec!["check-config", "/a/file", "--config", "/no/file"],
        vec!["dev", "--nodes", "3", "--port", "65534"],
    ] {
        let output = run(&cluster, &arguments).await?;
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", shown(&output));
    }
    cluster.finish().await
}
