//! Steady traffic of sessions that keep the contract: they ask, reconnect when told to, resume, and
//! count what became of every request. Reliable ones acknowledge, and ask again after a resume.

use std::{
    collections::{BTreeMap, HashSet},
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

use crate::{
    SOON,
    client::{Connect, Event, Frame, WsClient},
    eventually,
};

/// What became of all requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub asked: u64,
    /// Terminal frames, by outcome: `ok` or the error code.
    pub outcomes: BTreeMap<String, u64>,
    /// Terminal frames for a request that had ended already.
    pub repeated: u64,
    /// Connections that went on with their session.
    pub resumed: u64,
    /// Requests in flight on a session that was not resumed.
    pub lost: u64,
}

/// Running traffic.
#[derive(Debug)]
pub struct Traffic {
    stop: CancellationToken,
    answered: Arc<AtomicU64>,
    sessions: JoinSet<Result<Tally>>,
}

impl Traffic {
    /// Starts so many sessions, spread over the nodes, each with `depth` requests in flight.
    pub fn start(nodes: &[SocketAddr], service: &str, sessions: usize, depth: usize) -> Self {
        Self::of(nodes, service, sessions, depth, false)
    }

    /// The same with reliable sessions.
    pub fn reliable(nodes: &[SocketAddr], service: &str, sessions: usize, depth: usize) -> Self {
        Self::of(nodes, service, sessions, depth, true)
    }

    fn of(
        nodes: &[SocketAddr],
        service: &str,
        sessions: usize,
        depth: usize,
        reliable: bool,
    ) -> Self {
        let (stop, answered) = (CancellationToken::new(), Arc::default());
        let mut tasks = JoinSet::new();
        for index in 0..sessions {
            let asker = Asker {
                nodes: nodes.to_vec(),
                next_node: index,
                service: service.to_owned(),
                depth,
                reliable,
                in_flight: HashSet::new(),
                resume: String::new(),
                last_seq: 0,
                tally: Tally::default(),
                answered: Arc::clone(&answered),
            };
            tasks.spawn(asker.run(stop.clone()));
        }
        Self { stop, answered, sessions: tasks }
    }

    /// Waits until so many more requests are answered, errors apart.
    ///
    /// # Errors
    /// When they have not soon, or a session has failed.
    pub async fn goes_on(&mut self, more: u64) -> Result<()> {
        let before = self.answered.load(Ordering::Relaxed);
        let failed = eventually(SOON * 2, "requests are answered", async || {
            // A session ends before it is told to only when it fails.
            if let Some(ended) = self.sessions.try_join_next() {
                return Ok(Some(ended));
            }
            let now = self.answered.load(Ordering::Relaxed);
            ensure!(now >= before + more, "{} of {more}", now - before);
            Ok(None)
        })
        .await?;
        failed.map_or(Ok(()), |ended| ended?.map(drop))
    }

    /// Asks no more, and waits for what is in flight.
    ///
    /// # Errors
    /// When a request is never answered, or a frame breaks the contract.
    pub async fn finish(mut self) -> Result<Tally> {
        self.stop.cancel();
        let mut total = Tally::default();
        while let Some(tally) = self.sessions.join_next().await {
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

    fn add(&mut self, other: Self) {
        self.asked += other.asked;
        self.repeated += other.repeated;
        self.resumed += other.resumed;
        self.lost += other.lost;
        for (outcome, count) in other.outcomes {
            *self.outcomes.entry(outcome).or_default() += count;
        }
    }
}

struct Asker {
    nodes: Vec<SocketAddr>,
    next_node: usize,
    service: String,
    depth: usize,
    reliable: bool,
    in_flight: HashSet<u64>,
    resume: String,
    last_seq: u64,
    tally: Tally,
    answered: Arc<AtomicU64>,
}

impl Asker {
    async fn run(mut self, stop: CancellationToken) -> Result<Tally> {
        let mut client = self.reconnect().await?;
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
                client = self.reconnect().await?;
            }
        }
    }

    /// Fills up what is in flight and takes one frame; `None` when the connection has ended.
    async fn exchange(&mut self, client: &mut WsClient, asking: bool) -> Result<Option<()>> {
        while asking && self.in_flight.len() < self.depth {
            self.tally.asked += 1;
            let id = self.tally.asked;
            self.in_flight.insert(id);
            if client.send(self.request(id)).await.is_err() {
                return Ok(None);
            }
        }
        match client.next(Duration::from_secs(90)).await.context("a request is never answered")? {
            Event::Frame(frame) => {
                self.take(&frame)?;
                if !self.reliable {
                    return Ok(Some(()));
                }
                let ack = format!(r#"{{"type":"ack","seq":{}}}"#, self.last_seq);
                Ok(client.send(ack).await.ok())
            }
            Event::Closed(code) => {
                let come_back =
                    code.is_none_or(|code| code == 1012 || (4000..4500).contains(&code));
                ensure!(come_back, "closed for good with {code:?}");
                Ok(None)
            }
        }
    }

    fn request(&self, id: u64) -> String {
        let service = &self.service;
        format!(r#"{{"service":"{service}","id":{id},"payload":{{"n":{id}}}}}"#)
    }

    fn take(&mut self, frame: &Frame) -> Result<()> {
        if frame.seq() > 0 {
            ensure!(frame.seq() > self.last_seq, "seq {} again: {}", frame.seq(), frame.text);
            self.last_seq = frame.seq();
        }
        if !frame.is_terminal() {
            return Ok(());
        }
        let id: u64 = frame.need("id")?;
        if !self.in_flight.remove(&id) {
            self.tally.repeated += 1;
            return Ok(());
        }
        let outcome = match frame.kind() == "response" {
            true if frame.payload() == format!(r#"{{"n":{id}}}"#) => "ok".to_owned(),
            true => bail!("another request's answer: {}", frame.text),
            false => frame.code(),
        };
        self.answered.fetch_add(u64::from(outcome == "ok"), Ordering::Relaxed);
        *self.tally.outcomes.entry(outcome).or_default() += 1;
        Ok(())
    }

    /// Connects to the next node that lets us, and goes on with the session if there was one.
    async fn reconnect(&mut self) -> Result<WsClient> {
        let deadline = Instant::now() + SOON;
        let (mut client, welcome) = loop {
            match self.connect().welcome().await {
                Ok(connected) => break connected,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        };
        self.resumed(&welcome)?;
        // Whether these ever arrived is not known; asked again before anything is acknowledged,
        // they join what is in flight.
        for &id in self.in_flight.iter().filter(|_| self.reliable) {
            if client.send(self.request(id)).await.is_err() {
                break;
            }
        }
        Ok(client)
    }

    fn connect(&mut self) -> Connect {
        let node = self.nodes[self.next_node % self.nodes.len()];
        self.next_node += 1;
        let name = if self.reliable { "roundtrip.v1.reliable" } else { "roundtrip.v1" };
        let connect = Connect::to(node).subprotocol(name);
        match self.resume.as_str() {
            "" => connect,
            resume => connect.query(&format!("resume={resume}&last_seq={}", self.last_seq)),
        }
    }

    fn resumed(&mut self, welcome: &Frame) -> Result<()> {
        if !self.resume.is_empty() {
            match welcome.need("resumed")? {
                true => self.tally.resumed += 1,
                false => {
                    self.tally.lost += self.in_flight.len() as u64;
                    self.in_flight.clear();
                    self.last_seq = 0;
                }
            }
        }
        self.resume = welcome.get("resume").unwrap_or_default();
        Ok(())
    }
}
