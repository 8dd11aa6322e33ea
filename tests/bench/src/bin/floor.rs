//! The floor: the least a WebSocket gateway before Kafka can do. It accepts, produces, consumes and
//! writes; it has no registry, no limits, no deadlines, no resume, and one node.
//!
//! The frames and records are the gateway's, so that both are measured by the same askers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use bench::kafka::{Producer, clients};
use clap::Parser;
use futures_util::{SinkExt, StreamExt};
use mimalloc::MiMalloc;
use rdkafka::{
    Message as _,
    consumer::StreamConsumer,
    message::{BorrowedMessage, Header, Headers, OwnedHeaders},
    producer::BaseRecord,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream, accept_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Responses that may wait for one socket.
const QUEUE_MAX: usize = 1024;

#[derive(Debug, Parser)]
struct Options {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    request_topic: String,
    #[arg(long)]
    reply_topic: String,
}

struct Floor {
    producer: Producer,
    request_topic: String,
    reply_topic: String,
    pending: Mutex<HashMap<Uuid, Waiter>>,
}

struct Waiter {
    responses: mpsc::Sender<String>,
    /// The client's id, as JSON text.
    id: Box<str>,
}

/// A request frame; the only service is the one behind the request topic.
#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "says where it listens")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let (consumer, producer) = clients(&options.bootstrap, &options.reply_topic, "murmur2_random")?;
    let floor = Arc::new(Floor {
        producer,
        request_topic: options.request_topic,
        reply_topic: options.reply_topic,
        pending: Mutex::default(),
    });
    let listener = TcpListener::bind(&options.listen).await?;
    println!("listening public={}", listener.local_addr()?);
    tokio::spawn(consume(Arc::clone(&floor), consumer));
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(Arc::clone(&floor), stream));
    }
}

async fn serve(floor: Arc<Floor>, stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(16 * 1024)
        .max_write_buffer_size(1 << 20);
    let mut socket = accept_async_with_config(stream, Some(config)).await?;
    let session = Uuid::now_v7();
    socket.send(Message::text(format!(r#"{{"type":"welcome","session":"{session}"}}"#))).await?;
    let (sender, mut responses) = mpsc::channel(QUEUE_MAX);
    let mut seq = 0_u64;
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => floor.produce(text.as_str(), &sender)?,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
                Some(Ok(_)) => {}
            },
            Some(response) = responses.recv() => {
                write(&mut socket, response, &mut responses, &mut seq).await?;
            }
        }
    }
}

/// Writes all responses that are there in one go.
async fn write(
    socket: &mut WebSocketStream<TcpStream>,
    first: String,
    responses: &mut mpsc::Receiver<String>,
    seq: &mut u64,
) -> Result<()> {
    let mut next = Some(first);
    while let Some(mut response) = next {
        *seq += 1;
        response.push_str(&seq.to_string());
        response.push('}');
        socket.feed(Message::text(response)).await?;
        next = responses.try_recv().ok();
    }
    Ok(socket.flush().await?)
}

impl Floor {
    fn produce(&self, frame: &str, responses: &mpsc::Sender<String>) -> Result<()> {
        let request: Request<'_> = serde_json::from_str(frame)?;
        let id = request.id.map_or("null", RawValue::get).into();
        let payload = request.payload.map_or("null", RawValue::get);
        let request_id = Uuid::now_v7();
        let mut text = Uuid::encode_buffer();
        let text: &str = request_id.hyphenated().encode_lower(&mut text);
        self.pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(request_id, Waiter { responses: responses.clone(), id });
        let headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: "kafka_correlationId", value: Some(text) })
            .insert(Header { key: "kafka_replyTopic", value: Some(&self.reply_topic) });
        let record =
            BaseRecord::to(&self.request_topic).key(text).payload(payload).headers(headers);
        self.producer.send(record).map_err(|(error, _)| error.into())
    }

    fn respond(&self, reply: &BorrowedMessage<'_>) -> Result<()> {
        let headers = reply.headers().context("a reply has headers")?;
        let id = headers.iter().find(|header| header.key == "kafka_correlationId");
        let request_id = Uuid::try_parse_ascii(id.and_then(|id| id.value).unwrap_or_default())?;
        let waiter =
            self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&request_id);
        let Some(Waiter { responses, id }) = waiter else { return Ok(()) };
        let payload = std::str::from_utf8(reply.payload().unwrap_or_default())?;
        // The socket's task adds the sequence number.
        let response = format!(
            r#"{{"type":"response","id":{id},"request_id":"{request_id}","status":200,"payload":{payload},"seq":"#
        );
        responses.try_send(response).context("a slow reader")
    }
}

async fn consume(floor: Arc<Floor>, consumer: StreamConsumer) {
    let mut replies = consumer.stream();
    while let Some(reply) = replies.next().await {
        let outcome = match reply {
            Ok(reply) => floor.respond(&reply),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = outcome {
            tests::say(&format!("reply not delivered: {error:#}"));
        }
    }
}
