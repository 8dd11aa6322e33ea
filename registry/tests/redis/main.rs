//! The Redis registry on real servers, which each test starts by itself.
//!
//! `ROUNDTRIP_TEST_REDIS` names a Redis to run the conformance suite on instead; the tests
//! that stop servers stop their own.

mod clusters;
mod faults;
mod lossy;
mod sentinels;
mod server;
mod sessions;

use std::{sync::Arc, time::Duration};

use registry::{
    NodeTable, RedisRegistry, RegistryError, RequestId, RequestTable,
    conformance::{self, node_entry, route},
};
use server::{Server, given_url, registry_at};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn passes_the_conformance_suite() {
    match given_url() {
        Some(url) => conformance::run_all(async || registry_at(&url).await).await,
        None => {
            let server = Server::start("");
            conformance::run_all(async || server.registry().await).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_ends_by_itself() {
    let server = Server::start("");
    let registry = RedisRegistry::connect(&server.url(), "rt:").await.unwrap();
    let id = request();
    registry.put_routes(&[(id, Arc::new(route("gw-1")))]).await.unwrap();
    registry.announce(&node_entry("gw-1", 1), Duration::from_secs(6)).await.unwrap();
    assert_eq!(server.ask("DBSIZE"), "2");
    let life = |key: &str| server.ask(&format!("PTTL {key}")).parse::<u64>().unwrap();
    assert!((60_001..=70_000).contains(&life(&format!("rt:r:{id}"))), "deadline and grace");
    assert!((1..=6_000).contains(&life("rt:{nodes}")), "the only node's life");

    registry.announce(&node_entry("gw-2", 1), LONG).await.unwrap();
    registry.announce(&node_entry("gw-1", 1), Duration::from_secs(6)).await.unwrap();
    assert!((30_000..=60_000).contains(&life("rt:{nodes}")), "the longest life of all nodes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_no_route_and_no_silent_node() {
    let server = Server::start("");
    let registry = RedisRegistry::connect(&server.url(), "rt:").await.unwrap();
    let [text, list, good] = [request(), request(), request()];
    server.ask(&format!("SET rt:r:{text} what"));
    server.ask(&format!("RPUSH rt:r:{list} what"));
    let written = route("gw-1");
    registry.put_routes(&[(good, Arc::new(written.clone()))]).await.unwrap();
    let found = registry.find_routes(&[text, list, good]).await;
    assert_eq!(found, Ok(vec![None, None, Some(written)]));

    registry.announce(&node_entry("gw-1", 1), LONG).await.unwrap();
    server.ask("HSET rt:{nodes} gw-2 what");
    assert_eq!(registry.nodes().await, Ok(vec![node_entry("gw-1", 1)]));
    assert_eq!(server.ask("HLEN rt:{nodes}"), "1", "it would never have ended");

    server.ask("HSET rt:{nodes} gw-2 \"00000000000000000001 99999999999999 call {}\"");
    let outcome = registry.nodes().await;
    assert!(matches!(outcome, Err(RegistryError::Malformed(_))), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tells_a_refusal_with_its_reason() {
    let server = Server::start("");
    let registry = server.registry().await;
    server.ask("CONFIG SET maxmemory 1");
    let batch: Vec<_> = (0..3).map(|_| (request(), Arc::new(route("gw-1")))).collect();
    let outcome = registry.put_routes(&batch).await;
    let Err(RegistryError::Refused(reason)) = &outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("OOM") && reason.contains(&server.address()), "{reason}");
    let ids: Vec<_> = batch.iter().map(|(id, _)| *id).collect();
    assert_eq!(registry.find_routes(&ids).await, Ok(vec![None; 3]));
    assert_eq!(registry.remove_routes(&ids).await, Ok(()));

    server.ask("CONFIG SET maxmemory 0");
    assert_eq!(registry.put_routes(&batch).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn never_tells_a_password() {
    let server = Server::start("requirepass right");
    let url = |password| format!("redis://:{password}@{}/1", server.address());
    let good = registry_at(&url("right")).await;
    assert_eq!(good.nodes().await, Ok(Vec::new()));
    let bad = registry_at(&url("wrong-secret")).await;
    let error = bad.nodes().await.unwrap_err();
    assert!(matches!(error, RegistryError::Refused(_)), "{error:?}");
    for text in [format!("{bad:?}"), format!("{good:#?}"), error.to_string(), format!("{error:?}")]
    {
        assert!(!text.contains("secret") && !text.contains("right"), "{text}");
    }
    let none = server.registry().await.nodes().await;
    assert!(matches!(none, Err(RegistryError::Refused(_))), "{none:?}");
}

#[tokio::test]
async fn refuses_a_wrong_url_and_a_wrong_prefix_at_once() {
    for (url, prefix) in [("memory:", "rt:"), ("redis://:secret@host:x", "rt:"), ("redis://h", "{")]
    {
        let error = RedisRegistry::connect(url, prefix).await.unwrap_err();
        assert!(matches!(error, RegistryError::Misconfigured(_)), "{url} {prefix}: {error}");
        assert!(!error.is_retryable() && !error.to_string().contains("secret"), "{error}");
    }
}

fn request() -> RequestId {
    RequestId::from_uuid(uuid::Uuid::now_v7())
}
