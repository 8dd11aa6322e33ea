//! Roundtrip: a WebSocket push gateway cluster in front of Kafka.

pub mod bus;
pub mod config;
