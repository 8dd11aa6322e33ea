//! Steady traffic of clients that ask, reconnect when told to, and count what became of every
//! request.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    SOON,
    client::{Connect, Event, Frame, WsClient},
    eventually,
    worker::Seen,
};

/// What a client that was refused waits before it asks again.
const BACK_OFF: Duration = Duration::from_millis(50);

/// What became of all requests. No two have the same payload.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub asked: u64,
    /// Terminal frames, by outcome: `ok` or the error code.
    pub outcomes: BTreeMap<String, u64>,
    /// Terminal frames for a request that had ended already.
    pub repeated: u64,
    /// Connections after the first of each client.
    pub reconnected: u64,
    /// Payloads of requests whose error says that they are not recorded.
    pub unrecorded: Vec<String>,
    /// Payloads of requests in flight when their connection ended.
    pub cut_off: Vec<String>,
}

/// Running traffic.
#[derive(Debug)]
pub struct Traffic {
    stop: CancellationToken,
    ended: Arc<AtomicU64>,
    clients: JoinSet<Result<Tally>>,
}

impl Traffic {
    /// Starts so many clients, spread over the nodes, each with `depth` requests in flight.
    pub fn start(nodes: &[SocketAddr], service: &str, clients: usize, depth: usize) -> Self {
        let (stop, ended) = (CancellationToken::new(), Arc::default());
        let mut tasks = JoinSet::new();
        for index in 0..clients {
            let asker = Asker {
                name: Uuid::new_v4(),
                nodes: nodes.to_vec(),
                next_node: index,
                service: service.to_owned(),
                depth,
                in_flight: HashMap::new(),
                last_seq: 0,
                tally: Tally::default(),
                ended: Arc::clone(&ended),
            };
            tasks.spawn(asker.run(stop.clone()));
        }
        Self { stop, ended, clients: tasks }
    }

    /// Waits until so many more requests have been answered well.
    ///
    /// # Errors
    /// When they have not soon.
    pub async fn goes_on(&self, more: u64) -> Result<()> {
        let before = self.ended.load(Ordering::Relaxed);
        eventually(SOON * 2, "requests are answered", async || {
            let now = self.ended.load(Ordering::Relaxed);
            ensure!(now >= before + more, "{} of {more}", now - before);
            Ok(())
        })
        .await
    }

    /// Asks no more, and waits for what is in flight.
    ///
    /// # Errors
    /// When a request is never answered, or a frame breaks the contract.
    pub async fn finish(mut self) -> Result<Tally> {
        self.stop.cancel();
        let mut total = Tally::default();
        while let Some(tally) = self.clients.join_next().await {
            total.add(tally??);
        }
        Ok(total)
    }
}

impl Tally {
    /// How many requests ended so: `ok` or an error code.
    pub fn of(&self, outcome: &str) -> u64 {
        self.outcomes.get(outcome).copied().unwrap_or_default()
    }

    /// How many requests ended.
    pub fn ended(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// Checks that every request ended exactly once, but for those cut off with their connection.
    ///
    /// # Errors
    /// When one did not.
    pub fn check_each_once(&self) -> Result<()> {
        ensure!(self.repeated == 0, "answered twice: {self:?}");
        let cut_off = self.cut_off.len() as u64;
        ensure!(self.ended() + cut_off == self.asked, "not answered: {self:?}");
        Ok(())
    }

    /// Checks that the service has seen none of those that were never recorded: neither those whose
    /// error says so, nor those that were cut off, whose answers would be lost.
    ///
    /// # Errors
    /// When it has seen one.
    pub fn check_unseen(&self, seen: &[Seen]) -> Result<()> {
        let seen: HashSet<String> = seen.iter().map(Seen::text).collect();
        let never = self.unrecorded.iter().chain(&self.cut_off);
        let recorded: Vec<&String> = never.filter(|payload| seen.contains(*payload)).collect();
        ensure!(recorded.is_empty(), "recorded all the same: {recorded:?} of {self:?}");
        Ok(())
    }

    fn add(&mut self, other: Self) {
        self.asked += other.asked;
        self.repeated += other.repeated;
        self.reconnected += other.reconnected;
        self.unrecorded.extend(other.unrecorded);
        self.cut_off.extend(other.cut_off);
        for (outcome, count) in other.outcomes {
            *self.outcomes.entry(outcome).or_default() += count;
        }
    }
}

struct Asker {
    name: Uuid,
    nodes: Vec<SocketAddr>,
    next_node: usize,
    service: String,
    depth: usize,
    /// Payloads by id.
    in_flight: HashMap<u64, String>,
    last_seq: u64,
    tally: Tally,
    ended: Arc<AtomicU64>,
}

impl Asker {
    async fn run(mut self, stop: CancellationToken) -> Result<Tally> {
        let mut client = self.connect().await?;
        loop {
            let asking = !stop.is_cancelled();
            if !asking && self.in_flight.is_empty() {
                // Whatever follows would be an answer too many.
                if let Ok(Event::Frame(frame)) = client.next(Duration::from_millis(300)).await {
                    self.take(&frame)?;
                    continue;
                }
                return Ok(self.tally);
            }
            if self.exchange(&mut client, asking).await?.is_none() {
                self.tally.cut_off.extend(self.in_flight.drain().map(|(_, payload)| payload));
                self.tally.reconnected += 1;
                client = self.connect().await?;
            }
        }
    }

    /// Fills up what is in flight and takes one frame; `None` when the connection has ended.
    async fn exchange(&mut self, client: &mut WsClient, asking: bool) -> Result<Option<()>> {
        while asking && self.in_flight.len() < self.depth {
            self.tally.asked += 1;
            let (id, service) = (self.tally.asked, &self.service);
            let payload = format!(r#"{{"n":{id},"by":"{}"}}"#, self.name);
            let frame = format!(r#"{{"service":"{service}","id":{id},"payload":{payload}}}"#);
            self.in_flight.insert(id, payload);
            if client.send(frame).await.is_err() {
                return self.rest(client).await;
            }
        }
        match client.next(Duration::from_secs(90)).await.context("a request is never answered")? {
            Event::Frame(frame) => {
                if self.take(&frame)? != "ok" {
                    sleep(BACK_OFF).await;
                }
                Ok(Some(()))
            }
            Event::Closed(code) => {
                ensure!(code == Some(1012), "closed with {code:?}");
                Ok(None)
            }
        }
    }

    /// What has arrived on a connection that cannot be written any more.
    async fn rest(&mut self, client: &mut WsClient) -> Result<Option<()>> {
        while let Event::Frame(frame) = client.next(SOON).await? {
            self.take(&frame)?;
        }
        Ok(None)
    }

    /// Takes note of a frame, and gives its outcome.
    fn take(&mut self, frame: &Frame) -> Result<String> {
        ensure!(frame.seq() == self.last_seq + 1, "after {}: {}", self.last_seq, frame.text);
        self.last_seq = frame.seq();
        let id: u64 = frame.need("id")?;
        let Some(payload) = self.in_flight.remove(&id) else {
            self.tally.repeated += 1;
            return Ok(String::new());
        };
        let outcome = match frame.kind().as_str() {
            "response" if frame.payload() == payload => "ok".to_owned(),
            "error" => frame.code(),
            _ => bail!("not an answer to {payload}: {}", frame.text),
        };
        match outcome.as_str() {
            "ok" => {
                self.ended.fetch_add(1, Ordering::Relaxed);
            }
            _ if !frame.need::<bool>("recorded")? => self.tally.unrecorded.push(payload),
            _ => {}
        }
        *self.tally.outcomes.entry(outcome.clone()).or_default() += 1;
        Ok(outcome)
    }

    /// Connects to the next node that takes us.
    async fn connect(&mut self) -> Result<WsClient> {
        let deadline = Instant::now() + SOON;
        self.last_seq = 0;
        loop {
            let node = self.nodes[self.next_node % self.nodes.len()];
            self.next_node += 1;
            match Connect::to(node).welcome().await {
                Ok((client, _)) => return Ok(client),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }
}
