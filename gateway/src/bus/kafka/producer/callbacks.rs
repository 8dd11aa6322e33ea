//! The callbacks in which librdkafka reports on records and on the cluster, and what its codes
//! mean. They run on the polling thread of their client.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Message},
    producer::ProducerContext,
};

use super::{kept::Kept, lanes::SharedLane, partitioning::Partitioning, parts::Parts};
use crate::bus::{OnDelivery, Position, ProduceError, RecordSize, kafka::log::ClientLog};

/// What a librdkafka code means to the caller, for a record of this size. Where librdkafka has not
/// refused it by itself, it was in the queue, so that a broker may have seen it.
pub(super) fn produce_error(code: RDKafkaErrorCode, size: RecordSize) -> ProduceError {
    let taken = size.bytes_max.is_none();
    match code {
        RDKafkaErrorCode::QueueFull => ProduceError::QueueFull,
        code if is_too_large(code) => ProduceError::TooLarge(size),
        RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::UnknownPartition
        | RDKafkaErrorCode::InvalidTopic => ProduceError::UnknownTopic,
        // The broker refused it before it looked at the log.
        RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::ClusterAuthorizationFailed
        | RDKafkaErrorCode::PolicyViolation
        | RDKafkaErrorCode::InvalidRecord
        | RDKafkaErrorCode::InvalidMessage
        | RDKafkaErrorCode::InvalidTimestamp
        | RDKafkaErrorCode::UnsupportedVersion
        | RDKafkaErrorCode::PurgeQueue => ProduceError::Refused(code.to_string()),
        // librdkafka tries again until the message times out, and does not say whether a try that
        // was not answered has reached the log. So a time-out stays open even if no broker was
        // there to take the record; so does every code that is not known to be a refusal.
        _ if taken => ProduceError::Unconfirmed(code.to_string()),
        _ => ProduceError::Refused(code.to_string()),
    }
}

/// Whether a record, or the batch that it is in, is too large.
fn is_too_large(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{InvalidMessageSize, MessageBatchTooLarge, MessageSizeTooLarge};
    matches!(code, MessageSizeTooLarge | InvalidMessageSize | MessageBatchTooLarge)
}

/// Travels with a record, and comes back with librdkafka's report on it.
pub(super) struct Ticket {
    pub(super) place: SharedLane,
    pub(super) on_delivery: OnDelivery,
    /// It shares its batch with no other record.
    pub(super) is_alone: bool,
}

pub(super) fn ticket(opaque: Mutex<Ticket>) -> Ticket {
    opaque.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a callback. A panic would end the thread, and with it every later callback.
pub(super) fn tell(on_delivery: OnDelivery, outcome: Result<Position, ProduceError>) {
    if catch_unwind(AssertUnwindSafe(|| on_delivery.done(outcome))).is_err() {
        tracing::error!("a delivery callback panicked");
    }
}

/// The callbacks of a client; they run on its polling thread.
pub(super) struct Context {
    pub(super) parts: Parts,
    pub(super) log: ClientLog,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let KafkaError::Global(code) = error {
            self.parts.health.failed(code);
        }
        self.log.error(&error, reason);
    }
}

impl ProducerContext<Partitioning> for Context {
    /// librdkafka carries one pointer, which its threads may share; an [`OnDelivery`] is wider, and
    /// may not be shared.
    type DeliveryOpaque = Box<Mutex<Ticket>>;

    fn get_custom_partitioner(&self) -> Option<&Partitioning> {
        Some(&self.parts.partitioning)
    }

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: Self::DeliveryOpaque) {
        let Parts { health, outstanding, lanes, .. } = &self.parts;
        let Ticket { place, on_delivery, is_alone } = ticket(*opaque);
        if let Err((KafkaError::MessageProduction(code), message)) = result
            && is_too_large(*code)
            && !is_alone
        {
            // Its batch was, and perhaps not the record.
            let kept = Kept::of_message(message, on_delivery);
            lanes.again(&place, message.partition(), kept);
            return lanes.finish(&place);
        }
        let outcome = match result {
            Ok(message) => {
                health.delivered();
                if lanes.is_news(&place, message.partition()) {
                    health.ask();
                }
                Ok(Position { partition: message.partition(), offset: message.offset() })
            }
            Err((KafkaError::MessageProduction(code), message)) => {
                health.failed(*code);
                let parts = [message.key(), message.payload()];
                let bytes = parts.into_iter().flatten().map(<[u8]>::len).sum();
                Err(produce_error(*code, RecordSize { bytes, bytes_max: None }))
            }
            Err((other, _)) => Err(ProduceError::Unconfirmed(other.to_string())),
        };
        lanes.finish(&place);
        tell(on_delivery, outcome);
        outstanding.remove();
    }
}
