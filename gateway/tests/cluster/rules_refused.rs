//! Requests that no route sees: halves of one, those of other versions, and those that HTTP does not
//! allow. Each is told what is wrong, and counted.

use std::time::Duration;

use crate::{
    harness::{Aim, Cluster},
    raw::Raw,
};

const GET: &str = "GET /v1/services HTTP/1.1\r\nHost: gw\r\nAccept: */*\r\n\r\n";

async fn cluster() -> Cluster {
    let mut cluster = Cluster::start(1).await;
    cluster.serve(Aim::Affinity, Duration::ZERO);
    cluster
}

async fn refusals(cluster: &Cluster, status: u16) -> f64 {
    let status = format!("status=\"{status}\"");
    cluster.metric("roundtrip_http_refusals_total", &[&status]).await
}

#[tokio::test]
async fn a_request_that_ends_within_its_head_is_told_so() {
    let cluster = cluster().await;
    let address = cluster.public[0];
    for end in 1..GET.len() {
        let mut raw = Raw::send(address, &GET[..end]).await;
        raw.end().await;
        let answer = raw.answer().await;
        answer.is_problem(400, "bad_request");
        assert_eq!(answer.header("connection"), Some("close"), "after {end} bytes");
        raw.ends().await;
    }
    assert_eq!(refusals(&cluster, 400).await, (GET.len() - 1) as f64);
    // Nothing was asked: neither by who says nothing, nor by empty lines.
    for nothing in ["", "\r\n", "\r\n\r\n"] {
        let mut raw = Raw::send(address, nothing).await;
        raw.end().await;
        raw.ends().await;
    }
    // The same after a request that was whole.
    for half in ["G", "GET / HTTP/1.1\r\nHost: gw\r\n"] {
        let mut raw = Raw::send(address, GET).await;
        assert_eq!(raw.answer().await.status, 200);
        raw.write(half).await;
        raw.end().await;
        raw.answer().await.is_problem(400, "bad_request");
        raw.ends().await;
    }
    let mut raw = Raw::send(address, GET).await;
    assert_eq!(raw.answer().await.status, 200);
    raw.end().await;
    raw.ends().await;
    let mut peer = Raw::send(cluster.internal[0], "GET /livez HTTP").await;
    peer.end().await;
    let answer = peer.answer().await;
    assert_eq!((answer.status, answer.header("roundtrip-node")), (400, None));
    assert_eq!(refusals(&cluster, 400).await, (GET.len() + 1) as f64);
    cluster.finish().await;
}

#[tokio::test]
async fn a_request_that_ends_within_its_body_is_told_so() {
    let cluster = cluster().await;
    let head = "POST /v1/services/echo HTTP/1.1\r\nHost: gw\r\n";
    let mut halves = 0;
    for whole in [
        format!("{head}Content-Length: 7\r\n\r\n1234567"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n3;a=b\r\n123\r\n4\r\n4567\r\n0\r\n\r\n"),
    ] {
        let body = whole.find("\r\n\r\n").unwrap() + 4;
        for end in body..whole.len() {
            // In one piece, and with the head by itself.
            for pieces in [vec![&whole[..end]], vec![&whole[..body], &whole[body..end]]] {
                let mut raw = Raw::connect(cluster.public[0]).await;
                for piece in pieces {
                    raw.write(piece).await;
                }
                raw.end().await;
                raw.answer().await.is_problem(400, "bad_request");
                raw.ends().await;
                halves += 1;
            }
        }
        let mut raw = Raw::send(cluster.public[0], &whole).await;
        raw.end().await;
        assert_eq!(raw.answer().await.text(), "1234567");
    }
    let labels = [r#"service="echo""#, r#"edge="rest""#, r#"outcome="bad_request""#];
    let counted = cluster.metric("roundtrip_requests_total", &labels).await;
    assert_eq!(counted, f64::from(halves));
    cluster.finish().await;
}

#[tokio::test]
async fn other_versions_are_told_which_one_is_spoken() {
    let cluster = cluster().await;
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0d";
    let many = preface.repeat(100);
    let others =
        ["GET / HTTP/2.0\r\nHost: gw\r\n\r\n", "GET / HTTP/3\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"];
    let mut told = 0.0;
    for text in [preface, &many].into_iter().chain(others) {
        let mut raw = Raw::send(cluster.public[0], text).await;
        let answer = raw.answer().await;
        answer.is_problem(505, "bad_request");
        assert!(answer.head.starts_with("HTTP/1.1 505 HTTP Version Not Supported\r\n"));
        assert!(answer.text().contains("HTTP/1.1 is spoken here"), "{}", answer.text());
        assert_eq!(answer.header("connection"), Some("close"));
        raw.end().await;
        raw.ends().await;
        told += 1.0;
    }
    // As it may arrive.
    for at in 1..preface.len() {
        let mut raw = Raw::send(cluster.public[0], &preface[..at]).await;
        tokio::task::yield_now().await;
        raw.write(&preface[at..]).await;
        raw.answer().await.is_problem(505, "bad_request");
        told += 1.0;
    }
    assert_eq!(refusals(&cluster, 505).await, told);
    let answer = Raw::send(cluster.internal[0], preface).await.answer().await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (505, Some("text/plain; charset=utf-8"))
    );
    cluster.finish().await;
}

#[tokio::test]
async fn what_no_route_sees_is_counted_by_its_status() {
    let cluster = cluster().await;
    let many: String = (0..101).map(|number| format!("x-{number}: y\r\n")).collect();
    let long = "x".repeat(17 * 1024);
    for (text, status, detail) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400, "names its Host"),
        ("CONNECT gw:80 HTTP/1.1\r\nHost: gw\r\n\r\n".to_owned(), 405, "no proxy"),
        (format!("GET /{long} HTTP/1.1\r\nHost: gw\r\n\r\n"), 414, "may have 16384"),
        ("GET / HTTP/1.1\r\nHost: gw\r\nExpect: more\r\n\r\n".to_owned(), 417, "100-continue"),
        (
            format!("GET / HTTP/1.1\r\nHost: gw\r\n{many}\r\n"),
            431,
            "has 102 or more, and may have 100",
        ),
        (format!("GET / HTTP/1.1\r\nHost: gw\r\nx: {long}\r\n\r\n"), 431, "may have 16384"),
        ("BREW / HTTP/1.1\r\nHost: gw\r\n\r\n".to_owned(), 501, "not implemented"),
    ] {
        let before = refusals(&cluster, status).await;
        let answer = Raw::send(cluster.public[0], text).await.answer().await;
        answer.is_problem(status, "bad_request");
        assert!(answer.text().contains(detail), "{}", answer.text());
        assert_eq!(refusals(&cluster, status).await, before + 1.0, "{status}");
    }
    let mut raw = Raw::send(cluster.public[0], format!("HEAD /{long} HTTP/1.1\r\n\r\n")).await;
    let answer = raw.head().await;
    assert_eq!((answer.status, answer.header("connection")), (414, Some("close")));
    raw.end().await;
    raw.ends().await;
    let before = refusals(&cluster, 204).await;
    let options = "OPTIONS * HTTP/1.1\r\nHost: gw\r\n\r\n";
    assert_eq!(Raw::send(cluster.public[0], options).await.answer().await.status, 204);
    assert_eq!((before, refusals(&cluster, 204).await), (0.0, 0.0), "that is no refusal");
    cluster.finish().await;
}
