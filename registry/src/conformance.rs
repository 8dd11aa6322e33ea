//! The checks that every registry passes, each against a sentence of [`crate::tables`].
//!
//! Owns no registry and no server: it is given fresh ones. A check panics with what was expected.

use std::{
    fmt::Debug,
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    error::RegistryError,
    ids::{NodeId, NodeRef, RequestId},
    tables::{Answers, NodeEntry, NodeState, Registry, Route, all},
    versions::Versions,
};

mod nodes;
mod results;
mod routes;
mod sessions;
mod views;

/// How long a check waits for something that must come about by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs every check, each on a registry of its own.
///
/// `make` gives an empty registry: nothing that another call of it wrote may be seen in it.
///
/// # Panics
/// When the registry does not keep a promise.
pub async fn run_all<R: Registry>(make: impl AsyncFn() -> R) {
    routes::come_back_as_they_were_written(&make().await).await;
    routes::keep_every_client_id(&make().await).await;
    routes::are_found_in_the_order_asked(&make().await).await;
    routes::may_come_in_no_and_in_large_numbers(&make().await).await;
    routes::replace_those_of_the_same_request(&make().await).await;
    routes::are_removed_alone(&make().await).await;
    routes::expire_with_their_deadline(&make().await).await;
    nodes::are_fresh_then_refreshed(&make().await).await;
    nodes::are_listed_as_announced_and_in_order(&make().await).await;
    nodes::give_way_to_a_later_run(&make().await).await;
    nodes::compare_whole_incarnations(&make().await).await;
    nodes::leave_as_one_run(&make().await).await;
    nodes::expire_unless_refreshed(&make().await).await;
    nodes::are_not_held_off_by_an_expired_run(&make().await).await;
    nodes::of_two_runs_at_once_keep_the_later(&make().await).await;
    views::run_all(&make).await;
    results::run_all(&make).await;
    sessions::run_all(make).await;
}

/// An entry of a ready node, as tests announce it.
///
/// # Panics
/// When `id` is no node id.
pub fn node_entry(id: &str, incarnation: u64) -> NodeEntry {
    NodeEntry {
        node: node_ref(id, incarnation),
        url: format!("http://{id}.example:9080"),
        state: NodeState::Ready,
        speaks: Versions::FIRST,
    }
}

/// A route of a plain HTTP call whose deadline is a minute away, as tests write it.
///
/// # Panics
/// When `node` is no node id.
pub fn route(node: &str) -> Route {
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("the clock is after 1970");
    let now_ms = u64::try_from(now.as_millis()).expect("the clock is before the year 500,000,000");
    Route {
        node: node_ref(node, 1_700_000_000_000),
        session: None,
        client_id: None,
        deadline_ms: now_ms + 60_000,
        may_be_part: false,
    }
}

fn node_ref(id: &str, incarnation: u64) -> NodeRef {
    NodeRef { id: NodeId::parse(id).expect("a valid node id"), incarnation }
}

fn request() -> RequestId {
    RequestId::from_uuid(Uuid::now_v7())
}

/// The value of a call that has no reason to fail.
#[track_caller]
fn good<T>(outcome: impl Outcome<T>, call: &str) -> T {
    outcome.value().unwrap_or_else(|error| panic!("{call} failed: {error}"))
}

/// What came of a call about one thing, or about several.
trait Outcome<T> {
    fn value(self) -> Result<T, RegistryError>;
}

impl<T> Outcome<T> for Result<T, RegistryError> {
    fn value(self) -> Self {
        self
    }
}

impl<T> Outcome<Vec<T>> for Answers<T> {
    fn value(self) -> Result<Vec<T>, RegistryError> {
        all(self)
    }
}

#[track_caller]
fn same<T: PartialEq + Debug>(found: &T, expected: &T, promise: &str) {
    assert!(found == expected, "{promise}\n expected {expected:?}\n    found {found:?}");
}

/// Repeats `probe` until it answers yes.
async fn eventually(promise: &str, probe: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !probe().await {
        assert!(Instant::now() < deadline, "{promise}: not so after {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}
