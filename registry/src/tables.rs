//! The tables as small traits, with what each call promises. One conformance suite checks every
//! adapter against this text.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    error::RegistryError,
    ids::{NodeRef, RequestId, SessionId},
    tables::{results::ResultTable, sessions::SessionTable, views::ViewTable},
    unreadable::Unreadable,
    versions::Versions,
};

pub mod results;
pub mod sessions;
pub mod views;

/// Where the answer to a request has to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The run of the node that holds the waiting socket or HTTP call.
    pub node: NodeRef,
    /// The session that asked; none for an HTTP call.
    pub session: Option<SessionId>,
    /// The client's own id of the request, as the JSON text it is echoed in; none for HTTP.
    pub client_id: Option<Box<str>>,
    /// When the request ends by itself, in milliseconds since the Unix epoch.
    pub deadline_ms: u64,
    /// Whether a reply that says nothing about it may be one of several: the service numbers none.
    pub may_be_part: bool,
}

impl Route {
    /// How long a route outlives its request's deadline: a reply that is being forwarded when the
    /// deadline passes still finds where it belongs.
    pub const GRACE: Duration = Duration::from_secs(10);
    /// The shortest life of a route, also of one whose deadline has long passed.
    pub const TTL_MIN: Duration = Duration::from_secs(1);
    /// The longest life of a route, whatever its deadline.
    pub const TTL_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

    /// How long the table keeps this route when it is written at `now_ms` (milliseconds since the
    /// Unix epoch): until the deadline and [`Route::GRACE`] have passed, within
    /// [`Route::TTL_MIN`] and [`Route::TTL_MAX`].
    ///
    /// The deadline and `now_ms` are of one clock, that of the node that writes: the difference
    /// does not depend on how well the cluster's clocks agree.
    pub fn ttl(&self, now_ms: u64) -> Duration {
        let end_ms = self.deadline_ms.saturating_add(millis(Self::GRACE));
        Duration::from_millis(end_ms.saturating_sub(now_ms)).clamp(Self::TTL_MIN, Self::TTL_MAX)
    }
}

/// The shortest life of a node's entry: a shorter one could not be told from none.
pub(crate) const NODE_TTL_MIN: Duration = Duration::from_millis(1);
/// The longest life of a node's entry.
pub(crate) const NODE_TTL_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A duration in whole milliseconds, at most `u64::MAX`.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What a node says of its availability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Takes connections and requests.
    Ready,
    /// Started, but not yet fit to take requests.
    Starting,
    /// Finishing what it holds; takes nothing new.
    Draining,
    /// Something that this version does not know: it lives, so what waits there is brought there,
    /// and what it holds is fetched from there; it is not to be chosen for anything new.
    Unknown,
}

/// A node as its peers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// Which run of which node.
    pub node: NodeRef,
    /// Base URL of its internal listener, such as `http://10.0.0.5:9080`.
    pub url: String,
    /// Its availability.
    pub state: NodeState,
    /// Which versions of what nodes say to each other it speaks.
    pub speaks: Versions,
}

/// The nodes that are alive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// Their entries.
    pub entries: Vec<NodeEntry>,
    /// Runs that are alive, and whose entries cannot be read: another version has written them, or
    /// somebody who should not.
    pub unread: Vec<NodeRef>,
}

/// What the node table said to a node that announced itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// The entry was there and has been refreshed.
    Refreshed,
    /// The table did not know this run of the node: its first announcement, or the table has been
    /// wiped, or the entry expired. The node must write again whatever it holds.
    Fresh,
    /// A later run of the same node is there: nothing was written. Two nodes share a name, or this
    /// one slept while it was replaced; it must stop.
    Superseded,
}

/// Names the runs of the servers that hold the table now. Only compared: another one means that
/// the table may have gone back to what it held some time ago, as it does when a server has started
/// again from a dump, or a replica that lagged behind has become the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generation(pub u64);

/// What became of each of the things that a call is about, in their order: one answer for each. Parts
/// of a table may be away while others are not, so one that failed says nothing of the others.
pub type Answers<T> = Vec<Result<T, RegistryError>>;

/// The answers to a call, if there is no error among them.
///
/// # Errors
/// The first that there is.
pub fn all<T>(answers: Answers<T>) -> Result<Vec<T>, RegistryError> {
    answers.into_iter().collect()
}

/// RequestId → [`Route`].
#[async_trait]
pub trait RequestTable: Send + Sync + Debug + 'static {
    /// Writes all routes, each for its [`Route::ttl`]. An entry that exists is replaced. In the
    /// order given, so of two routes of one request the later stays; one round trip whatever
    /// their number.
    ///
    /// # Errors
    /// Any, for each route; it may or may not have been written, and writing it again is harmless.
    /// Cancel safe in the same sense.
    async fn put_routes(&self, routes: &[(RequestId, Arc<Route>)]) -> Answers<()>;

    /// The routes of these requests, with `None` where there is none (any more, or yet). One round
    /// trip whatever their number. An entry that cannot be read counts as none, and is counted
    /// ([`NodeTable::unreadable`]).
    ///
    /// # Errors
    /// Any, for each request; then nothing is known of it. Cancel safe.
    async fn find_routes(&self, requests: &[RequestId]) -> Answers<Option<Route>>;

    /// Forgets these requests; one that is not there is no error. One round trip.
    ///
    /// # Errors
    /// Any, for each request; what was not removed expires by itself. Cancel safe in the same
    /// sense.
    async fn remove_routes(&self, requests: &[RequestId]) -> Answers<()>;
}

/// Which nodes are alive.
#[async_trait]
pub trait NodeTable: Send + Sync + Debug + 'static {
    /// Writes or refreshes a node's entry, for `ttl` from now (at least one millisecond, at most
    /// seven days), atomically against another run of the same node: of two runs the one with the
    /// larger incarnation stays, for as long as its entry has not expired.
    ///
    /// # Errors
    /// Any; the entry may or may not have been written. Repeating the call is harmless, and
    /// [`Announcement::Fresh`] is never lost by it: whatever was written by a call that failed or
    /// was dropped, the first call that succeeds after it says so.
    async fn announce(
        &self,
        entry: &NodeEntry,
        ttl: Duration,
    ) -> Result<Announcement, RegistryError>;

    /// All nodes whose entry has not expired, ordered by their ids. An entry that cannot be read is
    /// left out, and its run is among [`Nodes::unread`], where that can be read.
    ///
    /// # Errors
    /// Any; then nothing is known. Cancel safe.
    async fn nodes(&self) -> Result<Nodes, RegistryError>;

    /// What of the whole table could not be read so far, by anybody on this node.
    fn unreadable(&self) -> Unreadable {
        Unreadable::default()
    }

    /// What is the matter with a part of the table, while another one can be had.
    fn trouble(&self) -> Option<RegistryError> {
        None
    }

    /// The present generation of the whole table; none when the table cannot tell. It changes
    /// whenever the table may have lost writes that it had answered, and perhaps at other times. It
    /// does not change while a part of the table is away, for as long as nothing can have been read
    /// of that.
    ///
    /// # Errors
    /// Any; then nothing is known. Cancel safe.
    async fn generation(&self) -> Result<Option<Generation>, RegistryError>;

    /// Removes this run's entry, where there is one; that of another run stays.
    ///
    /// # Errors
    /// Any; an entry that stayed expires by itself. Cancel safe in the same sense.
    async fn leave(&self, node: &NodeRef) -> Result<(), RegistryError>;
}

/// The whole shared table.
pub trait Registry: RequestTable + NodeTable + SessionTable + ViewTable + ResultTable {}

impl<T: RequestTable + NodeTable + SessionTable + ViewTable + ResultTable> Registry for T {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    #[test]
    fn a_route_outlives_its_deadline_by_the_grace_and_within_limits() {
        let now_ms = 1_700_000_000_000;
        let ttl = |deadline_ms| {
            let node = NodeRef { id: NodeId::parse("gw-1").unwrap(), incarnation: 1 };
            let (session, client_id, may_be_part) = (None, None, false);
            Route { node, session, client_id, deadline_ms, may_be_part }.ttl(now_ms)
        };
        assert_eq!(ttl(now_ms + 5_000), Duration::from_secs(15));
        assert_eq!(ttl(now_ms), Route::GRACE);
        assert_eq!(ttl(now_ms - 4_000), Duration::from_secs(6));
        assert_eq!(ttl(now_ms - 9_999), Route::TTL_MIN);
        assert_eq!(ttl(0), Route::TTL_MIN);
        assert_eq!(ttl(u64::MAX), Route::TTL_MAX);
    }
}
