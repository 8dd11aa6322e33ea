//! What was read from the log, and to whom it goes.
//!
//! Owns the reader of the reply topic ([`dispatch`]) and the way to whoever waits elsewhere
//! ([`forwarding`]); an offset is let go only when somebody has said what became of its record. Never
//! ends a request itself: `requests` does.

pub mod dispatch;
pub mod forwarding;
mod partition;

pub use dispatch::Dispatch;
pub use forwarding::Forwarding;
