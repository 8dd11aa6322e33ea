//! A whole cluster in one process: real listeners and peers' HTTP, the bus and the registry in
//! memory, so that both can be made to fail.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use gateway::{
    app::{Adapters, App},
    bus::{
        BusEvent, Consumer, Outgoing, Producer,
        memory::{MemoryBus, MemoryProducer},
    },
    config::Config,
    relay::{
        mark::NodeMark,
        reply::{CORRELATION_ID, REPLY_TOPIC},
    },
};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use registry::{
    Announcement, BackedUp, Backup, Claim, Claimed, MailboxLimits, MemoryRegistry, NodeEntry,
    NodeId, NodeRef, NodeTable, Recorded, RegistryError, RequestId, RequestTable, Route,
    SessionEntry, SessionId, SessionRecord, SessionTable,
};
use serde_json::Value;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

const REPLY_PARTITIONS: i32 = 12;
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a service sends its replies.
#[derive(Clone, Copy)]
enum Aim {
    /// Keyed with the correlation id, as a Java client would.
    Affinity,
    /// To one partition after the other, whoever reads it.
    RoundRobin,
    /// Twice, to two partitions.
    Twice,
}

/// A registry that can be away. A clone is another handle of the same.
#[derive(Clone, Debug, Default)]
struct Table {
    memory: MemoryRegistry,
    away: Arc<AtomicBool>,
}

impl Table {
    fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    fn answer(&self) -> Result<&MemoryRegistry, RegistryError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(RegistryError::Unreachable("away".to_owned()));
        }
        Ok(&self.memory)
    }
}

#[async_trait]
impl RequestTable for Table {
    async fn put_routes(&self, routes: &[(RequestId, Arc<Route>)]) -> Result<(), RegistryError> {
        self.answer()?.put_routes(routes).await
    }

    async fn find_routes(
        &self,
        requests: &[RequestId],
    ) -> Result<Vec<Option<Route>>, RegistryError> {
        self.answer()?.find_routes(requests).await
    }

    async fn remove_routes(&self, requests: &[RequestId]) -> Result<(), RegistryError> {
        self.answer()?.remove_routes(requests).await
    }
}

#[async_trait]
impl NodeTable for Table {
    async fn announce(
        &self,
        entry: &NodeEntry,
        ttl: Duration,
    ) -> Result<Announcement, RegistryError> {
        self.answer()?.announce(entry, ttl).await
    }

    async fn nodes(&self) -> Result<Vec<NodeEntry>, RegistryError> {
        self.answer()?.nodes().await
    }

    async fn leave(&self, node: &NodeRef) -> Result<(), RegistryError> {
        self.answer()?.leave(node).await
    }
}

#[async_trait]
impl SessionTable for Table {
    async fn record(
        &self,
        records: &[SessionRecord],
        ttl: Duration,
    ) -> Result<Vec<Recorded>, RegistryError> {
        self.answer()?.record(records, ttl).await
    }

    async fn back_up(
        &self,
        backups: &[Backup],
        limits: MailboxLimits,
    ) -> Result<Vec<BackedUp>, RegistryError> {
        self.answer()?.back_up(backups, limits).await
    }

    async fn find_sessions(
        &self,
        sessions: &[SessionId],
    ) -> Result<Vec<Option<SessionEntry>>, RegistryError> {
        self.answer()?.find_sessions(sessions).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, RegistryError> {
        self.answer()?.claim(claim).await
    }

    async fn end_sessions(&self, sessions: &[(SessionId, u64)]) -> Result<(), RegistryError> {
        self.answer()?.end_sessions(sessions).await
    }
}

struct Cluster {
    bus: MemoryBus,
    registry: Table,
    stop: CancellationToken,
    nodes: JoinSet<()>,
    services: JoinSet<()>,
    public: Vec<SocketAddr>,
    internal: Vec<SocketAddr>,
    http: Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
}

impl Cluster {
    async fn start(nodes: usize) -> Self {
        let bus = MemoryBus::new(&[("replies", REPLY_PARTITIONS), ("echo", 4), ("silent", 1)]);
        Self::start_with(nodes, bus, MemoryBus::producer).await
    }

    async fn start_with(
        nodes: usize,
        bus: MemoryBus,
        producer: fn(&MemoryBus) -> MemoryProducer,
    ) -> Self {
        let registry = Table::default();
        let mut this = Self {
            bus,
            registry,
            stop: CancellationToken::new(),
            nodes: JoinSet::new(),
            services: JoinSet::new(),
            public: Vec::new(),
            internal: Vec::new(),
            http: Client::builder(TokioExecutor::new()).build_http(),
        };
        for number in 0..nodes {
            let adapters = Adapters {
                producer: Arc::new(producer(&this.bus)),
                consumer: Box::new(this.bus.consumer("roundtrip", "replies")),
                registry: Arc::new(this.registry.clone()),
            };
            let app = App::build(config(number), adapters).unwrap();
            this.public.push(app.public_address());
            this.internal.push(app.internal_address());
            let node = app.start().unwrap();
            let stop = this.stop.clone();
            this.nodes.spawn(async move { node.run(stop.cancelled_owned()).await.unwrap() });
        }
        for node in 0..nodes {
            eventually(async || {
                (this.get(this.internal[node], "/readyz").await.0 == 200).then_some(())
            })
            .await;
        }
        this
    }

    /// A service that echoes, after a while.
    fn serve(&mut self, aim: Aim, after: Duration) {
        let (consumer, producer) = (self.bus.consumer("echo", "echo"), self.bus.producer());
        self.services.spawn(echo(consumer, Arc::new(producer), aim, after));
    }

    async fn get(&self, address: SocketAddr, path: &str) -> (u16, Bytes) {
        let answer = self.http.get(format!("http://{address}{path}").parse().unwrap()).await;
        let answer = answer.unwrap();
        let status = answer.status().as_u16();
        (status, answer.into_body().collect().await.unwrap().to_bytes())
    }

    async fn post(&self, node: usize, service: &str, body: &str) -> (u16, Bytes) {
        let request =
            http::Request::post(format!("http://{}/v1/services/{service}", self.public[node]))
                .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
                .unwrap();
        let answer = self.http.request(request).await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.into_body().collect().await.unwrap().to_bytes())
    }

    /// The sum of a counter over all nodes, of the lines that have all these labels.
    async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let mut sum = 0.0;
        for &internal in &self.internal {
            let (_, text) = self.get(internal, "/metrics").await;
            let text = String::from_utf8(text.to_vec()).unwrap();
            sum += text
                .lines()
                .filter(|line| line.starts_with(name) && labels.iter().all(|l| line.contains(l)))
                .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
                .sum::<f64>();
        }
        sum
    }

    /// How often the registry was asked where a request waits.
    async fn lookups(&self) -> f64 {
        self.metric("roundtrip_registry_seconds_count", &["find_routes"]).await
    }

    /// Waits until each node has read the node table once more.
    async fn hear_of_all(&self) {
        let mut begun = Vec::new();
        for node in 0..self.internal.len() {
            begun.push(self.announcements(node).await);
        }
        for (node, begun) in begun.into_iter().enumerate() {
            // The table is read after each announcement: the one that has begun may be too early.
            let is_later = async || self.announcements(node).await >= begun + 2;
            eventually(async || is_later().await.then_some(())).await;
        }
    }

    async fn announcements(&self, node: usize) -> u64 {
        let count = r#"roundtrip_registry_seconds_count{operation="announce"}"#;
        let (_, text) = self.get(self.internal[node], "/metrics").await;
        let text = String::from_utf8(text.to_vec()).unwrap();
        let count = text.lines().find_map(|line| line.strip_prefix(count));
        count.map_or(0, |count| count.trim().parse().unwrap())
    }

    /// Posts `count` bodies to each node at once; all must come back.
    async fn round_trips(&self, count: usize) {
        let calls = (0..count * self.public.len()).map(async |number| {
            let body = format!(r#"{{"number":{number}}}"#);
            let (status, answer) = self.post(number % self.public.len(), "echo", &body).await;
            assert_eq!((status, answer), (200, Bytes::from(body)));
        });
        futures_util::future::join_all(calls).await;
    }

    async fn finish(mut self) {
        self.stop.cancel();
        while let Some(node) = self.nodes.join_next().await {
            node.unwrap();
        }
    }
}

fn config(number: usize) -> Config {
    let text = format!(
        r#"
        node_id = "gw-{number}"
        public.listen = "127.0.0.1:0"
        internal = {{ listen = "127.0.0.1:0", secret = "a-secret-of-the-tests" }}
        kafka = {{ bootstrap_servers = "memory", reply_topic = "replies" }}
        registry.url = "memory:"
        shutdown.grace = "10s"
        [services.echo]
        request_topic = "echo"
        timeout = "20s"
        [services.silent]
        request_topic = "silent"
        "#
    );
    Config::parse(&text, std::iter::empty()).unwrap()
}

async fn echo(
    mut consumer: impl Consumer,
    producer: Arc<MemoryProducer>,
    aim: Aim,
    after: Duration,
) {
    let mut answers = JoinSet::new();
    let mut next = 0;
    loop {
        let mut sink = |event: BusEvent<'_>| {
            let BusEvent::Record(record) = event else { return };
            let header = |name: &str| {
                let found = record.headers.iter().find(|(found, _)| *found == name);
                Bytes::copy_from_slice(found.and_then(|(_, value)| *value).unwrap_or_default())
            };
            let topic = String::from_utf8(header(REPLY_TOPIC).to_vec()).unwrap();
            let correlation = header(CORRELATION_ID);
            let value = Bytes::copy_from_slice(record.value.unwrap_or_default());
            next = (next + 1) % REPLY_PARTITIONS;
            let partitions = match aim {
                Aim::Affinity => vec![None],
                Aim::RoundRobin => vec![Some(next)],
                Aim::Twice => vec![Some(next), Some((next + 5) % REPLY_PARTITIONS)],
            };
            let producer = Arc::clone(&producer);
            answers.spawn(async move {
                tokio::time::sleep(after).await;
                for partition in partitions {
                    let record = Outgoing {
                        topic: &topic,
                        partition,
                        key: Some(&correlation),
                        value: Some(&value),
                        headers: &[(CORRELATION_ID, &correlation)],
                    };
                    producer.produce(&record, Box::new(drop)).unwrap();
                }
            });
        };
        consumer.next(64, &mut sink).await;
    }
}

async fn eventually<T>(mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn replies_by_affinity_need_no_other_node() {
    let mut cluster = Cluster::start(3).await;
    cluster.serve(Aim::Affinity, Duration::ZERO);
    cluster.round_trips(100).await;
    assert_eq!(cluster.metric("roundtrip_replies_total", &["affinity"]).await, 300.0);
    assert_eq!(cluster.metric("roundtrip_forwards_total", &["delivered"]).await, 0.0);
    cluster.finish().await;
}

#[tokio::test]
async fn replies_on_any_partition_come_home() {
    let mut cluster = Cluster::start(3).await;
    cluster.serve(Aim::RoundRobin, Duration::ZERO);
    cluster.round_trips(200).await;
    let forwarded = cluster.metric("roundtrip_replies_total", &["forwarded"]).await;
    assert!(forwarded > 100.0, "{forwarded} of 600 came from another node");
    let delivered = cluster.metric("roundtrip_forwards_total", &["delivered"]).await;
    assert_eq!(delivered, forwarded, "senders and receivers count the same");
    cluster.finish().await;
}

#[tokio::test]
async fn replies_on_any_partition_need_no_look_up() {
    let mut cluster = Cluster::start(3).await;
    cluster.serve(Aim::RoundRobin, Duration::ZERO);
    cluster.hear_of_all().await;
    cluster.round_trips(200).await;
    let forwarded = cluster.metric("roundtrip_replies_total", &["forwarded"]).await;
    assert!(forwarded > 100.0, "{forwarded} of 600 came from another node");
    assert_eq!(cluster.lookups().await, 0.0);
    assert_eq!(cluster.metric("roundtrip_replies_total", &["unrouted"]).await, 0.0);
    cluster.finish().await;
}

#[tokio::test]
async fn replies_on_any_partition_come_home_while_the_registry_is_away() {
    let mut cluster = Cluster::start(3).await;
    cluster.serve(Aim::RoundRobin, Duration::ZERO);
    cluster.hear_of_all().await;
    cluster.registry.set_away(true);
    cluster.round_trips(200).await;
    let forwarded = cluster.metric("roundtrip_replies_total", &["forwarded"]).await;
    assert!(forwarded > 100.0, "{forwarded} of 600 came from another node");
    cluster.registry.set_away(false);
    cluster.finish().await;
}

#[tokio::test]
async fn replies_come_home_to_a_node_that_is_not_alone_with_its_mark() {
    let mut cluster = Cluster::start(3).await;
    cluster.serve(Aim::RoundRobin, Duration::ZERO);
    let nodes = cluster.registry.nodes().await.unwrap();
    for (number, entry) in nodes.iter().enumerate() {
        let id = NodeId::parse(&format!("twin-{number}")).unwrap();
        let mark = NodeMark::of(&entry.node);
        let runs = (1..).map(|incarnation| NodeRef { id: id.clone(), incarnation });
        let node = { runs }.find(|run| NodeMark::of(run) == mark).unwrap();
        let entry = NodeEntry { node, ..entry.clone() };
        cluster.registry.announce(&entry, PATIENCE).await.unwrap();
    }
    cluster.hear_of_all().await;
    cluster.round_trips(200).await;
    assert!(cluster.lookups().await > 0.0, "no mark names one node alone");
    let forwarded = cluster.metric("roundtrip_replies_total", &["forwarded"]).await;
    assert!(forwarded > 100.0, "{forwarded} of 600 came from another node");
    cluster.finish().await;
}

#[tokio::test]
async fn a_second_reply_is_counted_and_not_delivered() {
    let mut cluster = Cluster::start(2).await;
    cluster.serve(Aim::Twice, Duration::ZERO);
    cluster.round_trips(50).await;
    let unrouted = ["unrouted"];
    eventually(async || {
        let count = cluster.metric("roundtrip_replies_total", &unrouted).await;
        (count >= 100.0).then_some(())
    })
    .await;
    let ok = cluster.metric("roundtrip_requests_total", &[r#"outcome="ok""#]).await;
    assert_eq!(ok, 100.0);
    cluster.finish().await;
}

#[tokio::test]
async fn a_wiped_registry_is_written_again() {
    let mut cluster = Cluster::start(3).await;
    // Slow enough that the registry is wiped while all requests wait.
    cluster.serve(Aim::RoundRobin, Duration::from_secs(1));
    let wipe = async {
        let waiting = ["echo"];
        eventually(async || {
            (cluster.metric("roundtrip_in_flight", &waiting).await >= 60.0).then_some(())
        })
        .await;
        cluster.registry.memory.wipe();
    };
    tokio::join!(cluster.round_trips(20), wipe);
    cluster.finish().await;
}

#[tokio::test]
async fn an_unavailable_bus_is_told_at_once() {
    let cluster = Cluster::start(1).await;
    cluster.bus.set_available(false);
    let (status, body) = eventually(async || {
        let answer = cluster.post(0, "echo", "1").await;
        (answer.0 == 503).then_some(answer)
    })
    .await;
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &problem["code"]), (503, &Value::from("unavailable")));
    assert_eq!(problem["recorded"], false);
    eventually(async || (cluster.get(cluster.internal[0], "/readyz").await.0 == 503).then_some(()))
        .await;
    cluster.bus.set_available(true);
    eventually(async || (cluster.get(cluster.internal[0], "/readyz").await.0 == 200).then_some(()))
        .await;
    cluster.finish().await;
}

#[tokio::test]
async fn a_full_producer_queue_sheds() {
    let bus = MemoryBus::new(&[("replies", REPLY_PARTITIONS), ("echo", 4), ("silent", 1)]);
    let cluster = Cluster::start_with(1, bus, |bus| bus.producer_with_queue(0)).await;
    let (status, body) = cluster.post(0, "silent", "1").await;
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &problem["code"]), (503, &Value::from("overloaded")));
    assert_eq!(problem["recorded"], false);
    assert_eq!(cluster.metric("roundtrip_in_flight", &["silent"]).await, 0.0);
    assert_eq!(cluster.metric("roundtrip_limit_hits_total", &["producer_queue"]).await, 1.0);
    cluster.finish().await;
}

#[tokio::test]
async fn a_drain_answers_who_waits() {
    let mut cluster = Cluster::start(2).await;
    cluster.serve(Aim::RoundRobin, Duration::from_millis(500));
    let drain = async {
        let waiting = ["echo"];
        eventually(async || {
            (cluster.metric("roundtrip_in_flight", &waiting).await >= 20.0).then_some(())
        })
        .await;
        cluster.stop.cancel();
    };
    tokio::join!(cluster.round_trips(10), drain);
    cluster.finish().await;
}

#[tokio::test]
async fn only_who_shows_the_secret_may_deliver() {
    let cluster = Cluster::start(1).await;
    let post = async |path: &str, secret: &str| {
        let request = http::Request::post(format!("http://{}{path}", cluster.internal[0]))
            .header("authorization", format!("Bearer {secret}"))
            // A batch of nothing.
            .body(Full::new(Bytes::from_static(&[0, 0])))
            .unwrap();
        cluster.http.request(request).await.unwrap().status().as_u16()
    };
    let path = "/internal/v1/deliveries";
    assert_eq!(post(path, "a-secret-of-the-tests").await, 200);
    for wrong in ["", "a-secret-of-the-test", "a-secret-of-the-tests2"] {
        assert_eq!(post(path, wrong).await, 401);
        assert_eq!(post("/internal/v1/nothing", wrong).await, 401, "no hint what there is");
    }
    assert_eq!(cluster.get(cluster.public[0], "/metrics").await.0, 404);
    cluster.finish().await;
}

#[tokio::test]
async fn request_ids_are_never_used_twice() {
    let mut cluster = Cluster::start(2).await;
    cluster.serve(Aim::Affinity, Duration::ZERO);
    let mut seen = HashSet::new();
    for number in 0..200 {
        let request =
            http::Request::post(format!("http://{}/v1/services/echo", cluster.public[number % 2]))
                .body(Full::new(Bytes::from_static(b"1")))
                .unwrap();
        let answer = cluster.http.request(request).await.unwrap();
        assert!(seen.insert(answer.headers()["roundtrip-request-id"].clone()));
    }
    cluster.finish().await;
}
