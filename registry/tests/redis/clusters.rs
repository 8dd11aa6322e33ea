//! A Redis Cluster of three masters: whole, and without one of them.

use std::{iter, process::Command, sync::Arc, time::Duration};

use registry::{
    Announcement, Answers, NodeTable, Nodes, Recorded, RedisRegistry, RegistryError, RequestId,
    RequestTable, SessionId, SessionRecord, SessionTable, all,
    conformance::{self, node_entry, route},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    LONG,
    faults::{CALL_TIME_MAX, recovers},
    request,
    server::{PATIENCE, Server, free_port, registry_at, wait},
    sessions::record,
};

/// What is asked of a master that answers takes less than the second for which one that does not is
/// waited for.
const PROMPT: Duration = Duration::from_millis(900);
/// For how long a master is away: longer than it takes the others to notice.
const OUTAGE: Duration = Duration::from_secs(5);

struct Cluster {
    /// Three masters with a third of the slots each, and whoever came later.
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
            "cluster-enabled yes\ncluster-port {bus}\ncluster-node-timeout 2000\n\
             cluster-require-full-coverage no"
        ))
    }

    fn is_ok(&self) {
        for server in &self.servers {
            wait("the cluster is whole", || {
                let info = server.ask("CLUSTER INFO");
                info.contains("state:ok") && info.contains("slots_fail:0")
            });
        }
    }

    /// Starts a replica of a master.
    fn replicate(&mut self, master: usize) {
        let (replica, master) = (Self::server(), &self.servers[master]);
        let bus = master.ask("CONFIG GET cluster-port");
        let bus = bus.lines().last().expect("a name and a value");
        assert_eq!(replica.ask(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", master.port)), "OK");
        let id = master.ask("CLUSTER MYID");
        let replicate = format!("CLUSTER REPLICATE {id}");
        wait("the replica has met its master", || replica.ask(&replicate) == "OK");
        let follows = || replica.ask("INFO replication").contains("master_link_status:up");
        wait("the replica follows", follows);
        for server in &self.servers {
            wait("all know the replica", || server.ask("CLUSTER SLOTS").contains(&replica.id()));
        }
        self.servers.push(replica);
    }

    fn url(&self) -> String {
        let addresses: Vec<_> = self.servers.iter().map(Server::address).collect();
        format!("redis+cluster://{}", addresses.join(","))
    }

    async fn registry(&self) -> RedisRegistry {
        RedisRegistry::connect(&self.url(), "rt:").await.expect("a good URL and a good prefix")
    }

    fn has(&self, server: usize, key: &str) -> bool {
        !self.servers[server].ask(&format!("EXISTS {key}")).starts_with("MOVED")
    }

    /// A request whose route belongs on this server.
    fn request_on(&self, server: usize) -> RequestId {
        let mut requests = iter::repeat_with(request);
        requests
            .find(|id| self.has(server, &format!("rt:r:{id}")))
            .expect("there is no end of them")
    }

    /// A session whose record belongs on this server.
    fn session_on(&self, server: usize) -> SessionRecord {
        let mut sessions = iter::repeat_with(SessionId::random);
        let is_there = |id: &SessionId| self.has(server, &format!("rt:s:{{{id}}}"));
        record(sessions.find(is_there).expect("there is no end of them"))
    }

    /// The master of the node table, and two others.
    fn order(&self) -> [usize; 3] {
        let of_table = (0..3).find(|at| self.has(*at, "rt:{nodes}")).expect("it has one");
        [of_table, (of_table + 1) % 3, (of_table + 2) % 3]
    }
}

impl Server {
    fn id(&self) -> String {
        self.ask("CLUSTER MYID")
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
    assert!(down.elapsed() < CALL_TIME_MAX, "the call took {:?}", down.elapsed());

    for server in &mut cluster.servers {
        server.run();
    }
    cluster.is_ok();
    recovers(&registry, request()).await;
    assert_eq!(registry.announce(&entry, LONG).await, Ok(Announcement::Fresh));
    let batch: Vec<_> = (0..100).map(|_| (request(), Arc::new(route("gw-1")))).collect();
    assert_eq!(all(registry.put_routes(&batch).await).map(drop), Ok(()));
}

async fn all_of<T>(answers: impl Future<Output = Answers<T>>) -> Result<Vec<T>, RegistryError> {
    all(answers.await)
}

/// The result of a call that must not wait for a master that is away.
async fn prompt<T>(call: impl Future<Output = Result<T, RegistryError>>) -> T {
    let begun = Instant::now();
    let outcome = call.await;
    assert!(begun.elapsed() < PROMPT, "it took {:?}", begun.elapsed());
    outcome.unwrap_or_else(|error| panic!("after {:?}: {error}", begun.elapsed()))
}

/// What is asked of a master that is away fails for itself, in time, and says where it is.
async fn away<T>(server: &Server, call: impl Future<Output = Result<T, RegistryError>>) {
    let begun = Instant::now();
    let Err(error) = call.await else { panic!("{} is away", server.address()) };
    assert!(begun.elapsed() < CALL_TIME_MAX, "it took {:?}", begun.elapsed());
    let at = format!("redis+cluster://{}", server.address());
    let RegistryError::PartlyUnreachable(trouble) = &error else { panic!("{error:?}") };
    assert_eq!(&*trouble.at, at, "{error}");
}

/// Asks for what is on a master that is away, and for what is everywhere, all the time.
fn press(registry: &RedisRegistry, away: RequestId) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for task in 0..6 {
        let registry = registry.clone();
        tasks.spawn(async move {
            loop {
                match task % 3 {
                    0 => drop(registry.find_routes(&[away]).await),
                    1 => drop(registry.put_routes(&routes(100)).await),
                    _ => drop(registry.generation().await),
                }
                sleep(Duration::from_millis(10)).await;
            }
        });
    }
    tasks
}

fn routes(count: usize) -> Vec<(RequestId, Arc<registry::Route>)> {
    (0..count).map(|_| (request(), Arc::new(route("gw-1")))).collect()
}

/// While one master is `stopped`, until it is `back`; whether it is of another run then.
async fn a_master_is_away(
    stop: impl FnOnce(&mut Server),
    back: impl FnOnce(&mut Server),
    is_other_run: bool,
) {
    let mut cluster = Cluster::start();
    let registry = cluster.registry().await;
    let [_, other, away_at] = cluster.order();
    let order = cluster.order();
    let [on_table, on_other, on_away] = order.map(|at| cluster.request_on(at));
    let requests = [on_table, on_other, on_away];
    let batch: Vec<_> = requests.iter().map(|id| (*id, Arc::new(route("gw-1")))).collect();
    assert_eq!(all(registry.put_routes(&batch).await).map(drop), Ok(()));
    let sessions = order.map(|at| cluster.session_on(at));
    assert_eq!(all(registry.record(&sessions, LONG).await), Ok(vec![Recorded::Created; 3]));
    let entry = node_entry("gw-1", 1);
    assert_eq!(registry.announce(&entry, LONG).await, Ok(Announcement::Fresh));
    let generation = prompt(registry.generation()).await;
    assert!(generation.is_some());

    stop(&mut cluster.servers[away_at]);
    let pressing = press(&registry, on_away);
    let begun = Instant::now();
    while begun.elapsed() < OUTAGE {
        for request in [on_table, on_other] {
            assert!(prompt(all_of(registry.find_routes(&[request]))).await[0].is_some());
            prompt(all_of(registry.put_routes(&[(request, Arc::new(route("gw-1")))]))).await;
        }
        assert_eq!(prompt(registry.nodes()).await.entries, std::slice::from_ref(&entry));
        assert_eq!(prompt(registry.announce(&entry, LONG)).await, Announcement::Refreshed);
        away(&cluster.servers[away_at], all_of(registry.find_routes(&[on_away]))).await;
        away(&cluster.servers[away_at], all_of(registry.put_routes(&batch[2..]))).await;
        // Of several things at once, too.
        let found = registry.find_routes(&requests).await;
        let found: Vec<_> =
            found.into_iter().map(|route| route.map(|route| route.is_some())).collect();
        assert!(matches!(&found[..], [Ok(true), Ok(true), Err(_)]), "{found:?}");
        let put: Vec<_> = registry.put_routes(&batch).await;
        assert!(matches!(&put[..], [Ok(()), Ok(()), Err(_)]), "{put:?}");
        let told = registry.record(&sessions, LONG).await;
        assert!(
            matches!(&told[..], [Ok(Recorded::Refreshed), Ok(Recorded::Refreshed), Err(_)]),
            "{told:?}"
        );
        assert_eq!(registry.generation().await, Ok(generation), "nothing has changed");
        sleep(Duration::from_millis(10)).await;
    }
    drop(pressing);
    // A process that starts now cannot know which run that one is of.
    let late = cluster.registry().await;
    assert!(prompt(all_of(late.find_routes(&[on_other]))).await[0].is_some());
    away(&cluster.servers[away_at], late.generation()).await;
    assert!(cluster.has(other, &format!("rt:r:{on_other}")));

    back(&mut cluster.servers[away_at]);
    cluster.is_ok();
    for registry in [&registry, &late] {
        recovers(registry, on_away).await;
        assert_eq!(all(registry.put_routes(&batch).await).map(drop), Ok(()));
        assert!(prompt(all_of(registry.find_routes(&requests))).await.iter().all(Option::is_some));
        let present = prompt(registry.generation()).await;
        assert_eq!(present != generation, is_other_run, "{present:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_was_killed_fails_only_what_is_asked_of_it() {
    a_master_is_away(Server::stop, Server::run, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_hangs_fails_only_what_is_asked_of_it() {
    a_master_is_away(|server| server.signal("STOP"), |server| server.signal("CONT"), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_master_of_the_node_table_routes_are_found() {
    let mut cluster = Cluster::start();
    let registry = cluster.registry().await;
    let [of_table, other, _] = cluster.order();
    let id = cluster.request_on(other);
    let entry = node_entry("gw-1", 1);
    registry.announce(&entry, LONG).await.unwrap();

    cluster.servers[of_table].stop();
    for _ in 0..20 {
        away(&cluster.servers[of_table], registry.announce(&entry, LONG)).await;
        away(&cluster.servers[of_table], registry.nodes()).await;
        prompt(all_of(registry.put_routes(&[(id, Arc::new(route("gw-1")))]))).await;
        assert!(prompt(all_of(registry.find_routes(&[id]))).await[0].is_some());
    }
    cluster.servers[of_table].run();
    cluster.is_ok();
    recovers(&registry, cluster.request_on(of_table)).await;
    assert_eq!(registry.nodes().await, Ok(Nodes::default()));
    assert_eq!(registry.announce(&entry, LONG).await, Ok(Announcement::Fresh));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_a_masters_place() {
    let mut cluster = Cluster::start();
    let [of_table, other, _] = cluster.order();
    cluster.replicate(of_table);
    let registry = cluster.registry().await;
    let entry = node_entry("gw-1", 1);
    assert_eq!(registry.announce(&entry, LONG).await, Ok(Announcement::Fresh));
    let [on_table, on_other] = [of_table, other].map(|at| cluster.request_on(at));
    let batch = [on_table, on_other].map(|id| (id, Arc::new(route("gw-1"))));
    all(registry.put_routes(&batch).await).unwrap();
    let generation = registry.generation().await.unwrap();

    cluster.servers[of_table].stop();
    let pressing = press(&registry, on_table);
    let begun = Instant::now();
    while all(registry.put_routes(&batch[..1]).await).is_err() {
        assert!(prompt(all_of(registry.find_routes(&[on_other]))).await[0].is_some());
        assert!(begun.elapsed() < PATIENCE, "the replica is not found");
        sleep(Duration::from_millis(10)).await;
    }
    drop(pressing);
    assert!(
        all(registry.find_routes(&[on_table, on_other]).await).unwrap().iter().all(Option::is_some)
    );
    assert_eq!(registry.announce(&entry, LONG).await, Ok(Announcement::Refreshed));
    let present = registry.generation().await.unwrap();
    assert!(present.is_some() && present != generation, "it may lack what was written last");

    // The former master comes back as a replica, and nothing changes by it.
    cluster.servers[of_table].run();
    wait("the former master follows", || {
        cluster.servers[of_table].ask("INFO replication").contains("role:slave")
    });
    for _ in 0..20 {
        assert_eq!(all(registry.put_routes(&batch).await).map(drop), Ok(()));
        assert_eq!(registry.generation().await, Ok(present));
    }
}

/// As after a partition of the network: it answers clients, but has lost sight of the others, which
/// go on with its replica.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_says_the_cluster_is_down_is_not_asked_for_ever() {
    let mut cluster = Cluster::start();
    let [_, other, lost] = cluster.order();
    cluster.replicate(lost);
    let registry = cluster.registry().await;
    let on_lost = [(cluster.request_on(lost), Arc::new(route("gw-1")))];
    assert_eq!(all(registry.put_routes(&on_lost).await).map(drop), Ok(()));

    let (former, replica) = (&cluster.servers[lost], &cluster.servers[3]);
    assert_eq!(former.ask("CONFIG SET cluster-require-full-coverage yes"), "OK");
    for server in cluster.servers.iter().filter(|server| server.port != former.port) {
        assert_eq!(former.ask(&format!("CLUSTER FORGET {}", server.id())), "OK");
    }
    let key = format!("rt:r:{}", on_lost[0].0);
    let says_down = || former.ask(&format!("EXISTS {key}")).starts_with("CLUSTERDOWN");
    wait("the former master says that the cluster is down", says_down);
    assert_eq!(replica.ask("CLUSTER FAILOVER TAKEOVER"), "OK");
    let knows =
        || cluster.servers[other].ask(&format!("EXISTS {key}")).ends_with(&replica.address());
    wait("the others know of it", knows);

    let begun = Instant::now();
    while let Err(error) = all(registry.put_routes(&on_lost).await) {
        assert!(error.is_retryable(), "{error}");
        assert!(begun.elapsed() < PATIENCE, "the replica is not found");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(says_down(), "it still does");
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_a_slot_that_moves() {
    let cluster = Cluster::start();
    let registry = cluster.registry().await;
    let [from, to, _] = cluster.order();
    let slot = cluster.servers[from].ask("CLUSTER KEYSLOT rt:{nodes}");
    let [source, target] = [from, to].map(|at| cluster.servers[at].id());
    let generation = registry.generation().await.unwrap();

    // On its way, with nothing in it: each command is asked for at the target.
    let tell = |at: usize, words: &str| {
        assert_eq!(cluster.servers[at].ask(&format!("CLUSTER SETSLOT {slot} {words}")), "OK");
    };
    tell(to, &format!("IMPORTING {source}"));
    tell(from, &format!("MIGRATING {target}"));
    let entry = node_entry("gw-1", 1);
    assert_eq!(registry.announce(&entry, LONG).await, Ok(Announcement::Fresh));
    assert_eq!(registry.announce(&entry, LONG).await, Ok(Announcement::Refreshed));
    assert_eq!(registry.nodes().await.unwrap().entries, std::slice::from_ref(&entry));
    assert_eq!(cluster.servers[from].ask("DBSIZE"), "0");

    // There.
    for at in [to, from] {
        tell(at, &format!("NODE {target}"));
    }
    assert_eq!(registry.announce(&entry, LONG).await, Ok(Announcement::Refreshed));
    assert_eq!(registry.nodes().await.unwrap().entries, [entry]);
    assert_eq!(registry.generation().await, Ok(generation), "all masters are the same");
}
