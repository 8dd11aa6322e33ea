//! What the frameworks of services put on the wire, and want to read there: Kafka record headers.
//!
//! The only place that spells them. Source of the foreign ones: Spring Kafka's `KafkaHeaders`, NestJS'
//! `KafkaHeaders`, Zilla's `:status`, Platformatic's `x-status-code`.

pub mod dead_letter;
pub mod reply;
pub mod request;

/// Carries the id of the request, in the request and in the reply.
pub const CORRELATION_ID: &str = "kafka_correlationId";
/// Tells a service to which topic to reply.
pub const REPLY_TOPIC: &str = "kafka_replyTopic";
/// Tells a service, in some dialects, to which partition to reply.
pub const REPLY_PARTITION: &str = "kafka_replyPartition";
