//! Situation: one node.
//! Action: clients that break RFC 6455, and one that only writes slowly.
//! Must hold: each is closed with the code the standard names; the slow one is served; the node
//! lives on.

use anyhow::{Result, ensure};
use tests::{
    cluster::Cluster,
    raw::{RawFrame, RawWs, opcode::*},
};

const PROTOCOL_ERROR: u16 = 1002;
const NOT_UTF8: u16 = 1007;
const TOO_BIG: u16 = 1009;

/// What each violation sends, and how it must be closed.
fn violations() -> Vec<(&'static str, Vec<RawFrame>, u16)> {
    let text = |payload: &[u8]| RawFrame::new(TEXT, payload);
    vec![
        ("an unmasked frame", vec![text(b"{}").unmasked()], PROTOCOL_ERROR),
        ("reserved bit 1", vec![text(b"{}").reserved(4)], PROTOCOL_ERROR),
        ("reserved bit 2", vec![text(b"{}").reserved(2)], PROTOCOL_ERROR),
        ("reserved bit 3", vec![text(b"{}").reserved(1)], PROTOCOL_ERROR),
        ("reserved opcode 3", vec![RawFrame::new(3, "")], PROTOCOL_ERROR),
        ("reserved opcode 11", vec![RawFrame::new(0xb, "")], PROTOCOL_ERROR),
        ("a ping of 126 bytes", vec![RawFrame::new(PING, [0; 126])], PROTOCOL_ERROR),
        ("a pong of 126 bytes", vec![RawFrame::new(PONG, [0; 126])], PROTOCOL_ERROR),
        ("a close of 126 bytes", vec![RawFrame::new(CLOSE, [3; 126])], PROTOCOL_ERROR),
        ("a fragmented close", vec![RawFrame::new(CLOSE, "").unfinished()], PROTOCOL_ERROR),
        ("a fragmented ping", vec![RawFrame::new(PING, "a").unfinished()], PROTOCOL_ERROR),
        ("a continuation of nothing", vec![RawFrame::new(CONTINUATION, "a")], PROTOCOL_ERROR),
        (
            "a text inside a fragmented text",
            vec![text(b"{").unfinished(), text(b"}")],
            PROTOCOL_ERROR,
        ),
        ("a close of one byte", vec![RawFrame::new(CLOSE, [3])], PROTOCOL_ERROR),
        ("the reserved close code 1005", vec![RawFrame::new(CLOSE, [3, 237])], PROTOCOL_ERROR),
        ("a text that is not UTF-8", vec![text(b"\"\xff\"")], NOT_UTF8),
        (
            "a bad character split over fragments",
            vec![text(b"\"\xf0\x9f").unfinished(), RawFrame::new(CONTINUATION, b"\x41\"")],
            NOT_UTF8,
        ),
        ("a text that ends inside a character", vec![text(b"\"\xf0\x9f\x98")], NOT_UTF8),
        ("a frame over the hard limit", vec![text(&[b' '; 40_000])], TOO_BIG),
        (
            "fragments that are over it together",
            vec![
                text(&[b' '; 20_000]).unfinished(),
                RawFrame::new(CONTINUATION, [b' '; 20_000]).unfinished(),
            ],
            TOO_BIG,
        ),
    ]
}

#[tokio::test]
async fn each_violation_has_its_close_code() -> Result<()> {
    let limits = "[limits]\nframe_bytes_max = \"32KiB\"\nmessage_bytes_max = \"8KiB\"";
    let cluster = Cluster::builder().service("echo").config(limits).start().await?;
    let _echo = cluster.worker("echo").echo()?;

    let mut wrong = Vec::new();
    for (what, frames, code) in violations() {
        let mut raw = RawWs::connect(cluster.node(0).public()).await?;
        raw.text().await?;
        for frame in &frames {
            raw.send(frame).await?;
        }
        let closed = raw.close_code().await?;
        if closed != Some(code) {
            wrong.push(format!("{what}: {closed:?} instead of {code}"));
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");

    let response = cluster.node(0).ws().await?.request("echo", "1").await?;
    assert_eq!(response.payload(), "1");
    cluster.finish().await
}

#[tokio::test]
async fn a_close_says_what_was_wrong() -> Result<()> {
    let limits = "[limits]\nframe_bytes_max = \"32KiB\"\nmessage_bytes_max = \"8KiB\"";
    let cluster = Cluster::builder().service("echo").config(limits).start().await?;
    let large = RawFrame::new(TEXT, "x".repeat(40_000));
    for (frame, code, why) in [
        (
            RawFrame::new(TEXT, r#"{"type":"ack","seq":999}"#),
            4500,
            "ack of 999; the last frame is 0",
        ),
        (large, TOO_BIG, "message of 40000 bytes or more; frame_bytes_max is 32768"),
    ] {
        let mut raw = RawWs::connect(cluster.node(0).public()).await?;
        raw.text().await?;
        raw.send(&frame).await?;
        let said = loop {
            let (opcode, payload) = raw.next().await?.expect("a close frame comes first");
            if opcode == CLOSE {
                break payload;
            }
        };
        let (number, reason) = said.split_at(2);
        assert_eq!(number, u16::to_be_bytes(code));
        assert_eq!(String::from_utf8_lossy(reason), why);
    }
    cluster.finish().await
}

#[tokio::test]
async fn byte_by_byte_is_lawful() -> Result<()> {
    let cluster = Cluster::builder().service("echo").start().await?;
    let _echo = cluster.worker("echo").echo()?;

    let mut raw = RawWs::connect(cluster.node(0).public()).await?;
    let frame = r#"{"service":"echo","payload":"é"}"#;
    for byte in RawFrame::new(TEXT, frame).bytes() {
        raw.write(&[byte]).await?;
    }
    // A character split over fragments, with a ping between them.
    let (start, end) = frame.as_bytes().split_at(frame.len() - 3);
    raw.send(&RawFrame::new(TEXT, start).unfinished()).await?;
    raw.send(&RawFrame::new(PING, "between")).await?;
    raw.send(&RawFrame::new(CONTINUATION, end)).await?;

    let (mut answers, mut pongs) = (0, 0);
    while answers < 2 || pongs < 1 {
        let (opcode, payload) = raw.next().await?.expect("the connection stays open");
        match opcode {
            PONG => {
                assert_eq!(payload, b"between");
                pongs += 1;
            }
            TEXT if payload.ends_with("é\"}".as_bytes()) || has_answer(&payload) => answers += 1,
            _ => {}
        }
    }
    cluster.finish().await
}

fn has_answer(payload: &[u8]) -> bool {
    let text = String::from_utf8_lossy(payload);
    text.contains(r#""type":"response""#) && text.contains(r#""payload":"é""#)
}

#[tokio::test]
async fn a_binary_frame_is_the_same_json() -> Result<()> {
    let cluster = Cluster::builder().service("echo").start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let mut raw = RawWs::connect(cluster.node(0).public()).await?;
    raw.text().await?;

    raw.send(&RawFrame::new(BINARY, r#"{"service":"echo","payload":7}"#)).await?;
    let answer = raw.text().await?;
    ensure!(answer.contains(r#""payload":7"#), "{answer}");

    raw.send(&RawFrame::new(BINARY, [0xff, 0xfe])).await?;
    let answer = raw.text().await?;
    ensure!(answer.contains(r#""code":"bad_request""#), "{answer}");
    cluster.finish().await
}
