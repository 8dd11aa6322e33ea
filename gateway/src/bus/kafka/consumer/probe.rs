//! A look at one offset of a partition, by a client of its own: what would a reader meet there?
//!
//! Each look has its own client, so that what one has fetched, or complained about, is never taken
//! for another's.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext, Offset, TopicPartitionList,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, KafkaResult},
};
use tokio::time::Instant;

use super::limits::LOOK;
use crate::{
    bus::{UnreadableReason, kafka::unreadable},
    tasks::locked,
};

/// The time between two polls for a result.
const POLL: Duration = Duration::from_millis(50);

/// The properties that such a client must have.
pub(super) const FIXED: &[(&str, &str)] = &[
    ("auto.offset.reset", "error"),
    ("enable.auto.commit", "false"),
    ("enable.partition.eof", "true"),
    ("fetch.wait.max.ms", "10"),
    ("statistics.interval.ms", "0"),
];

/// What is at the offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// A record, there or after it, or the end of what may be read.
    Readable,
    /// A batch that cannot be read.
    Unreadable {
        reason: UnreadableReason,
        /// Where it begins, if that is said.
        offset: Option<i64>,
        /// In librdkafka's words.
        cause: String,
    },
    /// Nothing came in time.
    Nothing,
}

/// A client that asks for partitions' ends. The reader's own may lose its connection with every answer
/// that is too large, and all that it asks for along.
///
/// # Errors
/// No client can be made.
pub(super) fn asking(config: &ClientConfig) -> KafkaResult<BaseConsumer<impl ConsumerContext>> {
    BaseConsumer::from_config_and_context(config, Ear { heard: Arc::default() })
}

/// Looks at a place. Blocks, for some seconds at most, and only for as long as it `goes_on`.
///
/// # Errors
/// No client can be made, or it refuses the place.
pub(super) fn look(
    config: &ClientConfig,
    topic: &str,
    partition: i32,
    offset: i64,
    goes_on: impl Fn() -> bool,
) -> KafkaResult<Sight> {
    let heard = Arc::new(Mutex::new(None));
    let ear = Ear { heard: Arc::clone(&heard) };
    let client = BaseConsumer::from_config_and_context(config, ear)?;
    let mut place = TopicPartitionList::with_capacity(1);
    place.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    client.assign(&place)?;
    let end = Instant::now() + LOOK;
    while Instant::now() < end && goes_on() {
        match client.poll(POLL) {
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return Ok(Sight::Readable),
            // The ear has heard of it already.
            Some(Err(_)) | None => {
                if let Some(sight) = locked(&heard).take() {
                    return Ok(sight);
                }
            }
        }
    }
    Ok(Sight::Nothing)
}

/// Receives the client's complaints about batches.
struct Ear {
    heard: Arc<Mutex<Option<Sight>>>,
}

impl ClientContext for Ear {
    /// Lost connections are logged by the clients that matter.
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, text: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        if let Some(reason) = unreadable::reason(code, text) {
            let (offset, cause) = (unreadable::offset(text), text.to_owned());
            *locked(&self.heard) = Some(Sight::Unreadable { reason, offset, cause });
        }
    }
}

impl ConsumerContext for Ear {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_ends_when_nobody_wants_it() {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1").set("group.id", "g");
        for (key, value) in FIXED {
            config.set(*key, *value);
        }
        let began = Instant::now();
        assert_eq!(look(&config, "t", 0, 0, || false).unwrap(), Sight::Nothing);
        assert!(began.elapsed() < LOOK, "it has waited for an answer");
    }
}
