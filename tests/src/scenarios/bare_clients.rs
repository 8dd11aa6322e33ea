//! Situation: one node, an echo service; nothing on the client's side but wscat and curl.
//! Action: a bare frame is typed into wscat; curl posts a body, and gets a path.
//! Must hold: wscat shows the welcome and the response, curl the service's bytes.

use anyhow::{Result, ensure};
use tests::{cluster::Cluster, terminal::Terminal, worker::Reply};

#[tokio::test]
async fn wscat_gets_an_answer_to_a_bare_frame() -> Result<()> {
    let cluster = Cluster::builder().service("echo").start().await?;
    let _echo = cluster.worker("echo").echo()?;

    let mut wscat = Terminal::run(&format!("wscat -c ws://{}/ws", cluster.node(0).public()))?;
    wscat.sees(r#""type":"welcome""#).await?;
    wscat.types(r#"{"service":"echo","payload":"hi"}"#).await?;
    let response = wscat.sees(r#""type":"response""#).await?;

    ensure!(response.contains(r#""payload":"hi""#), "{response}");
    cluster.finish().await
}

#[tokio::test]
async fn curl_gets_the_services_bytes() -> Result<()> {
    let cluster = Cluster::builder().service("echo").service("path").start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let _path = cluster.worker("path").start(|seen| {
        let text = format!("{} {}", seen.header("roundtrip-method"), seen.header("roundtrip-path"));
        vec![Reply::of(text).header("content-type", "text/plain")]
    })?;
    let url = format!("http://{}/v1/services", cluster.node(0).public());
    let curl = async |arguments: &str| {
        Terminal::run(&format!("curl -sS --max-time 30 -i {arguments}"))?.ends().await
    };

    let posted = curl(&format!(r#"--json '{{"hello":"world"}}' {url}/echo"#)).await?;
    ensure!(posted.starts_with("HTTP/1.1 200 "), "{posted}");
    ensure!(posted.ends_with("\n{\"hello\":\"world\"}\n"), "{posted}");

    let got = curl(&format!("'{url}/path/a/b?c=d'")).await?;
    ensure!(got.starts_with("HTTP/1.1 200 "), "{got}");
    ensure!(got.ends_with("\nGET /a/b?c=d\n"), "{got}");
    cluster.finish().await
}
