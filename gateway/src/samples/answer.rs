//! What a sample service answers: one record, or a part for each number.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use crate::{
    bus::{Outgoing, ProduceError, Producer},
    relay::dialects::CORRELATION_ID,
};

/// How long `count` waits where Kafka's client has no room.
const ROOM_INTERVAL: Duration = Duration::from_millis(10);

/// A request's answer, complete.
pub(super) struct Answer {
    pub(super) topic: String,
    pub(super) correlation: Bytes,
    pub(super) status: u16,
    pub(super) content_type: Option<Bytes>,
    pub(super) value: Bytes,
}

impl Answer {
    /// Sends the numbers below `count` as parts, and then the end, which has no value.
    pub(super) async fn stream(&self, producer: &dyn Producer, count: u64, pause: Duration) {
        for number in 0..=count {
            let is_end = number == count;
            let text = number.to_string();
            let mark = if is_end { "roundtrip-end" } else { "roundtrip-part" };
            let headers: [(&str, &[u8]); 3] = [
                (CORRELATION_ID, &self.correlation),
                (mark, text.as_bytes()),
                ("content-type", b"application/json"),
            ];
            let record = Outgoing {
                topic: &self.topic,
                partition: None,
                key: Some(&self.correlation),
                key_suffix_bytes: 0,
                value: (!is_end).then_some(text.as_bytes()),
                headers: &headers,
            };
            loop {
                let unsent = |error| tracing::warn!(%error, "sample part not sent");
                let on_delivery = Box::new(move |result: Result<_, _>| {
                    result.map_or_else(unsent, drop);
                });
                match producer.produce(&record, on_delivery) {
                    Err(ProduceError::QueueFull) => sleep(ROOM_INTERVAL).await,
                    Err(error) => return unsent(error),
                    Ok(()) => break,
                }
            }
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
    }

    pub(super) fn send(&self, producer: &dyn Producer) {
        let status = self.status.to_string();
        let mut headers: Vec<(&str, &[u8])> =
            vec![(CORRELATION_ID, &self.correlation), ("roundtrip-status", status.as_bytes())];
        if let Some(content_type) = &self.content_type {
            headers.push(("content-type", content_type));
        }
        let record = Outgoing {
            topic: &self.topic,
            partition: None,
            key: Some(&self.correlation),
            key_suffix_bytes: 0,
            value: Some(&self.value),
            headers: &headers,
        };
        let unsent = |error| tracing::warn!(%error, "sample reply not sent");
        let on_delivery = Box::new(move |result: Result<_, _>| {
            result.map_or_else(unsent, drop);
        });
        if let Err(error) = producer.produce(&record, on_delivery) {
            unsent(error);
        }
    }
}
