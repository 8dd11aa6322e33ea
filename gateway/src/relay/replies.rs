//! The replies that this node has read, and where they go.
//!
//! Owns what is done with a record of the reply topic ([`dispatch`]) or of a dead-letter topic
//! ([`dead_letters`]), and the forwarding of replies for which nobody on this node waits
//! ([`forwarding`]). An offset is committed only after it is known what became
//! of its record. Never ends a request itself: `requests` does.

pub mod dead_letters;
pub mod dispatch;
pub mod events;
pub mod forwarding;

pub use dead_letters::DeadLetters;
pub use dispatch::Dispatch;
pub use events::{EventWriter, Events};
pub use forwarding::Forwarding;
