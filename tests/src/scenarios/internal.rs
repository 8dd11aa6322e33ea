//! Situation: two nodes with some traffic between them, or with none and different secrets.
//! Action: whoever has no secret calls what peers call; anybody looks at both listeners.
//! Must hold: 401 and no hint; nothing internal is on the public listener; the metrics are there; each
//! node says of the other that its secret differs, before there is any traffic.

use std::fs;

use anyhow::{Result, ensure};
use http::Method;
use tests::{
    SOON,
    cluster::{Cluster, SECRET},
    eventually,
    http::HttpClient,
    worker::Reply,
};

#[tokio::test]
async fn peers_show_their_secret() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    let http = HttpClient::new(cluster.node(0).internal_address());
    let deliveries = "/internal/v1/deliveries";

    let wrong = format!("Bearer {SECRET}x");
    let shorter = format!("Bearer {}", &SECRET[1..]);
    let basic = format!("Basic {SECRET}");
    let mut answers = Vec::new();
    for path in [deliveries, "/internal/v1/", "/internal/v1/nothing", "/admin/v1/cluster"] {
        for given in ["", "Bearer", "Bearer ", &wrong, &shorter, &basic, SECRET] {
            for method in [Method::POST, Method::GET] {
                let headers = [("authorization", given)];
                let answer = http.send(method, path, &headers, "").await?;
                ensure!(answer.status == 401, "{path} {given:?}: {}", answer.status);
                answers.push(answer.text());
            }
        }
        ensure!(http.post(path, "[]").await?.status == 401, "{path} without a secret");
    }
    answers.dedup();
    ensure!(answers.len() == 1 && !answers[0].contains(SECRET), "hints: {answers:?}");

    // With the secret, a body that is no batch is refused as such.
    let right = format!("Bearer {SECRET}");
    let headers = [("authorization", right.as_str())];
    let answer = http.send(Method::POST, deliveries, &headers, "no batch").await?;
    ensure!(answer.status == 400, "{}: {}", answer.status, answer.text());
    // A connection of many calls is for those who have the secret, too.
    let upgrade = [("connection", "upgrade"), ("upgrade", "roundtrip-peer")];
    for (given, status) in [(wrong.as_str(), 401), (right.as_str(), 101)] {
        let headers = [upgrade[0], upgrade[1], ("authorization", given)];
        let answer = http.send(Method::POST, deliveries, &headers, "").await?;
        ensure!(answer.status == status, "{given:?}: {}", answer.status);
    }
    cluster.finish().await
}

#[tokio::test]
async fn secrets_that_differ_are_told_of_before_there_is_traffic() -> Result<()> {
    const ANOTHER: &str = "another-secret-in-tests";
    let mut cluster = Cluster::builder().nodes(2).prepare().await?;
    let config = cluster.node(1).config();
    fs::write(config, fs::read_to_string(config)?.replace(SECRET, ANOTHER))?;
    for index in [0, 1] {
        cluster.node_mut(index).start()?;
    }
    for index in [0, 1] {
        cluster.node_mut(index).ready().await?;
    }
    for (index, peer) in [(0, 1), (1, 0)] {
        let (node, peer) = (cluster.node(index), cluster.node(peer).internal_address());
        let trouble = format!("peer http://{peer}: internal.secret differs");
        eventually(SOON, "it says so where its operator looks", async || {
            let probe = node.internal("/readyz").await?;
            ensure!(probe.status == 200, "{}", probe.text());
            ensure!(probe.text().contains(&trouble), "{}", probe.text());
            Ok(())
        })
        .await?;
        let log = fs::read_to_string(node.log())?;
        let url = format!("http://{peer}");
        let said = log.lines().filter(|line| line.contains("ERROR") && line.contains(&url));
        ensure!(said.clone().count() == 1, "{:?}", said.collect::<Vec<_>>());
        ensure!(!log.contains(SECRET) && !log.contains(ANOTHER), "a secret is shown");
    }
    cluster.finish().await
}

#[tokio::test]
async fn nothing_internal_is_public() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    let http = cluster.node(0).http();
    let right = format!("Bearer {SECRET}");
    for path in [
        "/internal/v1/deliveries",
        "/internal/v1/",
        "/metrics",
        "/livez",
        "/readyz",
        "/admin/v1/cluster",
        "/v1/services/../../internal/v1/deliveries",
        "//internal/v1/deliveries",
        "/%69nternal/v1/deliveries",
    ] {
        for method in [Method::GET, Method::POST] {
            let headers = [("authorization", right.as_str())];
            let answer = http.send(method.clone(), path, &headers, "").await?;
            ensure!(answer.status == 404, "{method} {path}: {}", answer.status);
        }
    }
    cluster.finish().await
}

const METRICS: [&str; 11] = [
    "requests",
    "request_seconds",
    "in_flight",
    "replies",
    "forwards",
    "connections",
    "limit_hits",
    "frames_abandoned",
    "registry_seconds",
    "consumer_lag",
    "oldest_unhandled_seconds",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_of_the_contract_are_there() -> Result<()> {
    let config = "[limits]\nmessage_bytes_max = \"1KiB\"";
    let cluster = Cluster::builder().nodes(2).service("echo").service("silent");
    let cluster = cluster.config(config).start().await?;
    let _echo = cluster.worker("echo").start(|seen| vec![Reply::echo(seen).anywhere()])?;
    let silent = cluster.worker("silent").silent()?;
    cluster.balanced().await?;
    let (node, peer) = (cluster.node(0), cluster.node(1));
    let mut ws = node.ws().await?;
    for _ in 0..50 {
        ws.request("echo", "1").await?;
    }
    ws.request("nobody", "1").await?;
    ws.request("echo", &"1".repeat(2_000)).await?;
    assert_eq!(node.http().post("/v1/services/echo", "1").await?.status, 200);
    let mut gone = node.ws().await?;
    gone.send(r#"{"service":"silent"}"#).await?;
    silent.has_seen(1).await?;
    gone.close().await?;
    // The peer counts a forward, and the node who has gone, a moment later than the client sees it.
    eventually(SOON, "everything is counted", async || {
        let (metrics, peers) = (node.metrics().await?, peer.metrics().await?);
        let of = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels);
        for (service, edge, outcome, expected) in [
            ("echo", "ws", "ok", 50.0),
            ("echo", "rest", "ok", 1.0),
            ("echo", "ws", "too_large", 1.0),
            ("-", "ws", "unknown_service", 1.0),
            ("silent", "ws", "cancelled", 1.0),
        ] {
            let labels = [("service", service), ("edge", edge), ("outcome", outcome)];
            let count = of("roundtrip_requests_total", &labels);
            ensure!(count == expected, "{labels:?}: {count}");
        }
        let forwarded = of("roundtrip_replies_total", &[("way", "forwarded")]);
        let stage = |stage: &str| {
            of("roundtrip_request_seconds_count", &[("service", "echo"), ("stage", stage)])
        };
        for (name, expected) in [("total", 51.0), ("service", 51.0), ("forward", forwarded)] {
            let count = stage(name);
            ensure!(count == expected, "{name}: {count}");
        }
        // A reply may be faster than the acknowledgement of its request, but seldom is.
        let produced = stage("produce");
        ensure!((1.0..=51.0).contains(&produced), "produce: {produced}");
        ensure!(forwarded >= 1.0, "nothing was forwarded");
        let delivered = [("peer", node.id()), ("result", "delivered")];
        let delivered = peers.sum("roundtrip_forwards_total", &delivered);
        ensure!(delivered == forwarded, "{delivered} delivered of {forwarded}");

        let connections = cluster.sum("roundtrip_connections", &[]).await?;
        let in_flight = of("roundtrip_in_flight", &[]);
        let limited = of("roundtrip_limit_hits_total", &[("limit", "message_bytes_max")]);
        let abandoned = of("roundtrip_frames_abandoned_total", &[]);
        let others = [connections, in_flight, limited, abandoned];
        ensure!(others == [1.0, 0.0, 1.0, 1.0], "{others:?}");
        Ok(())
    })
    .await?;

    let mut text = String::new();
    for node in cluster.nodes() {
        let scraped = node.internal("/metrics").await?;
        ensure!(scraped.header("content-type").contains("openmetrics"), "{:?}", scraped.headers);
        ensure!(scraped.text().ends_with("# EOF\n"), "not OpenMetrics");
        text += &scraped.text();
    }
    for name in METRICS {
        let help = text.lines().find(|line| line.starts_with(&format!("# HELP roundtrip_{name} ")));
        ensure!(help.is_some_and(|help| help.split(' ').count() > 4), "{name}: {help:?}");
    }
    cluster.finish().await
}
