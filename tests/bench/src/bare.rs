//! The asker without a gateway: request and reply straight over Kafka. What is left when everything
//! else is taken away.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use futures_util::StreamExt;
use rdkafka::{
    Message,
    consumer::StreamConsumer,
    message::{Header, Headers, OwnedHeaders},
    producer::BaseRecord,
};
use tests::meter::{Meter, Usage};
use tokio::{
    sync::{Semaphore, mpsc::Receiver},
    time::timeout,
};
use uuid::Uuid;

use crate::{
    kafka::{Producer, clients},
    pace,
    plan::Plan,
    report::{Recorder, Window},
    sockets::measure,
};

/// Where the requests and replies go.
#[derive(Clone, Debug, Default)]
pub struct Topics {
    pub bootstrap: String,
    pub requests: String,
    pub replies: String,
}

type Pending = Mutex<HashMap<Uuid, Instant>>;

/// Asks as planned; the sockets times their depth are the requests in flight.
///
/// # Errors
/// When Kafka cannot be used.
pub async fn run(
    plan: &Plan,
    topics: &Topics,
    meter: &Meter,
) -> Result<(Arc<Recorder>, Usage, u64)> {
    let (consumer, producer) = clients(&topics.bootstrap, &topics.replies, "murmur2_random")?;
    let recorder = Arc::new(Recorder::new(Window::of(plan)));
    let pending = Arc::<Pending>::default();
    let room = Arc::new(Semaphore::new(plan.sockets * plan.depth));
    let asker = Asker {
        producer,
        topics: topics.clone(),
        payload: plan.payload(),
        recorder: Arc::clone(&recorder),
        pending: Arc::clone(&pending),
    };
    let (asking, pacer) = match plan.rate {
        Some(rate) => {
            let (mut times, pacer) = pace::start(rate, 1, recorder.window().remaining());
            let times = times.pop().context("one asker has one receiver")?;
            (tokio::spawn(asker.open_loop(times)), Some(pacer))
        }
        None => (tokio::spawn(asker.closed_loop(Arc::clone(&room))), None),
    };
    let taking = tokio::spawn(take(consumer, Arc::clone(&recorder), Arc::clone(&pending), room));
    let usage = measure(meter, recorder.window()).await?;
    timeout(Duration::from_secs(10), asking).await.context("the asker hangs")???;
    taking.abort();
    let unsent = pacer.map_or(Ok(0), std::thread::JoinHandle::join);
    Ok((recorder, usage, unsent.map_err(|_| anyhow!("the pacing thread has failed"))?))
}

struct Asker {
    producer: Producer,
    topics: Topics,
    payload: String,
    recorder: Arc<Recorder>,
    pending: Arc<Pending>,
}

impl Asker {
    async fn open_loop(self, mut times: Receiver<Instant>) -> Result<()> {
        while let Some(intended) = times.recv().await {
            self.ask(intended)?;
        }
        Ok(())
    }

    async fn closed_loop(self, room: Arc<Semaphore>) -> Result<()> {
        while Instant::now() < self.recorder.window().end {
            room.acquire().await?.forget();
            self.ask(Instant::now())?;
        }
        Ok(())
    }

    fn ask(&self, intended: Instant) -> Result<()> {
        let id = Uuid::now_v7();
        let mut text = Uuid::encode_buffer();
        let text: &str = id.hyphenated().encode_lower(&mut text);
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(id, intended);
        self.recorder.sent(intended);
        let headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: "kafka_correlationId", value: Some(text) })
            .insert(Header { key: "kafka_replyTopic", value: Some(&self.topics.replies) });
        let record =
            BaseRecord::to(&self.topics.requests).key(text).payload(&self.payload).headers(headers);
        self.producer.send(record).map_err(|(error, _)| error.into())
    }
}

async fn take(
    consumer: StreamConsumer,
    recorder: Arc<Recorder>,
    pending: Arc<Pending>,
    room: Arc<Semaphore>,
) -> Result<()> {
    let mut replies = consumer.stream();
    while let Some(message) = replies.next().await {
        let message = message?;
        let headers = message.headers().context("a reply has headers")?;
        let id = headers.iter().find(|header| header.key == "kafka_correlationId");
        let id = Uuid::try_parse_ascii(id.and_then(|id| id.value).unwrap_or_default())?;
        let intended = pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some(intended) = intended {
            recorder.answered(intended, true);
            room.add_permits(1);
        }
    }
    Ok(())
}
