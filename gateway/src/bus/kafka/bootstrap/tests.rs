//! Clients and a broker that lists no broker for a moment, as one does that its controller has fenced.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::Duration,
};

use rdkafka::producer::{BaseProducer, Producer as _};
use tokio::time::Instant;

use super::*;
use crate::bus::kafka::KafkaSettings;

/// Of so many that hear of no broker, some forget to begin again: one of eight, when this was written.
const CLIENTS: usize = 40;
const PATIENCE: Duration = Duration::from_millis(500);
/// A machine may be slow.
const SOON: Duration = Duration::from_secs(30);

/// A broker that knows two questions of Kafka's protocol: `ApiVersions` and `Metadata`.
struct Broker {
    address: String,
    is_fenced: Arc<AtomicBool>,
}

impl Broker {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_fenced = Arc::new(AtomicBool::new(false));
        let fenced = Arc::clone(&is_fenced);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, fenced) = (stream.unwrap(), Arc::clone(&fenced));
                // A client that hangs up ends it.
                thread::spawn(move || serve(stream, port, &fenced).unwrap_or_default());
            }
        });
        Self { address: format!("127.0.0.1:{port}"), is_fenced }
    }
}

fn serve(mut stream: TcpStream, port: u16, is_fenced: &AtomicBool) -> io::Result<()> {
    const API_VERSIONS: u16 = 18;
    const METADATA: u16 = 3;
    loop {
        let mut size = [0; 4];
        stream.read_exact(&mut size)?;
        let mut question = vec![0; u32::from_be_bytes(size) as usize];
        stream.read_exact(&mut question)?;
        let word = |at| u16::from_be_bytes([question[at], question[at + 1]]);
        let (key, version, correlation) = (word(0), word(2), &question[4..8]);
        let mut answer = correlation.to_vec();
        match (key, version) {
            // The latest version is not known, so the client asks in the oldest one.
            (API_VERSIONS, 1..) => answer.extend([0, 35, 0, 0, 0, 0]),
            (API_VERSIONS, 0) => {
                answer.extend([0, 0, 0, 0, 0, 2]);
                for (key, latest) in [(API_VERSIONS, 0_u16), (METADATA, 1)] {
                    answer.extend([key, 0, latest].map(u16::to_be_bytes).as_flattened());
                }
            }
            (METADATA, 1) => answer.extend(metadata(port, is_fenced.load(Ordering::Relaxed))),
            unknown => panic!("asked {unknown:?}"),
        }
        stream.write_all(&(answer.len() as u32).to_be_bytes())?;
        stream.write_all(&answer)?;
    }
}

/// One topic with one partition, and the broker that leads it: none, if that is fenced.
fn metadata(port: u16, is_fenced: bool) -> Vec<u8> {
    const LEADER_NOT_AVAILABLE: u16 = 5;
    let (brokers, leader, error) =
        if is_fenced { (0_u32, -1_i32, LEADER_NOT_AVAILABLE) } else { (1, 1, 0) };
    let text = |text: &str| [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat();
    let mut answer = brokers.to_be_bytes().to_vec();
    if !is_fenced {
        answer.extend(1_i32.to_be_bytes());
        answer.extend(text("127.0.0.1"));
        answer.extend(u32::from(port).to_be_bytes());
        answer.extend((-1_i16).to_be_bytes());
    }
    answer.extend(leader.to_be_bytes());
    answer.extend(1_u32.to_be_bytes());
    answer.extend(0_u16.to_be_bytes());
    answer.extend(text("topic"));
    answer.push(0);
    answer.extend(1_u32.to_be_bytes());
    answer.extend(error.to_be_bytes());
    answer.extend(0_u32.to_be_bytes());
    answer.extend(leader.to_be_bytes());
    // No replicas, and none in sync.
    answer.extend([0; 8]);
    answer
}

/// How many brokers a client hears of, if it hears anything.
fn brokers(client: &BaseProducer, patience: Duration) -> Option<usize> {
    let metadata = client.client().fetch_metadata(None, patience).ok()?;
    Some(metadata.brokers().len())
}

#[test]
fn a_client_that_has_heard_of_no_broker_asks_again() {
    let broker = Broker::start();
    let settings =
        KafkaSettings { bootstrap_servers: broker.address.clone(), ..KafkaSettings::default() };
    let connect = |_| settings.client_config(&[], &[]).create::<BaseProducer>().unwrap();
    let clients: Vec<_> = (0..CLIENTS).map(connect).collect();
    for client in &clients {
        assert_eq!(brokers(client, SOON), Some(1));
    }
    broker.is_fenced.store(true, Ordering::Relaxed);
    for client in &clients {
        // Or it has lost its connection before it could ask, by an answer to a question of its own.
        brokers(client, PATIENCE);
    }
    broker.is_fenced.store(false, Ordering::Relaxed);
    thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| {
                let (bootstrap, began) = (Bootstrap::new(&broker.address), Instant::now());
                while brokers(client, PATIENCE) != Some(1) {
                    assert!(began.elapsed() < SOON, "it asks nobody any more");
                    bootstrap.heard(client.client(), false);
                }
            });
        }
    });
}
