//! The records that a service reads and writes.

use std::{collections::BTreeMap, fmt, pin::Pin, time::Duration};

use rdkafka::{
    Message,
    message::{BorrowedMessage, Header, Headers},
};
use tokio::time::sleep;

/// A request record as the service saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: BTreeMap<String, Vec<u8>>,
}

/// A record to answer with.
#[derive(Debug, Default)]
pub struct Reply {
    /// What to wait for first; other requests are not held up.
    pub first: First,
    /// The key; by default the correlation id.
    pub key: ReplyKey,
    pub value: Option<Vec<u8>>,
    /// Beside the correlation id.
    pub headers: Vec<(String, Vec<u8>)>,
    pub partition: ReplyPartition,
    /// Where it goes; where the request says, unless it is another topic.
    pub topic: Option<String>,
}

/// What a service does before it replies.
#[derive(Default)]
pub struct First(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl First {
    pub(super) fn take(&mut self) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        self.0.take()
    }
}

impl fmt::Debug for First {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("First").field(&self.0.is_some()).finish()
    }
}

/// What a reply record is keyed with.
#[derive(Clone, Debug, Default)]
pub enum ReplyKey {
    #[default]
    Correlation,
    None,
    Bytes(Vec<u8>),
}

/// Where a reply record goes.
#[derive(Clone, Copy, Debug, Default)]
pub enum ReplyPartition {
    /// Where the producer's partitioner puts its key.
    #[default]
    ByKey,
    /// Anywhere: a service that knows nothing of affinity.
    Random,
    /// Here.
    Fixed(i32),
}

impl Seen {
    /// A header's text, empty when there is none.
    pub fn header(&self, name: &str) -> String {
        let bytes = self.headers.get(name).map(Vec::as_slice).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// The value as text, empty when there is none.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.value.as_deref().unwrap_or_default()).into_owned()
    }

    pub(super) fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().map(|headers| {
            let one = |header: Header<'_, &[u8]>| {
                (header.key.to_owned(), header.value.unwrap_or_default().to_owned())
            };
            headers.iter().map(one).collect()
        });
        Self {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        }
    }
}

impl Reply {
    /// A reply with these bytes.
    pub fn of(value: impl Into<Vec<u8>>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// The request's own bytes.
    pub fn echo(seen: &Seen) -> Self {
        Self { value: seen.value.clone(), ..Self::default() }
    }

    /// The same, later.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        self.when(sleep(delay))
    }

    /// The same, when something else has happened.
    #[must_use]
    pub fn when(mut self, first: impl Future<Output = ()> + Send + 'static) -> Self {
        self.first = First(Some(Box::pin(first)));
        self
    }

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The same with a status.
    #[must_use]
    pub fn status(self, status: u16) -> Self {
        self.header("roundtrip-status", status.to_string())
    }

    /// The same to another topic than the request says.
    #[must_use]
    pub fn to(mut self, topic: &str) -> Self {
        self.topic = Some(topic.to_owned());
        self
    }

    /// The same with a key.
    #[must_use]
    pub fn keyed(mut self, key: &str) -> Self {
        self.key = ReplyKey::Bytes(key.as_bytes().to_vec());
        self
    }

    /// The same without a key.
    #[must_use]
    pub fn unkeyed(mut self) -> Self {
        self.key = ReplyKey::None;
        self
    }

    /// The same into any partition.
    #[must_use]
    pub fn anywhere(mut self) -> Self {
        self.partition = ReplyPartition::Random;
        self
    }
}
