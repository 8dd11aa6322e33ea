//! The message bus as the relay sees it: a producer that never waits, and a consumer whose records
//! and rebalances come in one order.
//!
//! Knows nothing of requests, replies or headers' meaning.

use std::{
    fmt::{self, Debug},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod kafka;
pub mod memory;
pub mod partitioner;

mod outstanding;
mod trouble;

pub use trouble::{Trouble, Unreadable, UnreadableReason};

/// A record to be written. Borrowed: the adapter copies what it keeps.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// `None`: the Java default partitioner's choice, murmur2 of the key without its suffix.
    pub partition: Option<i32>,
    /// Record key.
    pub key: Option<&'a [u8]>,
    /// How many bytes at the end of the key do not count where the partition is chosen: those that
    /// tell apart records which belong together. The same for all records of a topic.
    pub key_suffix_bytes: usize,
    /// Record value; `None` is a Kafka null, a tombstone on compacted topics.
    pub value: Option<&'a [u8]>,
    /// Record headers, in order.
    pub headers: &'a [(&'a str, &'a [u8])],
}

impl Outgoing<'_> {
    /// The partition that it goes to in a topic of so many partitions; `None`: any.
    pub fn partition_among(&self, partitions: i32) -> Option<i32> {
        let by_key = |key| partitioner::partition_without(key, self.key_suffix_bytes, partitions);
        self.partition.or_else(|| self.key.map(by_key))
    }

    /// Bytes of key and value.
    pub fn content_bytes(&self) -> usize {
        [self.key, self.value].into_iter().flatten().map(<[u8]>::len).sum()
    }
}

/// Where the broker has recorded a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Partition number.
    pub partition: i32,
    /// Offset within the partition.
    pub offset: i64,
}

/// Why a record was not written, or is not known to have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// The producer's own queue is full; nothing was written.
    #[error(
        "the producer's queue is full (queue.buffering.max.messages, queue.buffering.max.kbytes)"
    )]
    QueueFull,
    /// A record of this size is refused; nothing was written.
    #[error("{0}")]
    TooLarge(RecordSize),
    /// There is no such topic (or partition); nothing was written.
    #[error("topic does not exist")]
    UnknownTopic,
    /// No broker has answered yet, and it is not waited for any longer; nothing was written.
    #[error("no broker has answered yet")]
    Unreachable,
    /// Refused for another reason; nothing was written.
    #[error("refused: {0}")]
    Refused(String),
    /// No acknowledgement in time: the record may have been written. So it is told even where no
    /// broker could be reached, because the client library does not tell these cases apart.
    #[error("not acknowledged: {0}")]
    Unconfirmed(String),
}

/// The size of a record that is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSize {
    /// Bytes of its key and its value.
    pub bytes: usize,
    /// What the client library accepts, if the library refused the record. A broker does not say
    /// what it accepts.
    pub bytes_max: Option<usize>,
}

impl fmt::Display for RecordSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes_max {
            Some(max) => write!(f, "message.max.bytes is {max}")?,
            None => f.write_str("the topic's max.message.bytes is lower")?,
        }
        write!(f, "; the record has {} bytes beside its headers", self.bytes)
    }
}

impl ProduceError {
    /// Whether the record is, or may be, in the log.
    pub const fn may_be_recorded(&self) -> bool {
        matches!(self, Self::Unconfirmed(_))
    }
}

/// Is told what becomes of a record that [`Producer::produce`] took.
///
/// Called by `produce` itself or from a thread or task of the adapter's, perhaps before `produce` has
/// returned: it must be short, must not block, and must not call the producer. A closure that takes
/// the outcome is one that never loses interest.
pub trait Callback: Send {
    /// The record is kept back for now, and has gone nowhere.
    fn kept_back(&mut self) {}

    /// Whether a record that is kept back should still be written. One that should not is dropped,
    /// and nothing is told of it.
    fn is_wanted(&self) -> bool {
        true
    }

    /// A record that was kept back is about to be written, unless the answer is `false`: it is then
    /// dropped, and nothing more is told.
    fn goes(&mut self) -> bool {
        self.is_wanted()
    }

    /// What became of the record. Called once, and last.
    fn done(self: Box<Self>, outcome: Result<Position, ProduceError>);
}

impl<F: FnOnce(Result<Position, ProduceError>) + Send> Callback for F {
    fn done(self: Box<Self>, outcome: Result<Position, ProduceError>) {
        self(outcome);
    }
}

/// The callback of one record.
pub type OnDelivery = Box<dyn Callback>;

/// Writes records, acknowledged by all in-sync replicas, each at most once.
#[async_trait]
pub trait Producer: Send + Sync + Debug + 'static {
    /// Queues a record and returns at once. If it fails, nothing was written, and `on_delivery` is
    /// not called.
    ///
    /// # Errors
    /// [`ProduceError::QueueFull`] is the back-pressure: refuse the request, do not wait.
    fn produce(&self, record: &Outgoing<'_>, on_delivery: OnDelivery) -> Result<(), ProduceError>;

    /// Whether a broker can be reached, as far as is known: `false` until one has answered. A
    /// broker that hangs is noticed within seconds if records are waiting, otherwise with the next
    /// record.
    fn is_available(&self) -> bool;

    /// Whether the producer has just been started and no broker has answered yet. Records should be
    /// queued all the same, because the first answer may come at any moment. Ends by itself.
    fn is_starting(&self) -> bool {
        false
    }

    /// How many partitions a topic has, as last heard; `None` until it is known. Being asked, it asks
    /// the cluster anew, for the next time.
    fn partition_count(&self, topic: &str) -> Option<i32> {
        let _ = topic;
        None
    }

    /// How many records were taken and are not acknowledged yet.
    fn outstanding(&self) -> usize;

    /// Waits until every queued record is acknowledged or has failed and has been told so, for
    /// `within` at most. Cancel safe. A producer that is dropped gives up what is still queued.
    async fn flush(&self, within: Duration);
}

/// A record that was read. Borrowed from the adapter: copy what outlives the call.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// Partition number.
    pub partition: i32,
    /// Offset within the partition; offsets rise, but not always by one.
    pub offset: i64,
    /// Record key.
    pub key: Option<&'a [u8]>,
    /// Record value; `None` is a Kafka null.
    pub value: Option<&'a [u8]>,
    /// Record headers in order; a header's value may be null. A header whose name is not UTF-8 is
    /// left out.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// When it was written, by the clock of its producer or its broker, in milliseconds since the Unix
    /// epoch; `None` where it does not say.
    pub at_ms: Option<u64>,
}

/// What the reader of one topic is told, in order.
#[derive(Clone, Copy, Debug)]
pub enum BusEvent<'a> {
    /// These partitions are read from now on, from their committed offsets (the beginning where
    /// there is none). Never empty, except for the first assignment.
    Assigned(&'a [i32]),
    /// These partitions are read by others from now on: no more records of them follow. What was
    /// stored for them is committed before another member gets them, and what is stored later is
    /// ignored, unless they were `lost` (another member may have had them for a while).
    Revoked {
        /// Which partitions.
        partitions: &'a [i32],
        /// Whether they had been given to others before this was noticed.
        lost: bool,
    },
    /// The topic was deleted and created again, or [`ConsumerControl::rewind`] was called. What follows of these partitions are the records of
    /// the new one, from its first on; what was handled of the former one counts no more, and what
    /// is stored from here on is an offset of the new one, though it may be lower.
    Rewound(&'a [i32]),
    /// Everything that was in this partition has been handed over. Said, to those who have asked to be
    /// told, each time when there is nothing more, and once where there was nothing.
    Ended(i32),
    /// A batch of records cannot be read. Said once, and again when something about it changes.
    Unreadable(&'a Unreadable),
    /// One record.
    Record(Incoming<'a>),
}

/// How far behind the end of a partition the consumer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Partition number.
    pub partition: i32,
    /// Records between the consumer's position and the end of the partition.
    pub records: i64,
}

/// Receives a consumer's events: called once for each, in order. It must not block.
pub type Sink<'a> = dyn for<'event> FnMut(BusEvent<'event>) + Send + 'a;

/// Reads one topic as a member of a group.
#[async_trait]
pub trait Consumer: Send + Debug + 'static {
    /// Waits for at least one event, then hands over what is at hand, up to `max` records. Broker
    /// failures are transient: they are logged and waited out, never returned. A member that is not
    /// read for five minutes loses its partitions, even if all of them are paused.
    ///
    /// Cancel safe: an event is either handed to `sink` or stays.
    async fn next(&mut self, max: usize, sink: &mut Sink<'_>);

    /// The handle for calls from elsewhere while the consumer is read.
    fn control(&self) -> Arc<dyn ConsumerControl>;

    /// Commits what is stored, leaves the group so that its partitions move at once, and closes;
    /// for `within` at most.
    async fn close(self: Box<Self>, within: Duration);
}

/// What may be done to a consumer while it is being read.
pub trait ConsumerControl: Send + Sync + Debug + 'static {
    /// Marks every record of the partition below `offset` as handled. Stored offsets are committed
    /// about once a second, at revocation and at close. A partition that is not assigned any more
    /// is ignored. Costs about a microsecond: once a batch is better than once a record.
    fn store(&self, partition: i32, offset: i64);

    /// Stops handing over records of a partition, from the next one on, even within a batch, until
    /// [`ConsumerControl::resume`]. A partition that was revoked is not paused when it comes back.
    fn pause(&self, partition: i32);

    /// Goes on with a paused partition.
    fn resume(&self, partition: i32);

    /// Has an assigned partition read again from its beginning: [`BusEvent::Rewound`] tells when that
    /// begins. `false`: not yet, since it is not known whether what was committed is of this topic.
    fn rewind(&self, partition: i32) -> bool;

    /// The id of the topic, which another one of the same name does not have; `None` until it is known,
    /// and where brokers give none.
    fn topic_id(&self) -> Option<String>;

    /// How many partitions the topic has, as last seen; `None` until it is known.
    fn partition_count(&self) -> Option<i32>;

    /// Lag of the assigned partitions, as last seen, some seconds ago at most.
    fn lag(&self) -> Vec<Lag>;

    /// What keeps the consumer from reading at present.
    fn troubles(&self) -> Vec<Trouble>;
}
