//! The shared table of a Roundtrip cluster: who holds which request, and which nodes are alive.
//!
//! Two adapters implement the traits of [`tables`]: [`RedisRegistry`] for a cluster and
//! [`MemoryRegistry`] for one process. Nothing in the table is the only copy of a recorded command:
//! losing all of it loses routes, which live nodes write again.
//!
//! Every entry expires by itself; nothing is ever swept by hand.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod error;
pub mod ids;
mod memory;
mod redis;
pub mod tables;

pub use self::redis::RedisRegistry;
pub use error::RegistryError;
pub use ids::{InvalidId, NodeId, NodeRef, RequestId, SessionId};
pub use memory::MemoryRegistry;
pub use tables::{Announcement, NodeEntry, NodeState, NodeTable, Registry, RequestTable, Route};
