//! The Redis registry on real servers, which each test starts by itself.
//!
//! `ROUNDTRIP_TEST_REDIS` names a Redis to run the conformance suite on instead; the tests
//! that stop servers stop their own.

mod clusters;
mod faults;
mod formats;
mod lossy;
mod sentinels;
mod server;
mod sessions;

use std::{sync::Arc, time::Duration};

use registry::{
    After, Announcement, Cause, EntryKind, Event, EventPlace, NodeTable, Nodes, RedisRegistry,
    RegistryError, RequestId, RequestTable, StateWait, ViewKey, ViewTable, all,
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
    all(registry.put_routes(&[(id, Arc::new(route("gw-1")))]).await).unwrap();
    registry.announce(&node_entry("gw-1", 1), Duration::from_secs(6)).await.unwrap();
    let (key, ttl) = (ViewKey { view: "v".into(), key: "k".into() }, Duration::from_secs(5));
    let place = EventPlace { topic: "".into(), partition: 0, offset: 1, at_ms: 0 };
    let event = Event { key: key.clone(), place, state: None, content: Some("x".into()) };
    all(registry.write_events(&[event], ttl).await).unwrap();
    all(registry.put_marks(&[("v".into(), 0, "x".into())], ttl).await).unwrap();
    for seconds in [9, 3] {
        let (key, request) = (key.clone(), request());
        let (until, after, ttl) = (vec!["x".into()], After::Nothing, Duration::from_secs(seconds));
        let wait = StateWait { key, request, until, after, not_before_ms: 0, ttl };
        all(registry.begin_waits(&[wait]).await).unwrap();
    }
    assert_eq!(server.ask("DBSIZE"), "5");
    let life = |key: &str| server.ask(&format!("PTTL {key}")).parse::<u64>().unwrap();
    assert!((60_001..=70_000).contains(&life(&format!("rt:r:{id}"))), "deadline and grace");
    assert!((1..=6_000).contains(&life("rt:{nodes}")), "the only node's life");
    for key in ["rt:v:{v:k}", "rt:b:{v}:0"] {
        assert!((1..=5_000).contains(&life(key)), "{key}");
    }
    assert!((5_001..=9_000).contains(&life("rt:v:{v:k}:w")), "the longest of the waits");

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
    all(registry.put_routes(&[(good, Arc::new(written.clone()))]).await).unwrap();
    let found = all(registry.find_routes(&[text, list, good]).await);
    assert_eq!(found, Ok(vec![None, None, Some(written)]));

    registry.announce(&node_entry("gw-1", 1), LONG).await.unwrap();
    server.ask("HSET rt:{nodes} gw-2 what");
    let listed = |unread| Nodes { entries: vec![node_entry("gw-1", 1)], unread };
    assert_eq!(registry.nodes().await, Ok(listed(Vec::new())));
    assert_eq!(server.ask("HLEN rt:{nodes}"), "1", "it would never have ended");

    server.ask("HSET rt:{nodes} gw-2 \"00000000000000000001 99999999999999 call {}\"");
    server.ask("HSET rt:{nodes} gw|3 \"00000000000000000001 99999999999999 call {}\"");
    // A route for another node than its name says would lead astray.
    server.ask("HSET rt:{nodes} gw-4 \"00000000000000000002 99999999999999 call []\"");
    let unread = ["gw-2", "gw-4"].map(|id| node_entry(id, if id == "gw-2" { 1 } else { 2 }).node);
    let mut found = registry.nodes().await.unwrap();
    found.unread.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(found, listed(unread.to_vec()));
    let (routes, _) = registry.unreadable().of(EntryKind::Route);
    let (nodes, last) = registry.unreadable().of(EntryKind::Node);
    assert_eq!((routes, nodes), (1, 3));
    assert!(last.starts_with("gw"), "{last}");

    server.ask("DEL rt:{nodes}");
    server.ask("SET rt:{nodes} what");
    assert_eq!(registry.nodes().await, Ok(Nodes::default()));
    let announced = registry.announce(&node_entry("gw-1", 1), LONG).await;
    assert_eq!(announced, Ok(Announcement::Fresh), "a key that is no table gives way");
    assert_eq!(registry.nodes().await, Ok(listed(Vec::new())));
}

#[tokio::test(flavor = "multi_thread")]
async fn tells_a_refusal_with_its_reason() {
    let server = Server::start("");
    let registry = server.registry().await;
    server.ask("CONFIG SET maxmemory 1");
    let batch: Vec<_> = (0..3).map(|_| (request(), Arc::new(route("gw-1")))).collect();
    let outcome = all(registry.put_routes(&batch).await);
    let Err(RegistryError::Refused(reason)) = &outcome else { panic!("{outcome:?}") };
    let reason = reason.to_string();
    assert!(reason.contains("OOM") && reason.contains(&server.address()), "{reason}");
    let ids: Vec<_> = batch.iter().map(|(id, _)| *id).collect();
    assert_eq!(all(registry.find_routes(&ids).await), Ok(vec![None; 3]));
    assert_eq!(all(registry.remove_routes(&ids).await).map(drop), Ok(()));

    server.ask("CONFIG SET maxmemory 0");
    assert_eq!(all(registry.put_routes(&batch).await).map(drop), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn never_tells_a_password() {
    let server = Server::start("requirepass right");
    let url = |password| format!("redis://:{password}@{}/1", server.address());
    let good = registry_at(&url("right")).await;
    assert_eq!(good.nodes().await, Ok(Nodes::default()));
    let bad = registry_at(&url("wrong-secret")).await;
    let error = bad.nodes().await.unwrap_err();
    assert_eq!(error.trouble().map(|trouble| &trouble.cause), Some(&Cause::Password));
    for text in [format!("{bad:?}"), format!("{good:#?}"), error.to_string(), format!("{error:?}")]
    {
        assert!(!text.contains("secret") && !text.contains("right"), "{text}");
    }
    let none = server.registry().await.nodes().await;
    let cause = |error: &RegistryError| error.trouble().map(|trouble| trouble.cause.clone());
    assert_eq!(none.as_ref().err().and_then(cause), Some(Cause::Password), "{none:?}");
}

/// A listener that answers everything as a web server would.
fn web_server() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").ok();
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn says_what_is_wrong_with_a_server_and_where() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let (server, locked) = (Server::start(""), Server::start("requirepass right"));
    server.ask("ACL SETUSER limited on >secret ~* +@all -evalsha");
    let [plain, secured] = [server.address(), locked.address()];
    let (closed, web) = (server::free_port(), web_server());
    let expected = [
        (format!("redis://127.0.0.1:{closed}"), Cause::ConnectionRefused),
        ("redis://no-such-host.invalid:1".to_owned(), Cause::Unresolved),
        (format!("redis://{secured}"), Cause::Password),
        (format!("redis://:secret@{secured}"), Cause::Password),
        (format!("redis://who:secret@{plain}"), Cause::Password),
        (format!("rediss://{plain}"), Cause::NoTls),
        (format!("redis://127.0.0.1:{web}"), Cause::NotRedis),
        (format!("redis://limited:secret@{plain}"), Cause::NoPermission(String::new())),
    ];
    for (url, cause) in expected {
        let error = registry_at(&url).await.nodes().await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        let trouble = error.trouble().unwrap();
        match (&trouble.cause, &cause) {
            // In the words of that version of the server.
            (Cause::NoPermission(what), Cause::NoPermission(_)) => {
                assert!(what.contains("evalsha"), "{what}");
            }
            (found, expected) => assert_eq!(found, expected, "{url}"),
        }
        let (scheme, rest) = url.split_once("://").unwrap();
        let address = rest.rsplit_once('@').map_or(rest, |(_, address)| address);
        assert_eq!(&*trouble.at, format!("{scheme}://{address}"), "{url}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn says_that_it_is_the_database_that_is_refused() {
    let (server, locked) = (Server::start(""), Server::start("requirepass right"));
    server.ask("ACL SETUSER limited on >secret ~* +@all -select");
    let cluster = Server::start("cluster-enabled yes");
    let [plain, secured, parted] = [&server, &locked, &cluster].map(Server::address);
    let none = "database 99: there is none of this number";
    for (url, cause) in [
        (format!("redis://{plain}/99"), none),
        (format!("redis://:right@{secured}/99"), none),
        (format!("redis://{secured}/1"), "wrong or missing password"),
        (format!("redis://limited:secret@{plain}/1"), "no permission: to select database 1"),
        (
            format!("redis://{parted}/1"),
            "database 1: a Redis Cluster has database 0 alone; its URL begins with redis+cluster://",
        ),
    ] {
        let error = registry_at(&url).await.nodes().await.unwrap_err();
        let place = url.rsplit_once('@').map_or(&*url, |(_, place)| place);
        let place = place.trim_start_matches("redis://").split('/').next().unwrap();
        assert_eq!(error.to_string(), format!("registry refused: redis://{place}: {cause}"));
        assert!(error.is_retryable(), "{error}");
    }
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
