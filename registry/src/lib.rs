//! The shared table of a Roundtrip cluster: who holds which request, and which nodes are alive.
//!
//! Two adapters implement the traits of [`tables`]: [`RedisRegistry`] for a cluster and
//! [`MemoryRegistry`] for one process. Nothing in the table is the only copy of a recorded command:
//! losing all of it loses routes, which live nodes write again.
//!
//! Every entry expires by itself; nothing is ever swept by hand.

pub mod error;
pub mod ids;
pub mod tables;

pub use error::RegistryError;
pub use ids::{InvalidId, NodeId, NodeRef, RequestId, SessionId};
pub use tables::{Announcement, NodeEntry, NodeState, NodeTable, Registry, RequestTable, Route};
