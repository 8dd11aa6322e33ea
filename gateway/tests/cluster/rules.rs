//! What RFC 9110 and RFC 9112 ask of a server, over sockets that hide nothing.

use std::time::Duration;

use gateway::bus::memory::MemoryBus;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    harness::{Aim, Cluster, REPLY_PARTITIONS, config_with, eventually},
    raw::Raw,
};

const CLOSE: &str = "Host: gw\r\nConnection: close\r\n";

async fn cluster() -> Cluster {
    cluster_that_answers_after(Duration::ZERO).await
}

async fn cluster_that_answers_after(after: Duration) -> Cluster {
    let mut cluster = Cluster::start(1).await;
    cluster.serve(Aim::Affinity, after);
    cluster
}

fn post(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn a_request_names_one_host() {
    let cluster = cluster().await;
    let address = cluster.public[0];
    for head in [
        "GET /v1/services HTTP/1.1\r\n",
        "GET /v1/services HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
        "GET /v1/services HTTP/1.1\r\nHost: a b\r\n",
        "GET /v1/services HTTP/1.1\r\nHost: u@a\r\n",
        "GET /v1/services HTTP/1.1\r\nHost:\r\n",
        "GET http://u@a/v1/services HTTP/1.1\r\nHost: a\r\n",
        "GET ftp://a/v1/services HTTP/1.1\r\nHost: a\r\n",
        "GET a:80 HTTP/1.1\r\nHost: a\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n",
    ] {
        Raw::send(address, format!("{head}\r\n"))
            .await
            .answer()
            .await
            .is_problem(400, "bad_request");
    }
    for head in [
        "GET /v1/services HTTP/1.1\r\nHost: [::1]:80\r\n",
        "GET /v1/services HTTP/1.0\r\n",
        "GET http://elsewhere/v1/services HTTP/1.1\r\nHost: a\r\n",
        "GET HTTP://elsewhere:8080/v1/services?a=b HTTP/1.1\r\nHost: a\r\n",
        // The target counts, not the Host beside it.
        "GET http://own/v1/services HTTP/1.1\r\nHost: a\r\nOrigin: http://own\r\n",
    ] {
        let answer = Raw::send(address, format!("{head}\r\n")).await.answer().await;
        assert_eq!(answer.status, 200, "{head}: {answer:?}");
    }
    let foreign = "GET http://own/v1/services HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\n\r\n";
    Raw::send(address, foreign).await.answer().await.is_problem(403, "forbidden");
    let peer = "GET /livez HTTP/1.1\r\n\r\n";
    let answer = Raw::send(cluster.internal[0], peer).await.answer().await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (400, Some("text/plain; charset=utf-8"))
    );
    cluster.finish().await;
}

#[tokio::test]
async fn a_method_is_allowed_or_implemented_or_neither() {
    let cluster = cluster().await;
    let ask = async |line: &str| {
        Raw::send(cluster.public[0], format!("{line} HTTP/1.1\r\n{CLOSE}\r\n")).await.answer().await
    };
    let services = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
    for (line, status, allow) in [
        ("OPTIONS *", 204, services),
        ("OPTIONS /v1/services/echo", 204, services),
        ("OPTIONS /v1/services", 204, "GET, HEAD, OPTIONS"),
        ("TRACE /v1/services/echo", 405, services),
        ("DELETE /v1/services", 405, "GET, HEAD, OPTIONS"),
        ("POST /ws", 405, "GET, HEAD"),
        ("CONNECT gw:80", 405, services),
        ("BREW /v1/services/echo", 501, services),
        ("get /v1/services/echo", 501, services),
    ] {
        let answer = ask(line).await;
        assert_eq!((answer.status, answer.header("allow")), (status, Some(allow)), "{line}");
        if status != 204 {
            answer.is_problem(status, "bad_request");
        }
    }
    for path in ["/metrics", "/livez", "/readyz"] {
        let text = format!("POST {path} HTTP/1.1\r\n{CLOSE}\r\n");
        let answer = Raw::send(cluster.internal[0], text).await.answer().await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{path}");
    }
    cluster.finish().await;
}

#[tokio::test]
async fn a_head_is_a_get_without_its_body() {
    let cluster = cluster().await;
    let (public, internal) = (cluster.public[0], cluster.internal[0]);
    for (address, path, status) in [
        (public, "/v1/services", 200),
        (public, "/v1/services/echo/a?b", 200),
        (public, "/v1/services/none", 404),
        (public, "/nowhere", 404),
        (public, "/ws", 426),
        (internal, "/metrics", 200),
        (internal, "/livez", 200),
        (internal, "/readyz", 200),
        (internal, "/nowhere", 401),
    ] {
        let mut got = Raw::send(address, format!("GET {path} HTTP/1.1\r\n{CLOSE}\r\n")).await;
        let got = got.answer().await;
        let mut head = Raw::send(address, format!("HEAD {path} HTTP/1.1\r\n{CLOSE}\r\n")).await;
        let answer = head.head().await;
        head.ends().await;
        assert_eq!((answer.status, got.status), (status, status), "{path}");
        for name in ["content-type", "vary"] {
            assert_eq!(answer.header(name), got.header(name), "{name} of {path}");
        }
        // What is measured changes from one look to the next, and so does what names a request. An
        // empty body's length need not be said.
        if !["/metrics", "/v1/services/none", "/v1/services/echo/a?b"].contains(&path) {
            assert_eq!(answer.header("content-length"), got.header("content-length"), "{path}");
        }
    }
    cluster.finish().await;
}

#[tokio::test]
async fn whoever_expects_is_told_to_go_on_or_not() {
    let cluster = cluster().await;
    let head = |length: usize, expect: &str| {
        format!(
            "POST /v1/services/echo HTTP/1.1\r\n{CLOSE}Expect: {expect}\r\n\
             Content-Length: {length}\r\n\r\n"
        )
    };
    let mut raw = Raw::send(cluster.public[0], head(3, "100-continue")).await;
    assert_eq!(raw.head().await.status, 100);
    raw.write("123").await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, &*answer.body), (200, &b"123"[..]));

    for (length, expect, status, code) in
        [(10_000_000, "100-continue", 413, "too_large"), (3, "the impossible", 417, "bad_request")]
    {
        let mut raw = Raw::send(cluster.public[0], head(length, expect)).await;
        let answer = raw.answer().await;
        answer.is_problem(status, code);
        assert_eq!(answer.header("connection"), Some("close"));
        raw.end().await;
        raw.ends().await;
    }
    let unknown = head(3, "100-continue").replace("echo", "nobody");
    Raw::send(cluster.public[0], unknown).await.answer().await.is_problem(404, "unknown_service");
    cluster.finish().await;
}

#[tokio::test]
async fn an_early_answer_reaches_who_writes_everything_first() {
    let cluster = cluster().await;
    let much = "x".repeat(20_000_000);
    for (path, status, code) in
        [("/v1/services/echo", 413, "too_large"), ("/nowhere", 404, "not_found")]
    {
        let mut raw = Raw::send(cluster.public[0], post(path, "Host: gw\r\n", &much)).await;
        let answer = raw.answer().await;
        answer.is_problem(status, code);
        assert_eq!(answer.header("connection"), Some("close"));
        raw.ends().await;
    }
    // Without a length, it shows only on the way that it is too much.
    let mut raw = Raw::send(
        cluster.public[0],
        "POST /v1/services/echo HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    .await;
    for _ in 0..20 {
        raw.write(format!("f4240\r\n{}\r\n", &much[..1_000_000])).await;
    }
    raw.answer().await.is_problem(413, "too_large");
    raw.ends().await;
    // A head that is refused before it has ended.
    let mut raw =
        Raw::send(cluster.public[0], format!("GET /{much} HTTP/1.1\r\n{CLOSE}\r\n")).await;
    raw.answer().await.is_problem(414, "bad_request");
    raw.ends().await;
    cluster.finish().await;
}

#[tokio::test]
async fn who_closes_the_writing_half_gets_the_answer() {
    let cluster = cluster_that_answers_after(Duration::from_millis(200)).await;
    for version in ["1.1", "1.0"] {
        let request = post("/v1/services/echo", "Host: gw\r\n", "1").replace("1.1", version);
        let mut raw = Raw::send(cluster.public[0], request).await;
        raw.end().await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "1"));
        raw.ends().await;
    }
    // In the middle of a body, there is no request to answer: it is said all the same.
    let mut raw = Raw::send(
        cluster.public[0],
        "POST /v1/services/echo HTTP/1.1\r\nHost: gw\r\nContent-Length: 10\r\n\r\n12345",
    )
    .await;
    raw.end().await;
    raw.answer().await.is_problem(400, "bad_request");
    raw.ends().await;
    cluster.finish().await;
}

#[tokio::test]
async fn who_waits_half_closed_is_asked_and_who_has_gone_is_not_waited_for() {
    let cluster = cluster_that_answers_after(Duration::from_secs(4)).await;
    let request = post("/v1/services/echo", "Host: gw\r\n", "1");
    let mut waits = Raw::send(cluster.public[0], &request).await;
    waits.end().await;
    let mut gone = Raw::send(cluster.public[0], &request.replace("echo", "silent")).await;
    let in_flight = async |expected: f64| {
        let begun = Instant::now();
        eventually(async || {
            let now = cluster.metric("roundtrip_in_flight", &["silent"]).await;
            (now == expected).then_some(())
        })
        .await;
        begun.elapsed()
    };
    in_flight(1.0).await;
    gone.end().await;
    drop(gone);
    assert!(in_flight(0.0).await < Duration::from_secs(10), "its time limit is longer");
    assert_eq!(waits.head().await.status, 100, "an interim answer, which clients pass over");
    assert_eq!(waits.answer().await.text(), "1");
    waits.ends().await;
    cluster.finish().await;
}

#[tokio::test]
async fn bodies_are_framed_in_one_way() {
    let cluster = cluster().await;
    let ask = async |headers: &str, body: &str| {
        let text = format!("POST /v1/services/echo HTTP/1.1\r\nHost: gw\r\n{headers}\r\n{body}");
        Raw::send(cluster.public[0], text).await
    };
    let chunked = "Transfer-Encoding: chunked\r\n";
    let answer =
        ask(chunked, "1\r\n1\r\n2;a=b\r\n23\r\n0\r\nTrailer: x\r\n\r\n").await.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "123"), "trailers are passed over");

    // Whichever of the two it means: what follows is not taken for a request.
    let both = format!("{chunked}Content-Length: 3\r\n");
    let mut raw =
        ask(&both, "1\r\n1\r\n0\r\n\r\nGET /v1/services HTTP/1.1\r\nHost: gw\r\n\r\n").await;
    assert_eq!(raw.answer().await.text(), "1");
    raw.ends().await;

    for (headers, body, status) in [
        ("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n", 501),
        ("Transfer-Encoding: gzip\r\n", "", 400),
        ("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n", 400),
        ("Content-Length: 1\r\nContent-Length: 2\r\n", "12", 400),
        ("Content-Length: +1\r\n", "1", 400),
        (chunked, "x\r\n", 400),
        (chunked, "1\r\n12\r\n0\r\n\r\n", 400),
        (chunked, "fffffffffffffffff\r\n", 400),
        (chunked, &format!("1;{}\r\n1\r\n0\r\n\r\n", "x".repeat(17 * 1024)), 400),
        (chunked, &format!("1\r\n1\r\n0\r\n{}\r\n", "a: b\r\n".repeat(200)), 400),
    ] {
        let mut raw = ask(headers, body).await;
        raw.answer().await.is_problem(status, "bad_request");
        raw.end().await;
    }
    let old = "POST /v1/services/echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    Raw::send(cluster.public[0], old).await.answer().await.is_problem(400, "bad_request");
    cluster.finish().await;
}

#[tokio::test]
async fn a_coded_body_is_only_taken_where_the_service_learns_of_it() {
    let bus = MemoryBus::new(&[("replies", REPLY_PARTITIONS), ("echo", 4), ("silent", 1)]);
    let coded = "services.coded = { request_topic = \"echo\", \
                 allowed_headers = [\"content-encoding\"] }";
    let config = |number| config_with(number, coded);
    let mut cluster = Cluster::start_each(1, bus, MemoryBus::producer, config).await;
    cluster.serve(Aim::Affinity, Duration::ZERO);
    let ask = async |service: &str, coding: &str| {
        let headers = format!("Host: gw\r\nContent-Encoding: {coding}\r\n");
        let text = post(&format!("/v1/services/{service}"), &headers, "1");
        Raw::send(cluster.public[0], text).await.answer().await
    };
    assert_eq!(ask("echo", "identity").await.status, 200);
    let answer = ask("echo", "gzip").await;
    answer.is_problem(415, "bad_request");
    assert_eq!(answer.header("accept-encoding"), Some("identity"));
    assert_eq!(ask("coded", "gzip").await.status, 200);
    assert_eq!(ask("none", "gzip").await.status, 404);
    cluster.finish().await;
}

#[tokio::test]
async fn requests_may_come_all_at_once_on_one_connection() {
    let cluster = cluster().await;
    let request = |body: &str| post("/v1/services/echo", "Host: gw\r\n", body);
    let last = post("/v1/services/echo", CLOSE, "3");
    // Empty lines before a request are passed over (RFC 9112, section 2.2).
    let text = format!("\r\n{}{}{last}{}", request("1"), request("22"), request("never read"));
    let mut raw = Raw::send(cluster.public[0], text).await;
    for expected in ["1", "22", "3"] {
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, expected));
        assert!(answer.header("date").is_some());
    }
    raw.ends().await;

    let mut old = Raw::send(cluster.public[0], "GET /v1/services HTTP/1.0\r\n\r\n").await;
    assert!(old.answer().await.head.starts_with("HTTP/1.0 200 "));
    old.ends().await;
    let kept = "GET /v1/services HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let mut old = Raw::send(cluster.public[0], kept).await;
    assert_eq!(old.answer().await.header("connection"), Some("keep-alive"));
    old.write(kept).await;
    assert_eq!(old.answer().await.status, 200);
    cluster.finish().await;
}

#[tokio::test]
async fn what_is_no_request_is_told_so_in_a_problem() {
    let cluster = cluster().await;
    let many: String = (0..101).map(|number| format!("x-{number}: y\r\n")).collect();
    let long = "x".repeat(17 * 1024);
    for (text, status) in [
        ("\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03\r\n\r\n".to_owned(), 400),
        ("hello\r\n\r\n".to_owned(), 400),
        ("GET /\r\n\r\n".to_owned(), 400),
        ("GET /a b HTTP/1.1\r\nHost: gw\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost : gw\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: gw\r\n folded\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: g\0w\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: gw\r\nx: a\rb\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\rHost: gw\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\n{CLOSE}{many}\r\n"), 431),
        (format!("GET / HTTP/1.1\r\n{CLOSE}x: {long}\r\n\r\n"), 431),
        (format!("GET /{long} HTTP/1.1\r\n{CLOSE}\r\n"), 414),
    ] {
        let mut raw = Raw::send(cluster.public[0], &text).await;
        let answer = raw.answer().await;
        answer.is_problem(status, "bad_request");
        assert_eq!(answer.header("connection"), Some("close"), "{text:.40}");
        raw.ends().await;
    }
    // Also after requests that were fine.
    let mut raw =
        Raw::send(cluster.public[0], post("/v1/services/echo", "Host: gw\r\n", "1")).await;
    assert_eq!(raw.answer().await.status, 200);
    raw.write("hello\r\n\r\n").await;
    raw.answer().await.is_problem(400, "bad_request");
    raw.ends().await;
    let mut raw = Raw::send(cluster.internal[0], "hello\r\n\r\n").await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.header("roundtrip-node")), (400, None));
    cluster.finish().await;
}

#[tokio::test]
async fn the_services_are_listed() {
    let cluster = cluster().await;
    let request = http::Request::get(format!("http://{}/v1/services", cluster.public[0]));
    let answer = cluster.http.request(request.body(Default::default()).unwrap()).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/json");
    let list = answer.into_body().collect().await.unwrap().to_bytes();
    let list: Value = serde_json::from_slice(&list).unwrap();
    assert_eq!(list, serde_json::json!([{"name": "echo"}, {"name": "silent"}]));
    cluster.finish().await;
}
