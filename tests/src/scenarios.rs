//! Scenarios: real processes, real Kafka, real Redis, real clients. Each file opens with its
//! situation, the action, and what must hold.
