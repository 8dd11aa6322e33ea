//! Everything in one process, with nothing installed: nodes that forward to each other over HTTP, a
//! broker and a registry in memory, and the sample services.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use registry::{MemoryRegistry, Registry};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{Adapters, App, Node, StartFailure, Stopped},
    bus::kafka::{KafkaSettings, dev_broker::DevBroker},
    config::{Config, ConfigProblems},
    descriptors::Budget,
    samples::Samples,
    tasks::Tasks,
};

const REPLY_TOPIC: &str = "roundtrip.replies";
const REPLY_PARTITIONS: i32 = 12;
const REQUEST_PARTITIONS: i32 = 4;
/// The events of the orders, of which a view is made.
const EVENTS: &str = r#"
respond_on = { view = "orders", key = "/id", until = ["VALIDATED", "FAILED"] }
[views.orders]
topic = "orders"
state = "/state"
"#;
const EVENT_TOPIC: &str = "orders";
/// The sample services, and one more for the user's own code.
const SERVICES: [&str; 6] = ["echo", "slow", "fail", "count", "orders", "mine"];

/// Why dev mode ended.
#[derive(Debug, thiserror::Error)]
pub enum DevFailure {
    /// A node could not start.
    #[error(transparent)]
    Start(#[from] StartFailure),
    /// The broker or the sample services could not.
    #[error(transparent)]
    Kafka(#[from] crate::bus::kafka::StartError),
    /// A node's configuration is no good.
    #[error("{0}")]
    Config(ConfigProblems),
    /// There are not enough ports after the first.
    #[error("--port {0} leaves no room for {1} nodes")]
    Ports(u16, u16),
    /// A node stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// What the user has asked for on the command line.
#[derive(Debug)]
pub struct Wish {
    /// How many nodes.
    pub nodes: u16,
    /// Where the first one listens; the others follow. 0: anywhere.
    pub port: u16,
    /// Web pages that may connect beside those of this machine, as [`crate::config::origin`] has
    /// read them.
    pub allow_origins: Vec<String>,
}

/// Runs nodes until `shutdown`; `say` is how it speaks to the user, without waiting for anybody.
/// `begins` is called when a node begins to drain, with the time that this may take.
///
/// # Errors
/// Whatever keeps a part from starting, or stops it.
pub async fn run(
    wish: &Wish,
    shutdown: impl Future<Output = ()>,
    say: fn(String),
    begins: fn(Duration),
) -> Result<(), DevFailure> {
    let &Wish { nodes, port, .. } = wish;
    if port != 0 && port.checked_add(nodes - 1).is_none() {
        return Err(DevFailure::Ports(port, nodes));
    }
    let topics: Vec<(String, i32)> = SERVICES
        .iter()
        .map(|service| (request_topic(service), REQUEST_PARTITIONS))
        .chain([
            (REPLY_TOPIC.to_owned(), REPLY_PARTITIONS),
            (EVENT_TOPIC.to_owned(), REQUEST_PARTITIONS),
        ])
        .collect();
    let topics: Vec<(&str, i32)> = topics.iter().map(|(name, count)| (&**name, *count)).collect();
    let broker = DevBroker::start(&topics)?;
    let registry: Arc<dyn Registry> = Arc::new(MemoryRegistry::new());

    let mut apps = Vec::new();
    for number in 0..nodes {
        let port = if port == 0 { 0 } else { port + number };
        let config = config(number + 1, port, broker.bootstrap_servers(), &wish.allow_origins)?;
        let settings = settings(&broker, &format!("roundtrip-{}", config.node_id));
        let adapters = Adapters::with(&settings, &config, Arc::clone(&registry))?;
        apps.push(build(config, adapters, Budget::of_process(nodes.into()))?);
    }
    let addresses: Vec<SocketAddr> = apps.iter().map(App::public_address).collect();
    let listening: String = apps.iter().map(listening).collect();
    let any_config = config(1, 0, broker.bootstrap_servers(), &[])?;
    let (tasks, mut lost) = Tasks::new();
    let samples = Samples::start(&settings(&broker, "samples"), &any_config, &tasks)?;
    let nodes: Vec<Node> = apps.into_iter().map(App::start).collect::<Result<_, _>>()?;

    let stop = CancellationToken::new();
    // Nothing is printed before all nodes let clients in, because whoever reads a line may connect
    // at once.
    let ready = join_all(nodes.iter().map(Node::ready).collect::<Vec<_>>());
    let run = join_all(nodes.into_iter().map(|node| {
        let (asked, stop) = (stop.clone().cancelled_owned(), stop.clone());
        async move {
            let result = node.run(asked, begins).await;
            // A node that stops takes the others along.
            stop.cancel();
            result
        }
    }));
    let introduce = async {
        let introduced = async {
            ready.await;
            let how = introduction(&addresses, broker.bootstrap_servers(), &samples);
            say(listening + &how);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = introduced => {}
            () = shutdown => {}
        }
    };
    let mut run = std::pin::pin!(run);
    let results = tokio::select! {
        results = &mut run => results,
        () = introduce => {
            stop.cancel();
            run.await
        }
        name = lost.next() => {
            tracing::error!(name, "a sample service was lost");
            stop.cancel();
            run.await
        }
    };
    tasks.stop_and_wait().await;
    // Threads of its clients may be a moment behind, and would complain of a broker that is gone.
    std::mem::forget(broker);
    results.into_iter().collect::<Result<(), Stopped>>()?;
    Ok(())
}

/// The dev broker lets the first members of a classic group wait for three seconds, and may let them
/// start over when one is slow to say that it has heard. It assigns at once by KIP-848.
fn settings(broker: &DevBroker, client_id: &str) -> KafkaSettings {
    KafkaSettings {
        client_id: client_id.to_owned(),
        properties: [("group.protocol".to_owned(), "consumer".to_owned())].into(),
        ..broker.settings()
    }
}

fn request_topic(service: &str) -> String {
    format!("{service}.requests")
}

/// Binds the ports of a node. An address that cannot be bound is reported with the option of dev
/// mode.
fn build(mut config: Config, adapters: Adapters, budget: Budget) -> Result<App, StartFailure> {
    // Nobody has asked for the default name, so nobody has to be told that it is out of reach.
    config.limits.connections_max = config.limits.connections_max.min(budget.clients);
    App::build(config, adapters, budget).map_err(|failure| match failure {
        StartFailure::Listen { option: "public.listen", address, source } => {
            StartFailure::Listen { option: "--port", address, source }
        }
        other => other,
    })
}

/// Where a node listens, as `serve` says it.
fn listening(app: &App) -> String {
    let (public, internal) = (app.public_address(), app.internal_address());
    format!("listening public={public}\nlistening internal={internal}\n")
}

fn config(
    number: u16,
    port: u16,
    bootstrap_servers: &str,
    allow_origins: &[String],
) -> Result<Config, DevFailure> {
    let services: String = SERVICES
        .iter()
        .map(|service| {
            let topic = request_topic(service);
            let events = if *service == "orders" { EVENTS } else { "" };
            format!("[services.{service}]\nrequest_topic = \"{topic}\"\n{events}")
        })
        .collect();
    let text = format!(
        r#"
        node_id = "dev-{number}"
        public = {{ listen = "127.0.0.1:{port}" }}
        internal = {{ listen = "127.0.0.1:0", secret = "one-process-one-secret" }}
        kafka = {{ bootstrap_servers = "{bootstrap_servers}", reply_topic = "{REPLY_TOPIC}" }}
        registry = {{ url = "memory:" }}
        {services}
        "#
    );
    let mut config = Config::parse(&text, std::iter::empty()).map_err(DevFailure::Config)?;
    config.public.allowed_origins = Some(allow_origins.to_vec());
    config.public.loopback_origins = true;
    Ok(config)
}

fn introduction(addresses: &[SocketAddr], bootstrap_servers: &str, samples: &Samples) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let first = &addresses[0];
    let nodes = addresses.join(" ");
    let samples = samples.names().join(", ");
    format!(
        r#"
ready. Paste into another terminal:

  wscat -c ws://{first}/ws
  > {{"service":"echo","payload":"hi"}}

  curl -i http://{first}/v1/services/echo -d '{{"hello":"world"}}'

  nodes         {nodes}
  services      {samples}
  Kafka broker  {bootstrap_servers}
  your own      read the topic {mine} there, answer on the topic that the header
                kafka_replyTopic names, with kafka_correlationId; call it as "mine"

All of it is in memory, and gone with this process. Ctrl-C stops it.
"#,
        mine = request_topic("mine"),
    )
}
