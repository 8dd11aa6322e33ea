//! Askers over WebSockets, in an open or a closed loop.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures_util::{FutureExt, SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use tests::{
    client::Connect,
    meter::{Meter, Usage},
};
use tokio::{
    net::TcpStream,
    sync::mpsc::Receiver,
    task::JoinSet,
    time::{sleep_until, timeout},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use crate::{
    pace,
    plan::Plan,
    report::{Recorder, Window},
};

/// A reliable client acknowledges when so many frames wait for it, or none comes behind.
const ACK_FRAMES: u64 = 8;
/// How long answers may take once nothing is asked any more.
const STRAGGLE: Duration = Duration::from_secs(10);

/// Asks as planned, and says what the measured stretch used and how many requests found no room.
///
/// # Errors
/// When a connection fails.
pub async fn run(
    plan: &Plan,
    nodes: &[SocketAddr],
    meter: &Meter,
) -> Result<(Arc<Recorder>, Usage, u64)> {
    let mut sockets = Vec::new();
    for index in 0..plan.sockets {
        let mut connect = Connect::to(nodes[index % nodes.len()]);
        if plan.reliable {
            connect = connect.subprotocol("roundtrip.v1.reliable");
        }
        let (client, _) = connect.welcome().await?;
        sockets.push(client.into_stream());
    }
    let recorder = Arc::new(Recorder::new(Window::of(plan)));
    let mut askers = JoinSet::new();
    let paced =
        plan.rate.map(|rate| pace::start(rate, plan.sockets, recorder.window().remaining()));
    let (times, pacer) = match paced {
        Some((times, pacer)) => (times.into_iter().map(Some).collect(), Some(pacer)),
        None => (std::iter::repeat_with(|| None).take(plan.sockets).collect::<Vec<_>>(), None),
    };
    for (stream, times) in sockets.into_iter().zip(times) {
        let asker = Asker::new(plan, stream, Arc::clone(&recorder));
        let depth = plan.depth;
        askers.spawn(async move {
            match times {
                Some(times) => asker.open_loop(times).await,
                None => asker.closed_loop(depth).await,
            }
        });
    }
    let usage = measure(meter, recorder.window()).await?;
    while let Some(outcome) = askers.join_next().await {
        outcome??;
    }
    let unsent = pacer.map_or(Ok(0), std::thread::JoinHandle::join);
    let unsent = unsent.ok().context("the pacing thread has failed")?;
    Ok((recorder, usage, unsent))
}

/// Reads the meter at the window's start and end.
///
/// # Errors
/// When a measured process has ended.
pub async fn measure(meter: &Meter, window: Window) -> Result<Usage> {
    sleep_until(window.start.into()).await;
    let before = meter.read()?;
    sleep_until(window.end.into()).await;
    Ok(before.until(&meter.read()?))
}

/// What an asker needs of a frame.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(default)]
    seq: u64,
}

struct Asker {
    stream: WebSocketStream<TcpStream>,
    recorder: Arc<Recorder>,
    /// The frame, before and after the id.
    frame: (String, String),
    next_id: u64,
    /// When each request in flight was to be sent.
    in_flight: HashMap<u64, Instant>,
    reliable: bool,
    /// The number of the last frame, and of the last that was acknowledged.
    last_seq: u64,
    acked: u64,
}

impl Asker {
    fn new(plan: &Plan, stream: WebSocketStream<TcpStream>, recorder: Arc<Recorder>) -> Self {
        let head = format!(r#"{{"service":"{}","id":"#, plan.service);
        let tail = format!(r#","payload":{}}}"#, plan.payload());
        Self {
            stream,
            recorder,
            frame: (head, tail),
            next_id: 0,
            in_flight: HashMap::new(),
            reliable: plan.reliable,
            last_seq: 0,
            acked: 0,
        }
    }

    /// Asks at the given times.
    async fn open_loop(mut self, mut times: Receiver<Instant>) -> Result<()> {
        loop {
            tokio::select! {
                time = times.recv() => {
                    let Some(intended) = time else { break };
                    self.ask(intended).await?;
                    while let Ok(intended) = times.try_recv() {
                        self.ask(intended).await?;
                    }
                    self.stream.flush().await?;
                }
                message = self.stream.next() => {
                    self.take(message.context("closed")??)?;
                    self.take_more()?;
                    self.acknowledge(1).await?;
                    self.stream.flush().await?;
                }
            }
        }
        self.straggle().await
    }

    /// Keeps so many requests in flight.
    async fn closed_loop(mut self, depth: usize) -> Result<()> {
        let end = self.recorder.window().end;
        while Instant::now() < end {
            while self.in_flight.len() < depth {
                self.ask(Instant::now()).await?;
            }
            self.stream.flush().await?;
            let message = self.stream.next().await;
            self.take(message.context("closed")??)?;
            // Asked again in one write.
            self.take_more()?;
            self.acknowledge(ACK_FRAMES).await?;
        }
        self.straggle().await
    }

    /// Takes what else is there.
    fn take_more(&mut self) -> Result<()> {
        while let Some(message) = self.stream.next().now_or_never() {
            self.take(message.context("closed")??)?;
        }
        Ok(())
    }

    /// Acknowledges everything once so many frames wait for it.
    async fn acknowledge(&mut self, frames: u64) -> Result<()> {
        if self.reliable && self.last_seq - self.acked >= frames {
            self.acked = self.last_seq;
            let ack = format!(r#"{{"type":"ack","seq":{}}}"#, self.acked);
            self.stream.feed(Message::text(ack)).await?;
        }
        Ok(())
    }

    async fn ask(&mut self, intended: Instant) -> Result<()> {
        let (head, tail) = &self.frame;
        let id = self.next_id;
        self.next_id += 1;
        self.in_flight.insert(id, intended);
        self.recorder.sent(intended);
        Ok(self.stream.feed(Message::text(format!("{head}{id}{tail}"))).await?)
    }

    fn take(&mut self, message: Message) -> Result<()> {
        let text = match message {
            Message::Text(text) => text,
            Message::Close(frame) => bail!("closed: {frame:?}"),
            _ => return Ok(()),
        };
        let answer: Answer<'_> = serde_json::from_str(text.as_str())?;
        self.last_seq = self.last_seq.max(answer.seq);
        let id = answer.id.and_then(|id| id.get().parse().ok());
        if let Some(intended) = id.and_then(|id: u64| self.in_flight.remove(&id)) {
            self.recorder.answered(intended, answer.kind == "response");
        }
        Ok(())
    }

    async fn straggle(mut self) -> Result<()> {
        let answers = async {
            while !self.in_flight.is_empty() {
                let message = self.stream.next().await.context("closed")??;
                self.take(message)?;
            }
            Ok::<_, anyhow::Error>(())
        };
        timeout(STRAGGLE, answers).await.context("requests are never answered")??;
        Ok(self.stream.close(None).await?)
    }
}
