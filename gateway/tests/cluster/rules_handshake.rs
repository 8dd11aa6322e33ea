//! What RFC 6455 and RFC 9110 ask of a server that is asked for a WebSocket.

use crate::{harness::Cluster, raw::Raw};

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: gw\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test]
async fn a_refused_handshake_says_what_would_be_accepted() {
    let cluster = Cluster::start(1).await;
    let ask = async |replaced: &str, with: &str| {
        assert!(HANDSHAKE.contains(replaced));
        let text = HANDSHAKE.replacen(replaced, with, 1);
        Raw::send(cluster.public[0], text).await.answer().await
    };
    // RFC 9110, sections 7.8 and 15.5.22: a 426 says to what.
    for (replaced, with) in [
        ("Upgrade: websocket\r\n", ""),
        ("Connection: Upgrade\r\n", ""),
        ("websocket", "h2c"),
        ("HTTP/1.1", "HTTP/1.0"),
        ("Version: 13", "Version: 8"),
        ("Version: 13", "Version: 13, 8"),
        ("Sec-WebSocket-Version: 13\r\n", ""),
        ("GET", "HEAD"),
        ("\r\n\r\n", "\r\nConnection: x\r\nSec-WebSocket-Version: 13\r\n\r\n"),
    ] {
        let answer = match with {
            "HEAD" => {
                let text = HANDSHAKE.replacen(replaced, with, 1);
                Raw::send(cluster.public[0], text).await.head().await
            }
            _ => ask(replaced, with).await,
        };
        let what = format!("{with:?}: {answer:?}");
        assert_eq!(answer.status, 426, "{what}");
        assert_eq!(answer.header("upgrade"), Some("websocket"), "{what}");
        assert!(answer.header("connection").unwrap().contains("Upgrade"), "{what}");
        assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{what}");
    }
    for key in ["", "dGhl", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZSE="] {
        ask("dGhlIHNhbXBsZSBub25jZQ==", key).await.is_problem(400, "bad_request");
    }
    // RFC 6455, section 11.3.1: once at most.
    let twice = "\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    ask("\r\n\r\n", twice).await.is_problem(400, "bad_request");
    cluster.finish().await;
}

#[tokio::test]
async fn what_follows_a_handshake_is_frames_and_no_body() {
    let cluster = Cluster::start(1).await;
    // A masked text frame: `{}`.
    let frame = b"\x81\x82\0\0\0\0{}";
    for (headers, body) in [
        ("Content-Length: 5\r\n", &b"12345"[..]),
        ("Transfer-Encoding: chunked\r\n", b"5\r\n12345\r\n0\r\n\r\n"),
    ] {
        let text = HANDSHAKE.replacen("\r\n\r\n", &format!("\r\n{headers}\r\n"), 1);
        let mut raw = Raw::send(cluster.public[0], [text.as_bytes(), body, frame].concat()).await;
        let answer = raw.answer().await;
        answer.is_problem(400, "bad_request");
        assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
        raw.end().await;
        raw.ends().await;
    }
    for nothing in ["", "Content-Length: 0\r\n"] {
        let text = HANDSHAKE.replacen("\r\n\r\n", &format!("\r\n{nothing}\r\n"), 1);
        let mut raw = Raw::send(cluster.public[0], [text.as_bytes(), frame].concat()).await;
        assert_eq!(raw.head().await.status, 101, "{nothing}");
    }
    cluster.finish().await;
}
