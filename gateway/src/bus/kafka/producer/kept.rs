//! A record that is kept back: its own copy of all that would have been written.

use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

use crate::bus::{OnDelivery, Outgoing};

/// A record that is kept back.
pub(super) struct Kept {
    pub(super) topic: String,
    pub(super) partition: Option<i32>,
    pub(super) key: Option<Box<[u8]>>,
    pub(super) value: Option<Box<[u8]>>,
    pub(super) headers: Vec<(String, Box<[u8]>)>,
    pub(super) on_delivery: OnDelivery,
}

impl Kept {
    pub(super) fn new(record: &Outgoing<'_>, on_delivery: OnDelivery) -> Self {
        let headers = record.headers.iter();
        Self {
            topic: record.topic.to_owned(),
            partition: record.partition,
            key: record.key.map(Into::into),
            value: record.value.map(Into::into),
            headers: headers.map(|(name, value)| ((*name).to_owned(), (*value).into())).collect(),
            on_delivery,
        }
    }

    /// A record that librdkafka gives back.
    pub(super) fn of_message(message: &BorrowedMessage<'_>, on_delivery: OnDelivery) -> Self {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        Self {
            topic: message.topic().to_owned(),
            partition: Some(message.partition()),
            key: message.key().map(Into::into),
            value: message.payload().map(Into::into),
            headers: headers
                .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().into()))
                .collect(),
            on_delivery,
        }
    }

    /// What it takes of the bytes that may be kept back.
    pub(super) fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len());
        self.topic.len() + headers.sum::<usize>() + self.content_bytes()
    }

    /// Key and value.
    pub(super) fn content_bytes(&self) -> usize {
        [&self.key, &self.value].into_iter().flatten().map(|part| part.len()).sum()
    }
}
