//! Who is in the cluster, and whether the registry can be asked.
//!
//! Owns the node table as this node knows it, the tags by which request ids name their nodes, and
//! what is known of the registry's health. Knows nothing of sessions and requests: what follows from
//! a loss is told to whoever runs [`membership::Membership`].

pub mod greetings;
pub mod health;
mod known;
pub mod membership;
pub mod tag;

pub use greetings::Greetings;
pub use health::RegistryHealth;
pub use membership::Membership;
pub use tag::NodeTag;
