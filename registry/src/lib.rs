//! The shared table of a Roundtrip cluster: who holds which request and session, and which nodes
//! are alive.
//!
//! Two adapters implement the traits of [`tables`]: [`RedisRegistry`] for a cluster and
//! [`MemoryRegistry`] for one process. The feature `conformance` has the checks that both pass.
//!
//! # What is in it
//!
//! | entry | key in Redis | lives | kept alive by |
//! |---|---|---|---|
//! | [`Route`]: request → node, session, client's id, deadline | `<prefix>r:<request id>` | until the deadline and [`Route::GRACE`] | nothing: it is removed with the last frame |
//! | [`NodeEntry`]: node → run, URL, state, versions | a field of `<prefix>{nodes}` | as long as the node says | the node's announcements |
//! | [`SessionRecord`]: session → epoch, owner, user, tokens | `<prefix>s:{<session id>}` | as long as its owner says | its owner's records, and claims |
//! | its requests in flight: request → [`Progress`] and detail | `<prefix>s:{<session id>}:q` | as the record | as the record |
//! | its mailbox: [`ParkedFrame`]s | `<prefix>s:{<session id>}:m` | as the record | as the record |
//! | [`Latest`]: key of a view → its latest event | `<prefix>v:{<view>:<key>}` | as its reader says | its reader, which reads the view's topic again in time |
//! | who waits for its states: [`StateWait`]s | `<prefix>v:{<view>:<key>}:w` | the longest of the waits | nothing: they are forgotten when they are told |
//! | what is noted of a view's partition | `<prefix>b:{<view>}:<partition>` | as its reader says | its reader |
//! | [`ResultEntry`]: request → node, detail, deadline, when its result came | `<prefix>a:{<request id>}` | until its result has expired, and as long again | nothing |
//! | that result | `<prefix>a:{<request id>}:r` | as was asked for | nothing |
//!
//! Every entry ends by itself; nothing is ever swept by hand. A route's life is the difference of
//! two times of the node that writes it, a node's, a session's and a result's are told by the Redis
//! server's clock: clocks that disagree between nodes change none of them.
//!
//! # What a lost entry means
//!
//! Nothing in the table is the only copy of a recorded command. A reply whose route is lost cannot
//! be handed to another node until the node that waits for it has written the route again. A node
//! learns that it has to do so when its announcement is answered with [`Announcement::Fresh`],
//! which says that the table has been wiped, or that it had lost sight of this node.
//!
//! A session's owner learns that the table has lost it when its record is answered with
//! [`Recorded::Created`] instead of [`Recorded::Refreshed`]: it writes the checkpoint again. Until
//! then no other node can take that session over.
//!
//! What a replica had not copied when it became the master, or a dump did not have yet, is lost
//! without that sign. The table's [`Generation`] tells: it is another one for every server that has
//! started or taken another's place, and what live nodes hold is written again then. The epochs of
//! sessions tell too, one by one: a lower one than its owner's gives way.
//!
//! A result that has come is nowhere else. One that is lost with the table is not found any more; what
//! is still to come is noted again by the node that took the request, if that lives, or once its
//! reply is there.
//!
//! # What another version wrote
//!
//! Two successive versions of the gateway use one table. What one of them writes the other reads:
//! each entry says by name, or by the number of a field, what its parts are; parts that are not
//! known are passed over, and parts that are not there mean what was so before they were invented.
//! An entry that cannot be read all the same is skipped, and counted ([`Unreadable`]). The files
//! under `tests/formats` are entries of each version.
//!
//! # What is not in it yet
//!
//! Channels come with the part of the gateway that uses them, as a trait of its own beside
//! [`RequestTable`], [`NodeTable`], [`SessionTable`], [`ViewTable`] and [`ResultTable`].

mod clock;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod error;
#[cfg(any(test, feature = "conformance"))]
pub mod faulty;
pub mod ids;
#[cfg(feature = "later")]
pub mod later;
mod memory;
mod redis;
pub mod tables;
mod unreadable;
mod versions;

pub use self::redis::{RedisRegistry, check_url};
pub use clock::Clock;
pub use error::{Cause, RegistryError, Trouble};
pub use ids::{InvalidId, NodeId, NodeRef, RequestId, SessionId};
pub use memory::{MemoryRegistry, Snapshot};
pub use tables::{
    Announcement, Answers, Generation, NodeEntry, NodeState, NodeTable, Nodes, Registry,
    RequestTable, Route, all,
    results::{Arrival, Expectation, ResultEntry, ResultState, ResultTable, Stored},
    sessions::{
        CheckpointStep, CheckpointUpdate, Checkpointed, Claim, Claimed, HeldRequest, Holding,
        MailboxLimits, ParkedFrame, Progress, Recorded, SessionEntry, SessionRecord, SessionTable,
        TokenHash, Written,
    },
    views::{After, Event, EventPlace, Latest, StateWait, ViewKey, ViewTable, Waiting},
};
pub use unreadable::{EntryKind, Unreadable};
pub use versions::Versions;
