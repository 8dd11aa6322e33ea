//! The tables as small traits, with what each call promises. One conformance suite checks every
//! adapter against this text.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    error::RegistryError,
    ids::{NodeRef, RequestId, SessionId},
};

/// Where the answer to a request has to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The run of the node that holds the waiting socket or HTTP call.
    pub node: NodeRef,
    /// The session that asked; none for an HTTP call.
    pub session: Option<SessionId>,
    /// The client's own id of the request, as the JSON text it is echoed in; none for HTTP.
    pub client_id: Option<Box<str>>,
    /// When the request ends by itself, in milliseconds since the Unix epoch.
    pub deadline_ms: u64,
}

/// What a node says of its availability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Takes connections and requests.
    Ready,
    /// Started, but not yet fit to take requests.
    Starting,
    /// Finishing what it holds; takes nothing new.
    Draining,
}

/// A node as its peers see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Which run of which node.
    pub node: NodeRef,
    /// Base URL of its internal listener, such as `http://10.0.0.5:9080`.
    pub url: String,
    /// Its availability.
    pub state: NodeState,
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

/// RequestId → [`Route`].
#[async_trait]
pub trait RequestTable: Send + Sync + Debug + 'static {
    /// Writes all routes, each for `route.deadline_ms - now + grace` (at least one second). An
    /// entry that exists is replaced. In the order given; one round trip whatever their number.
    ///
    /// # Errors
    /// Any; each route may or may not have been written. Cancel safe in the same sense.
    async fn put_routes(&self, routes: &[(RequestId, Arc<Route>)]) -> Result<(), RegistryError>;

    /// The routes of these requests, in the same order, with `None` where there is none (any
    /// more, or yet). One round trip whatever their number. An entry that cannot be read counts as
    /// none.
    ///
    /// # Errors
    /// Any; then nothing is known. Cancel safe.
    async fn find_routes(
        &self,
        requests: &[RequestId],
    ) -> Result<Vec<Option<Route>>, RegistryError>;

    /// Forgets these requests; one that is not there is no error. One round trip.
    ///
    /// # Errors
    /// Any; what was not removed expires by itself.
    async fn remove_routes(&self, requests: &[RequestId]) -> Result<(), RegistryError>;
}

/// Which nodes are alive.
#[async_trait]
pub trait NodeTable: Send + Sync + Debug + 'static {
    /// Writes or refreshes a node's entry, for `ttl` from now, atomically against another run of
    /// the same node: of two runs the one with the larger incarnation stays.
    ///
    /// # Errors
    /// Any; the entry may or may not have been written. Repeating the call is harmless.
    async fn announce(
        &self,
        entry: &NodeEntry,
        ttl: Duration,
    ) -> Result<Announcement, RegistryError>;

    /// All nodes whose entry has not expired, ordered by their ids.
    ///
    /// # Errors
    /// Any; then nothing is known. Cancel safe.
    async fn nodes(&self) -> Result<Vec<NodeEntry>, RegistryError>;

    /// Removes this run's entry; that of a later run stays.
    ///
    /// # Errors
    /// Any; an entry that stayed expires by itself.
    async fn leave(&self, node: &NodeRef) -> Result<(), RegistryError>;
}

/// The whole shared table.
pub trait Registry: RequestTable + NodeTable {}

impl<T: RequestTable + NodeTable> Registry for T {}
