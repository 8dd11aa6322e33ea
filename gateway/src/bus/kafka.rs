//! The message bus on Apache Kafka, through librdkafka.
