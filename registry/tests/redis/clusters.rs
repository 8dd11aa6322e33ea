//! A Redis Cluster of three masters.

use std::{process::Command, sync::Arc, time::Duration};

use registry::{
    Announcement, NodeTable, RequestTable,
    conformance::{self, node_entry, route},
};

use tokio::time::Instant;

use crate::{
    LONG,
    faults::recovers,
    request,
    server::{Server, free_port, registry_at, wait},
};

struct Cluster {
    servers: Vec<Server>,
}

impl Cluster {
    fn start() -> Self {
        let servers: Vec<_> = (0..3).map(|_| Self::server()).collect();
        let created = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(servers.iter().map(Server::address))
            .arg("--cluster-yes")
            .output()
            .unwrap_or_else(|error| panic!("redis-cli (apt-get install redis-tools): {error}"));
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        let cluster = Self { servers };
        cluster.is_ok();
        cluster
    }

    fn server() -> Server {
        let bus = free_port();
        Server::start(&format!(
            "cluster-enabled yes\ncluster-port {bus}\ncluster-node-timeout 2000"
        ))
    }

    fn is_ok(&self) {
        for server in &self.servers {
            wait("the cluster is whole", || server.ask("CLUSTER INFO").contains("state:ok"));
        }
    }

    fn url(&self) -> String {
        let addresses: Vec<_> = self.servers.iter().map(Server::address).collect();
        format!("redis+cluster://{}", addresses.join(","))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passes_the_conformance_suite() {
    let cluster = Cluster::start();
    conformance::run_all(async || registry_at(&cluster.url()).await).await;
    let keys = |server: &Server| server.ask("DBSIZE").parse::<u32>().unwrap();
    let spread: Vec<_> = cluster.servers.iter().map(keys).collect();
    assert!(spread.iter().all(|keys| *keys > 0), "routes are on all servers: {spread:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_servers_that_were_started_again() {
    let mut cluster = Cluster::start();
    // One address is enough to find the others.
    let registry = registry_at(&format!("redis+cluster://{}", cluster.servers[0].address())).await;
    let entry = node_entry("gw-1", 1);
    assert_eq!(registry.announce(&entry, LONG).await, Ok(Announcement::Fresh));
    for server in &mut cluster.servers {
        server.stop();
    }
    let down = Instant::now();
    let outcome = registry.announce(&entry, LONG).await;
    assert!(outcome.is_err_and(|error| error.is_retryable()));
    assert!(down.elapsed() < Duration::from_secs(3), "the call took {:?}", down.elapsed());

    for server in &mut cluster.servers {
        server.run();
    }
    cluster.is_ok();
    recovers(&registry).await;
    assert_eq!(registry.announce(&entry, LONG).await, Ok(Announcement::Fresh));
    let batch: Vec<_> = (0..100).map(|_| (request(), Arc::new(route("gw-1")))).collect();
    assert_eq!(registry.put_routes(&batch).await, Ok(()));
}
