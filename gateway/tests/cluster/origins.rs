//! Web pages, as the Fetch standard and RFC 6454 have them call.

use gateway::bus::memory::MemoryBus;

use crate::{
    harness::{Aim, Cluster, REPLY_PARTITIONS, config_with},
    raw::{Answer, Raw},
};

const ALLOWED: &str = "Origin: https://shop.example\r\n";

async fn cluster() -> Cluster {
    let bus = MemoryBus::new(&[("replies", REPLY_PARTITIONS), ("echo", 4), ("silent", 1)]);
    let config =
        |number| config_with(number, "public.allowed_origins = [\"https://shop.example\"]");
    let mut cluster = Cluster::start_each(1, bus, MemoryBus::producer, config).await;
    cluster.serve(Aim::Affinity, std::time::Duration::ZERO);
    cluster
}

async fn ask(cluster: &Cluster, line: &str, headers: &str) -> Answer {
    let text = format!("{line} HTTP/1.1\r\nHost: gw.example\r\n{headers}\r\n");
    Raw::send(cluster.public[0], text).await.answer().await
}

#[tokio::test]
async fn answers_say_that_they_depend_on_the_origin() {
    let cluster = cluster().await;
    for path in ["/v1/services", "/v1/services/echo", "/v1/services/none"] {
        let own = ask(&cluster, &format!("GET {path}"), "").await;
        assert_eq!(
            (own.header("vary"), own.header("access-control-allow-origin")),
            (Some("origin"), None)
        );
        let allowed = ask(&cluster, &format!("GET {path}"), ALLOWED).await;
        assert_eq!(allowed.header("vary"), Some("origin"));
        assert_eq!(allowed.header("access-control-allow-origin"), Some("https://shop.example"));
        // By name where a browser does not know the star, which stands for those of services too.
        let exposed = allowed.header("access-control-expose-headers").unwrap();
        assert!(exposed.contains("roundtrip-request-id") && exposed.ends_with(", *"), "{exposed}");
        let foreign = ask(&cluster, &format!("GET {path}"), "Origin: null\r\n").await;
        foreign.is_problem(403, "forbidden");
        assert_eq!(foreign.header("vary"), Some("origin"));
        assert_eq!(foreign.header("access-control-allow-origin"), None);
    }
    let foreign = ask(&cluster, "GET /ws", "Origin: http://evil.example\r\n").await;
    foreign.is_problem(403, "forbidden");
    assert_eq!(foreign.header("vary"), Some("origin"));
    assert_eq!(cluster.metric("roundtrip_origins_refused_total", &[]).await, 4.0);
    cluster.finish().await;
}

#[tokio::test]
async fn a_page_may_read_every_answer_and_only_if_it_may_call() {
    let cluster = cluster().await;
    let many: String = (0..101).map(|number| format!("x-{number}: y\r\n")).collect();
    let (long, host) = ("x".repeat(17 * 1024), "Host: gw.example\r\n");
    for (line, before, after, status) in [
        ("GET /nowhere", host, "", 404),
        ("GET /v1", host, "", 404),
        ("GET /ws", host, "", 426),
        ("POST /ws", host, "", 405),
        ("BREW /v1/services", host, "", 501),
        ("GET /v1/services", host, "Transfer-Encoding: gzip, chunked\r\n", 501),
        ("GET /v1/services", host, "Transfer-Encoding: gzip\r\n", 400),
        ("GET /v1/services", host, "Expect: more\r\n", 417),
        ("GET /v1/services", "Host: a b\r\n", "", 400),
        ("GET /v1/services", "", "", 400),
        ("GET /v1/services", host, host, 400),
        ("GET /v1/services", host, "no colon\r\n", 400),
        ("GET /v1/services", host, "Content-Length: x\r\n", 400),
        ("GET /v1/services", host, &many, 431),
        ("GET /v1/services", &many, host, 431),
        ("GET /v1/services", host, &format!("x: {long}\r\n"), 431),
        // Browsers put what a page adds before what they say of it.
        ("GET /v1/services", &format!("{host}x: {long}\r\n"), "", 431),
        (&format!("GET /v1/services/{long}"), host, "", 414),
    ] {
        for (origin, may_read) in [
            ("Origin: https://shop.example\r\n", true),
            ("Origin: https://evil.example\r\n", false),
            ("origin:https://shop.example\r\nORIGIN: https://shop.example\r\n", false),
            ("", false),
        ] {
            let text = format!("{line} HTTP/1.1\r\n{before}{origin}{after}\r\n");
            let answer = Raw::send(cluster.public[0], text).await.answer().await;
            let what = format!("{line:.40} {before:.40} {after:.40} {origin}: {answer:?}");
            // Where a route is reached, it says first that the page may not call.
            let is_forbidden = !may_read && !origin.is_empty() && line.ends_with("/ws");
            assert_eq!(answer.status, if is_forbidden { 403 } else { status }, "{what}");
            assert_eq!(answer.header("vary"), Some("origin"), "{what}");
            let allowed = answer.header("access-control-allow-origin");
            assert_eq!(allowed, may_read.then_some("https://shop.example"), "{what}");
            assert_eq!(
                answer.header("access-control-expose-headers").is_some(),
                may_read,
                "{what}"
            );
        }
    }
    // In the middle of a head, as far as it has come.
    let half = format!("GET /v1/services HTTP/1.1\r\n{host}{ALLOWED}Accept: ");
    let mut raw = Raw::send(cluster.public[0], half).await;
    raw.end().await;
    let answer = raw.answer().await;
    answer.is_problem(400, "bad_request");
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://shop.example"));
    // Nobody reads the other listener's answers but who may call it.
    let peer = format!("GET /livez HTTP/1.1\r\n{host}{ALLOWED}\r\n");
    let answer = Raw::send(cluster.internal[0], peer).await.answer().await;
    assert_eq!((answer.header("vary"), answer.header("access-control-allow-origin")), (None, None));
    cluster.finish().await;
}

#[tokio::test]
async fn an_origin_is_compared_as_a_browser_would() {
    let cluster = cluster().await;
    for origin in ["http://gw.example", "http://gw.example:80", "HTTPS://shop.example:443"] {
        let answer = ask(&cluster, "GET /v1/services", &format!("Origin: {origin}\r\n")).await;
        assert_eq!(answer.status, 200, "{origin}");
    }
    let (unlisted, no_origin) = ("public.allowed_origins does not have it", "is no origin");
    for (headers, why) in [
        ("Origin: http://gw.example:81\r\n".to_owned(), unlisted),
        ("Origin: https://shop.example:444\r\n".to_owned(), unlisted),
        ("Origin: null\r\n".to_owned(), "no origin of its own"),
        ("Origin:\r\n".to_owned(), no_origin),
        ("Origin: shop.example\r\n".to_owned(), no_origin),
        ("Origin: https://shop.example/\r\n".to_owned(), no_origin),
        ("Origin: https://shop.example https://shop.example\r\n".to_owned(), no_origin),
        (format!("{ALLOWED}{ALLOWED}"), "one Origin, not several"),
        (format!("{ALLOWED}Origin: null\r\n"), "one Origin, not several"),
    ] {
        let answer = ask(&cluster, "GET /v1/services", &headers).await;
        answer.is_problem(403, "forbidden");
        assert!(answer.text().contains(why), "{headers}: {}", answer.text());
    }
    let own =
        "GET /v1/services HTTP/1.1\r\nHost: [0:0::1]:8080\r\nOrigin: http://[::1]:8080\r\n\r\n";
    assert_eq!(Raw::send(cluster.public[0], own).await.answer().await.status, 200);
    cluster.finish().await;
}

#[tokio::test]
async fn a_preflight_is_answered_for_those_who_may() {
    let cluster = cluster().await;
    let wish = "Access-Control-Request-Method: PUT\r\n";
    let line = "OPTIONS /v1/services/echo/a";
    let answer = ask(&cluster, line, &format!("{ALLOWED}{wish}")).await;
    assert_eq!((answer.status, answer.header("access-control-allow-headers")), (204, None));
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://shop.example"));
    let methods = answer.header("access-control-allow-methods").unwrap();
    assert!(
        ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"].iter().all(|one| methods.contains(one))
    );
    assert!(answer.header("vary").unwrap().contains("access-control-request-headers"));

    let more = "Access-Control-Request-Headers: content-type,x-tenant\r\n\
                Access-Control-Request-Private-Network: true\r\n";
    let answer = ask(&cluster, line, &format!("{ALLOWED}{wish}{more}")).await;
    assert_eq!(answer.header("access-control-allow-headers"), Some("content-type,x-tenant"));
    assert_eq!(answer.header("access-control-allow-private-network"), Some("true"));

    let foreign = format!("Origin: https://evil.example\r\n{wish}{more}");
    let answer = ask(&cluster, line, &foreign).await;
    answer.is_problem(403, "forbidden");
    assert_eq!(answer.header("access-control-allow-private-network"), None);
    cluster.finish().await;
}
