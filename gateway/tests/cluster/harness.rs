//! The nodes, their service, and what the tests ask of them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use gateway::{
    app::{Adapters, App, Source},
    bus::{
        BusEvent, Consumer, Outgoing, Producer,
        memory::{MemoryBus, MemoryProducer},
    },
    config::Config,
    descriptors::Budget,
    relay::dialects::{CORRELATION_ID, REPLY_TOPIC},
};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use registry::faulty::FaultyRegistry;

pub(crate) const REPLY_PARTITIONS: i32 = 12;
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A consumer of each topic that a node reads.
pub(crate) fn consumers(config: &Config, bus: &MemoryBus) -> Vec<(Source, Box<dyn Consumer>)> {
    let consumer = |source: Source| {
        let consumer = bus.consumer(&source.group, &source.topic).tell_ends();
        (source, Box::new(consumer) as Box<dyn Consumer>)
    };
    Source::all(config).into_iter().map(consumer).collect()
}

/// Where a service sends its replies.
#[derive(Clone, Copy)]
pub(crate) enum Aim {
    /// Keyed with the correlation id, as a Java client would.
    Affinity,
    /// To one partition after the other, whoever reads it.
    RoundRobin,
    /// Twice, to two partitions.
    Twice,
}

pub(crate) struct Cluster {
    pub(crate) bus: MemoryBus,
    pub(crate) registry: FaultyRegistry,
    pub(crate) stop: CancellationToken,
    nodes: JoinSet<()>,
    pub(crate) services: JoinSet<()>,
    pub(crate) public: Vec<SocketAddr>,
    pub(crate) internal: Vec<SocketAddr>,
    pub(crate) http: Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
}

impl Cluster {
    pub(crate) async fn start(nodes: usize) -> Self {
        let bus = MemoryBus::new(&[("replies", REPLY_PARTITIONS), ("echo", 4), ("silent", 1)]);
        Self::start_with(nodes, bus, MemoryBus::producer).await
    }

    pub(crate) async fn start_with(
        nodes: usize,
        bus: MemoryBus,
        producer: fn(&MemoryBus) -> MemoryProducer,
    ) -> Self {
        Self::start_each(nodes, bus, producer, config).await
    }

    /// Starts nodes, each with the configuration that `config` has for its number.
    pub(crate) async fn start_each(
        nodes: usize,
        bus: MemoryBus,
        producer: fn(&MemoryBus) -> MemoryProducer,
        config: impl Fn(usize) -> Config,
    ) -> Self {
        let this = Self::begin(nodes, bus, producer, config, Setup::default()).await;
        for &internal in &this.internal {
            eventually(async || (this.get(internal, "/readyz").await.0 == 200).then_some(())).await;
        }
        this
    }

    /// The same, but the nodes have only just begun to listen.
    pub(crate) async fn begin(
        nodes: usize,
        bus: MemoryBus,
        producer: fn(&MemoryBus) -> MemoryProducer,
        config: impl Fn(usize) -> Config,
        setup: Setup,
    ) -> Self {
        let registry = FaultyRegistry::default();
        registry.set_away(setup.registry_away);
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
            let config = config(number);
            let adapters = Adapters {
                producer: Arc::new(producer(&this.bus)),
                consumers: consumers(&config, &this.bus),
                registry: Arc::new(this.registry.clone()),
            };
            let app = App::build(config, adapters, setup.budget).unwrap();
            this.public.push(app.public_address());
            this.internal.push(app.internal_address());
            let node = app.start().unwrap();
            let stop = this.stop.clone();
            this.nodes
                .spawn(async move { node.run(stop.cancelled_owned(), |_| ()).await.unwrap() });
        }
        this
    }

    /// A service that echoes, after a while.
    pub(crate) fn serve(&mut self, aim: Aim, after: Duration) {
        let (consumer, producer) = (self.bus.consumer("echo", "echo"), self.bus.producer());
        self.services.spawn(echo(consumer, Arc::new(producer), aim, after));
    }

    pub(crate) async fn get(&self, address: SocketAddr, path: &str) -> (u16, Bytes) {
        let answer = self.http.get(format!("http://{address}{path}").parse().unwrap()).await;
        let answer = answer.unwrap();
        let status = answer.status().as_u16();
        (status, answer.into_body().collect().await.unwrap().to_bytes())
    }

    pub(crate) async fn post(&self, node: usize, service: &str, body: &str) -> (u16, Bytes) {
        let request =
            http::Request::post(format!("http://{}/v1/services/{service}", self.public[node]))
                .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
                .unwrap();
        let answer = self.http.request(request).await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.into_body().collect().await.unwrap().to_bytes())
    }

    /// The sum of a counter over all nodes, of the lines that have all these labels.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
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
    pub(crate) async fn lookups(&self) -> f64 {
        self.metric("roundtrip_registry_seconds_count", &["find_routes"]).await
    }

    /// Waits until each node has read the node table once more.
    pub(crate) async fn hear_of_all(&self) {
        let mut begun = Vec::new();
        for node in 0..self.internal.len() {
            begun.push(self.announcements(node).await);
        }
        for (node, begun) in begun.into_iter().enumerate() {
            // The table is read after each announcement. One that is under way may have begun too
            // early, so that two more are waited for.
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
    pub(crate) async fn round_trips(&self, count: usize) {
        let calls = (0..count * self.public.len()).map(async |number| {
            let body = format!(r#"{{"number":{number}}}"#);
            let (status, answer) = self.post(number % self.public.len(), "echo", &body).await;
            assert_eq!((status, answer), (200, Bytes::from(body)));
        });
        futures_util::future::join_all(calls).await;
    }

    pub(crate) async fn finish(mut self) {
        self.stop.cancel();
        while let Some(node) = self.nodes.join_next().await {
            node.unwrap();
        }
    }
}

/// What a test may want to be different.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    /// How many connections the listeners may hold.
    pub(crate) budget: Budget,
    /// Whether the registry cannot be reached at first.
    pub(crate) registry_away: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self { budget: Budget::of(65_536), registry_away: false }
    }
}

pub(crate) fn config(number: usize) -> Config {
    config_with(number, "")
}

/// The same with further options, of tables and of services.
pub(crate) fn config_with(number: usize, more: &str) -> Config {
    let text = format!(
        r#"
        node_id = "gw-{number}"
        public.listen = "127.0.0.1:0"
        internal = {{ listen = "127.0.0.1:0", secret = "a-secret-of-the-tests" }}
        kafka = {{ bootstrap_servers = "memory", reply_topic = "replies" }}
        registry.url = "memory:"
        shutdown.grace = "10s"
        {more}
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
                        key_suffix_bytes: 0,
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

pub(crate) async fn eventually<T>(mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
