//! A backend that echoes, as cheaply as a service can: for measuring what stands before it.

use anyhow::{Context, Result, bail};
use bench::kafka::{Producer, clients};
use clap::Parser;
use futures_util::StreamExt;
use rdkafka::{
    Message,
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Header, Headers, OwnedHeaders},
    producer::BaseRecord,
};

#[derive(Debug, Parser)]
struct Options {
    /// Kafka's address.
    #[arg(long)]
    bootstrap: String,
    /// The service's request topic; all of its partitions are read, from their ends.
    #[arg(long)]
    topic: String,
    /// How a reply, keyed with its correlation id, finds its partition.
    #[arg(long, default_value = "murmur2_random")]
    partitioner: String,
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "says when it is ready")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let (consumer, producer) = clients(&options.bootstrap, &options.topic, &options.partitioner)?;
    println!("ready");
    let mut requests = consumer.stream();
    while let Some(request) = requests.next().await {
        match request {
            Ok(message) => answer(&producer, &message).await?,
            // Transient; librdkafka reconnects.
            Err(error) => tests::say(&error.to_string()),
        }
    }
    Ok(())
}

async fn answer(producer: &Producer, request: &BorrowedMessage<'_>) -> Result<()> {
    let headers = request.headers().context("a request has headers")?;
    let value = |name| headers.iter().find(|header| header.key == name).and_then(|h| h.value);
    let correlation = value("kafka_correlationId").context("no correlation id")?;
    let topic = std::str::from_utf8(value("kafka_replyTopic").context("no reply topic")?)?;
    let echoed = OwnedHeaders::new_with_capacity(1)
        .insert(Header { key: "kafka_correlationId", value: Some(correlation) });
    let mut record = BaseRecord::to(topic)
        .key(correlation)
        .payload(request.payload().unwrap_or_default())
        .headers(echoed);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                record = refused;
                producer.poll(std::time::Duration::ZERO);
                tokio::task::yield_now().await;
            }
            Err((error, _)) => bail!("reply not sent: {error}"),
        }
    }
}
