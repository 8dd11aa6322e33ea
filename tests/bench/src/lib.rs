//! What measures a cluster: load, what it is compared with, and faults again and again. It stands on
//! the harness of the tests, and is a package of its own, so that the tests are built without it.
//!
//! * [`plan`]: how much, how fast, for how long
//! * [`lab`]: the processes that are measured, started for the purpose
//! * [`sockets`], [`bare`]: the askers, over WebSockets or straight over Kafka
//! * [`idle`]: sockets that are merely held
//! * [`pace`]: requests at their intended times
//! * [`report`]: what came of it

pub mod bare;
pub mod idle;
pub mod kafka;
pub mod lab;
pub mod pace;
pub mod plan;
pub mod report;
pub mod sockets;
