//! Situation: one node with a small outbox; one client never reads, another does.
//! Action: both ask for much.
//! Must hold: the one that does not read is closed with 4001; the other notices nothing.

use anyhow::{Context, Result, ensure};
use tests::{
    SOON,
    cluster::Cluster,
    eventually,
    raw::{RawFrame, RawWs, opcode},
    worker::Reply,
};

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_read_is_closed_and_others_go_on() -> Result<()> {
    let config = "[session]\noutbox_bytes_max = \"256KiB\"";
    let cluster = Cluster::builder().service("big").config(config).start().await?;
    let big = format!("\"{}\"", "x".repeat(100_000));
    let _service = cluster.worker("big").start(move |seen| match seen.text().as_str() {
        "1" => vec![Reply::of(big.clone())],
        _ => vec![Reply::echo(seen)],
    })?;
    let node = cluster.node(0);
    let mut reader = node.ws().await?;
    let mut sleeper = RawWs::connect(node.public()).await?;

    // 20 MB of answers: more than the outbox and both socket buffers together.
    let frame = RawFrame::new(opcode::TEXT, r#"{"service":"big","payload":1}"#).bytes();
    for _ in 0..200 {
        sleeper.write(&frame).await?;
        let answer = reader.request("big", "2").await?;
        assert_eq!(answer.payload(), "2");
    }
    let limit = [("limit", "outbox_bytes_max")];
    eventually(SOON, "the outbox is full", async || {
        let hits = cluster.sum("roundtrip_limit_hits_total", &limit).await?;
        ensure!(hits >= 1.0, "no hit yet");
        Ok(())
    })
    .await?;

    // Only now does it read on.
    let said = loop {
        let (kind, payload) = sleeper.next().await?.context("a close frame comes first")?;
        if kind == opcode::CLOSE {
            break payload;
        }
    };
    let (code, reason) = said.split_at(2);
    assert_eq!(code, 4001_u16.to_be_bytes());
    let reason = std::str::from_utf8(reason)?;
    let bytes = reason.strip_prefix("outbox_bytes_max is 262144; ").context(reason.to_owned())?;
    let bytes: usize = bytes.split(' ').next().unwrap_or_default().parse()?;
    // What there was, and the frame that was one too many.
    assert!((262_144..262_144 + 101_000).contains(&bytes), "{reason}");
    let answer = reader.request("big", "3").await?;
    assert_eq!(answer.payload(), "3");
    cluster.finish().await
}
