//! Situation: one node, a service that echoes bytes, another that answers with bytes of its own.
//! Action: payloads which any JSON library would change or refuse.
//! Must hold: they arrive as they were sent; other text arrives as a string, what is
//! no text as base64.

use anyhow::{Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use tests::{cluster::Cluster, worker::Reply};

#[tokio::test]
async fn json_passes_byte_for_byte() -> Result<()> {
    let cluster = Cluster::builder().service("echo").start().await?;
    let echo = cluster.worker("echo").echo()?;
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let payloads = [
        "1e400",
        "-0",
        "0.10",
        "123456789012345678901234567890",
        r#"{"a":1,"a":2}"#,
        r#"{ "spaced" : [ 1 ,2 ] }"#,
        r#""\u0041\u00e9\ud83d\ude00\/\n""#,
        r#""é 😀 \u2028""#,
        r#""\ud800""#,
        "null",
        &deep,
    ];

    let mut ws = cluster.node(0).ws().await?;
    let http = cluster.node(0).http();
    for (count, payload) in payloads.into_iter().enumerate() {
        let response = ws.request("echo", payload).await?;
        ensure!(response.kind() == "response", "{}", response.text);
        assert_eq!(response.payload(), payload);
        assert_eq!(response.raw("encoding"), None);
        let answer = http.post("/v1/services/echo", payload).await?;
        assert_eq!(answer.text(), payload);
        assert_eq!(answer.header("content-type"), "application/json", "{payload:.40}");
        for seen in &echo.has_seen(2 * count + 2).await?[2 * count..] {
            assert_eq!(seen.text(), payload, "in Kafka");
        }
    }
    cluster.finish().await
}

#[tokio::test]
async fn a_line_break_in_a_payload_stays_inside_its_frame() -> Result<()> {
    let cluster = Cluster::builder().service("echo").start().await?;
    let _echo = cluster.worker("echo").echo()?;

    let payload = "{\n  \"pretty\": true\r\n}";
    let response = cluster.node(0).ws().await?.request("echo", payload).await?;

    assert_eq!(response.payload(), payload);
    cluster.finish().await
}

#[tokio::test]
async fn what_is_not_json_comes_as_a_string() -> Result<()> {
    let cluster = Cluster::builder().service("bytes").service("echo").start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let replies: [(&'static [u8], &str); 7] = [
        (b"\xff\xfe\x00", "base64"),
        (b"plain text", "text"),
        (b"{\"open\":", "text"),
        (b"01", "text"),
        (b"\0 \x1b\r\n \xe2\x80\xa8 \\ \"", "text"),
        (b"1 2", "text"),
        (b"\"\xed\xa0\x80\"", "base64"),
    ];
    let _service = cluster.worker("bytes").start(move |seen| {
        let index: usize = seen.text().parse().unwrap_or_default();
        vec![Reply::of(replies[index].0)]
    })?;

    let mut ws = cluster.node(0).ws().await?;
    for (index, (reply, encoding)) in replies.into_iter().enumerate() {
        let response = ws.request("bytes", &index.to_string()).await?;
        assert_eq!(response.get::<String>("encoding").as_deref(), Some(encoding), "{reply:?}");
        let text = response.need::<String>("payload")?;
        let decoded = match encoding {
            "text" => text.into_bytes(),
            _ => BASE64_STANDARD.decode(text)?,
        };
        assert_eq!(decoded, reply);
        // Over HTTP bytes are bytes, both ways.
        let answer = cluster.node(0).http().post("/v1/services/bytes", &index.to_string()).await?;
        assert_eq!(&answer.body[..], reply);
        assert_eq!(answer.header("content-type"), "application/octet-stream");
        let sent = bytes::Bytes::from_static(reply);
        let path = "/v1/services/echo";
        let answer = cluster.node(0).http().send(http::Method::POST, path, &[], sent).await?;
        assert_eq!(&answer.body[..], reply);
    }
    cluster.finish().await
}

#[tokio::test]
async fn nothing_is_null() -> Result<()> {
    let cluster = Cluster::builder().service("empty").start().await?;
    let _service = cluster.worker("empty").start(|seen| {
        let nothing = Reply::default();
        vec![if seen.text() == "1" {
            nothing
        } else {
            Reply { value: Some(Vec::new()), ..nothing }
        }]
    })?;

    let mut ws = cluster.node(0).ws().await?;
    for payload in ["1", "2"] {
        let response = ws.request("empty", payload).await?;
        assert_eq!(response.status(), 200, "{}", response.text);
        assert_eq!(response.payload(), "null");
    }
    cluster.finish().await
}
