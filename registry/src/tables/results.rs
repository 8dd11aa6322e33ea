//! The table of results: what comes of requests for which no caller waits.
//!
//! A result belongs to no session and no connection. A node notes that it is to come before the
//! request is produced; whoever reads the reply, on any node, stores it. So neither needs the other:
//! the node that took the request may be dead by then.
//!
//! Only the table's own clock says when the time of a request is over, and when its result has
//! expired.

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    ids::{NodeRef, RequestId},
    tables::Answers,
};

/// The shortest time for which a result is kept: a shorter one could not be told from none.
pub(crate) const KEEP_MIN: Duration = Duration::from_millis(1);
/// The longest time for which a result is kept, and the longest wait for one.
pub(crate) const KEEP_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A result that is to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// The request that it answers.
    pub request: RequestId,
    /// The run of the node that took the request.
    pub node: NodeRef,
    /// What is left of the request's time. At most seven days.
    pub left: Duration,
    /// How long the result is kept once it is there; for as long again the table says that it has
    /// expired. Within one millisecond and seven days.
    pub keep: Duration,
    /// What a node has to know of the request to store its reply, as the gateway writes it.
    pub detail: Bytes,
}

/// A result that has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The request that it answers.
    pub request: RequestId,
    /// The result itself, as the gateway writes it.
    pub result: Bytes,
    /// What was expected, where the caller knows: a table that has lost it takes it from here.
    pub expected: Option<Expectation>,
}

/// What the table did with a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is stored, for as long as was asked for.
    Done,
    /// There was one already, which stays: a second reply, or a repeated call.
    Before,
    /// Nobody expects it: nobody ever did, or its time is over, or the table has lost what it knew.
    Unexpected,
}

/// What the table knows of a request's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultEntry {
    /// The run of the node that took the request.
    pub node: NodeRef,
    /// What was noted of the request.
    pub detail: Bytes,
    /// How far it is.
    pub state: ResultState,
}

/// How far a result is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResultState {
    /// It has not come yet.
    Waiting {
        /// What is left of the request's time.
        left: Duration,
    },
    /// It has not come in time. If it comes while it would still be kept, it is stored.
    Overdue,
    /// It is there.
    Stored(Bytes),
    /// It was there and has expired, or it has not come for so long that it is not expected any
    /// more.
    Gone,
}

/// RequestId → its result.
#[async_trait]
pub trait ResultTable: Send + Sync + Debug + 'static {
    /// Notes that these results are to come. What was noted before of the same request is replaced,
    /// unless its result is there: then nothing changes. One round trip whatever their number.
    ///
    /// # Errors
    /// Any, for each; it may or may not have been noted, and noting it again is harmless. Cancel
    /// safe in the same sense.
    async fn expect_results(&self, expected: &[Expectation]) -> Answers<()>;

    /// Stores these results, the first of each request. One round trip whatever their number.
    ///
    /// # Errors
    /// Any, for each; it may or may not have been stored, and storing it again is harmless. Cancel
    /// safe in the same sense.
    async fn store_results(&self, results: &[Arrival]) -> Answers<Stored>;

    /// What is known of these requests' results, with `None` where there is nothing (any more, or
    /// yet). An entry that cannot be read counts as none, and is counted
    /// ([`NodeTable::unreadable`]). One round trip whatever their number.
    ///
    /// # Errors
    /// Any, for each request; then nothing is known of it. Cancel safe.
    ///
    /// [`NodeTable::unreadable`]: crate::NodeTable::unreadable
    async fn find_results(&self, requests: &[RequestId]) -> Answers<Option<ResultEntry>>;
}

impl Expectation {
    /// What is left of the request's time, within its limits.
    pub(crate) fn left(&self) -> Duration {
        self.left.min(KEEP_MAX)
    }

    /// How long the result is kept, within its limits.
    pub(crate) fn keep(&self) -> Duration {
        self.keep.clamp(KEEP_MIN, KEEP_MAX)
    }
}
