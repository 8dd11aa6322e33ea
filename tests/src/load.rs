//! Load: what is asked, how it is measured, and the yardsticks it is compared with.
//!
//! * [`plan`]: how much, how fast, for how long
//! * [`lab`]: the processes that are measured, started for the purpose
//! * [`sockets`], [`bare`]: the askers, over WebSockets or straight over Kafka
//! * [`idle`]: sockets that are merely held
//! * [`pace`]: requests at their intended times
//! * [`meter`]: processor time and memory, of them and of the rest of the machine
//! * [`report`]: what came of it

pub mod bare;
pub mod idle;
pub mod kafka;
pub mod lab;
pub mod meter;
pub mod pace;
pub mod plan;
pub mod report;
pub mod sockets;
