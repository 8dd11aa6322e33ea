//! A master and a replica behind one sentinel.

use std::{sync::Arc, time::Duration};

use registry::{
    RequestTable, all,
    conformance::{self, route},
};
use tokio::time::{Instant, sleep};

use crate::{
    request,
    server::{Server, registry_at, wait},
};

struct Watched {
    sentinel: Server,
    /// The master first, as they are started.
    servers: [Server; 2],
}

impl Watched {
    fn start() -> Self {
        let master = Server::start("repl-diskless-sync-delay 0");
        let replica = Server::start(&format!("replicaof 127.0.0.1 {}", master.port));
        let linked = || replica.ask("INFO replication").contains("master_link_status:up");
        wait("the replica follows", linked);
        let sentinel =
            Server::sentinel(&format!("sentinel monitor main 127.0.0.1 {} 1", master.port));
        Self { sentinel, servers: [master, replica] }
    }

    fn url(&self) -> String {
        format!("redis+sentinel://{}/main/1", self.sentinel.address())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passes_the_conformance_suite() {
    let watched = Watched::start();
    conformance::run_all(async || registry_at(&watched.url()).await).await;
    let keys = watched.servers[0].ask("INFO keyspace");
    assert!(keys.contains("db1:") && !keys.contains("db0:"), "the URL's database: {keys}");
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_the_master_to_another_server() {
    let watched = Watched::start();
    let registry = registry_at(&watched.url()).await;
    let route = route("gw-1");
    let batch = [(request(), Arc::new(route.clone()))];
    all(registry.put_routes(&batch).await).unwrap();

    // What a sentinel does in a failover, without its ten seconds of making sure. The former
    // master stays up, as a replica: the registry's connection to it is alive, and useless.
    let [former, later] = &watched.servers;
    assert_eq!(later.ask("REPLICAOF NO ONE"), "OK");
    assert_eq!(former.ask(&format!("REPLICAOF 127.0.0.1 {}", later.port)), "OK");
    assert_eq!(watched.sentinel.ask("SENTINEL REMOVE main"), "OK");
    let monitor = format!("SENTINEL MONITOR main 127.0.0.1 {} 1", later.port);
    assert_eq!(watched.sentinel.ask(&monitor), "OK");

    let deadline = Instant::now() + Duration::from_secs(3);
    while let Err(error) = all(registry.put_routes(&batch).await) {
        assert!(Instant::now() < deadline, "the registry stays behind: {error}");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(all(registry.find_routes(&[batch[0].0]).await), Ok(vec![Some(route)]));
    assert!(later.ask("INFO keyspace").contains("db1:keys=1,expires=1"));
}
