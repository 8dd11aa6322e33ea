//! The latest event of each key of a view, and the requests that wait for its state.
//!
//! Never knows what an event or a state says, nor which topic a view follows.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use super::Answers;
use crate::ids::RequestId;

/// The shortest life of anything here.
pub(crate) const VIEW_TTL_MIN: Duration = Duration::from_millis(1);
/// The longest.
pub(crate) const VIEW_TTL_MAX: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// A key of a view.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ViewKey {
    /// The view's name: without `:` and braces.
    pub view: Arc<str>,
    /// The key of its events, any bytes.
    pub key: Bytes,
}

/// Where in the log an event is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPlace {
    /// The id of its topic, which another topic of the same name does not have; empty where it is not
    /// known. Without spaces.
    pub topic: Box<str>,
    /// Partition number.
    pub partition: i32,
    /// Offset within the partition.
    pub offset: i64,
    /// The record's time, in milliseconds since the Unix epoch; 0 where it has none.
    pub at_ms: u64,
}

impl EventPlace {
    /// Whether an event here is newer than one there. Of one partition, the offsets tell. Keys have moved
    /// to another partition where a topic has more of them by now: then the times do. What another topic
    /// of the same name has had counts no more.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        if self.is_of_another_topic(other) {
            true
        } else if self.partition == other.partition {
            self.offset > other.offset
        } else {
            self.at_ms > other.at_ms
        }
    }

    /// Whether the two are known to be of different topics.
    pub fn is_of_another_topic(&self, other: &Self) -> bool {
        !self.topic.is_empty() && !other.topic.is_empty() && self.topic != other.topic
    }
}

/// An event that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whose it is.
    pub key: ViewKey,
    /// Where it is.
    pub place: EventPlace,
    /// The state into which it brings its key, if it says so.
    pub state: Option<Box<str>>,
    /// The event itself; none for one that removes its key.
    pub content: Option<Bytes>,
}

/// The latest event of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latest {
    /// Where it is.
    pub place: EventPlace,
    /// The state of its key.
    pub state: Option<Box<str>>,
    /// The event itself.
    pub content: Bytes,
}

/// Which events end a wait, by their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    /// The latest there is when the wait begins, and those that are newer.
    Nothing,
    /// Those that are newer than the latest there is when the wait begins.
    Present,
    /// Those that are newer than this one.
    Place(EventPlace),
}

/// A request that waits for a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateWait {
    /// Whose state.
    pub key: ViewKey,
    /// The request.
    pub request: RequestId,
    /// Any of these ends the wait.
    pub until: Vec<Box<str>>,
    /// Which events count.
    pub after: After,
    /// Events whose time is before this, in milliseconds since the Unix epoch, do not count. One without
    /// a time does.
    pub not_before_ms: u64,
    /// How long it may wait.
    pub ttl: Duration,
}

/// What became of a wait that was to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It has begun: [`ViewTable::write_events`] gives the request. Only events that are newer than this
    /// one count, if there is one.
    Begun(Option<EventPlace>),
    /// The latest event ends it at once: nothing was written.
    Over(Latest),
}

/// View, key → the latest event, and who waits for the next.
#[async_trait]
pub trait ViewTable: Send + Sync + Debug + 'static {
    /// Writes each event, for `ttl` from now (a millisecond to fourteen days), unless a newer one of its
    /// key is there, of the same topic; and gives, in the same step, the requests that wait for its state, if they count it
    /// as new enough. One that has been written over already is given all the same to whoever waits for it:
    /// so an event that is handled again finds those whom its first reader has not told. An event that
    /// is written again lives as long as it would if it came now. None is given to a wait that begins
    /// later with [`After::Present`].
    ///
    /// Waits stay until they are forgotten, or their time is over.
    ///
    /// # Errors
    /// Any, for each event; it may or may not have been written, and writing it again is harmless.
    async fn write_events(&self, events: &[Event], ttl: Duration) -> Answers<Vec<RequestId>>;

    /// Has requests wait for states, unless the latest event is one for which they wait. A wait of the
    /// same request for the same key is replaced.
    ///
    /// # Errors
    /// Any, for each; the wait may or may not have begun, and beginning it again is harmless.
    async fn begin_waits(&self, waits: &[StateWait]) -> Answers<Waiting>;

    /// Forgets waits; one that is not there is no error.
    ///
    /// # Errors
    /// Any, for each; what was not forgotten ends by itself.
    async fn forget_waits(&self, waits: &[(ViewKey, RequestId)]) -> Answers<()>;

    /// The latest event of each key; none where there is none, or it was removed.
    ///
    /// # Errors
    /// Any, for each key; then nothing is known of it.
    async fn find_latest(&self, keys: &[ViewKey]) -> Answers<Option<Latest>>;

    /// Notes something of a partition of a view, for `ttl` from now: another one replaces it.
    ///
    /// # Errors
    /// Any; it may or may not have been noted.
    async fn put_marks(&self, marks: &[(Arc<str>, i32, Box<str>)], ttl: Duration) -> Answers<()>;

    /// What has been noted of these partitions.
    ///
    /// # Errors
    /// Any, for each.
    async fn find_marks(&self, of: &[(Arc<str>, i32)]) -> Answers<Option<Box<str>>>;
}
