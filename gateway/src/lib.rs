//! Roundtrip: a WebSocket push gateway cluster in front of Kafka.
//!
//! Clients submit requests over WebSockets or HTTP. The gateway writes each to its service's
//! request topic, and brings the answer from the reply topic to whoever waits for it, on any node.
//! The modules in reading order:
//!
//! * [`edge`]: the listeners. Bytes in, calls of the relay; answers in, bytes out.
//! * [`relay`]: everything in between. A request's life is [`relay::requests::submit`] →
//!   [`relay::requests::pending`] → [`relay::replies::dispatch`] → (for those that wait elsewhere)
//!   [`relay::replies::forwarding`] → [`relay::requests::completion`].
//! * [`bus`], [`peer`] and the `registry` crate: the traits below the relay, and their adapters.
//! * [`wire`], [`error`]: frames and codes.
//! * [`app`], [`dev`]: the only places that choose adapters and join all of it; [`cli`], [`config`],
//!   [`telemetry`], [`readiness`], [`tasks`] and [`descriptors`] around them.

pub mod app;
pub mod bus;
pub mod cli;
pub mod config;
pub mod deletable;
pub mod descriptors;
pub mod dev;
pub mod edge;
pub mod error;
pub mod peer;
pub mod readiness;
pub mod relay;
pub mod samples;
pub mod tasks;
pub mod telemetry;
pub mod wire;
