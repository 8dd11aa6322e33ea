//! Orders whose requests are answered by events: one service writes down that there is an order, and
//! another one, which knows nothing of requests, validates it after a while.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use serde_json::{Value, json};

use super::{VALIDATION_TIME, read_all};
use crate::{
    bus::{Consumer, Incoming, Outgoing, Producer},
    config::Config,
    tasks::Tasks,
};

/// What follows from a record's value: an event, after a while.
type Step = fn(&[u8]) -> Option<(Duration, Value)>;

/// The two services: what they are called, and what they do.
pub(super) const STEPS: [(&str, Step); 2] = [("orders", take), ("validator", validate)];

/// The topic of the events, where they answer the requests of `orders`.
pub(super) fn events(config: &Config) -> Option<&str> {
    let view = &config.services.get("orders")?.respond_on.as_ref()?.view;
    Some(&config.views.get(view)?.topic)
}

/// One of the two services.
pub(super) struct Orders {
    pub(super) step: Step,
    /// Where events are written.
    pub(super) events: String,
    pub(super) producer: Arc<dyn Producer>,
    /// Partitions, or none, have been assigned.
    pub(super) assigned: Arc<AtomicBool>,
    pub(super) tasks: Tasks,
}

impl Orders {
    pub(super) async fn run(self, consumer: Box<dyn Consumer>) {
        let handle = |record: &Incoming<'_>| {
            if let Some((after, event)) = (self.step)(record.value.unwrap_or_default()) {
                self.write(after, event);
            }
        };
        read_all(consumer, &self.assigned, &self.tasks, handle).await;
    }

    fn write(&self, after: Duration, event: Value) {
        let (producer, topic) = (Arc::clone(&self.producer), self.events.clone());
        self.tasks.short_lived(async move {
            tokio::time::sleep(after).await;
            let key = key_of(&event);
            let value = event.to_string();
            let record = Outgoing {
                topic: &topic,
                partition: None,
                key: Some(key.as_bytes()),
                key_suffix_bytes: 0,
                value: Some(value.as_bytes()),
                headers: &[("content-type", b"application/json")],
            };
            let unsent = |error| tracing::warn!(%error, "sample event not sent");
            let on_delivery = Box::new(move |result: Result<_, _>| {
                result.map_or_else(unsent, drop);
            });
            if let Err(error) = producer.produce(&record, on_delivery) {
                unsent(error);
            }
        });
    }
}

/// The id as a record's key: a string without its quotes.
fn key_of(event: &Value) -> String {
    event["id"].as_str().map_or_else(|| event["id"].to_string(), ToOwned::to_owned)
}

/// Writes down that there is an order.
fn take(request: &[u8]) -> Option<(Duration, Value)> {
    let mut event: Value = serde_json::from_slice(request).ok()?;
    let id = event.get("id").filter(|id| id.is_string() || id.is_number())?.clone();
    let event = match event.get_mut("items").map(Value::take) {
        Some(items) => json!({ "id": id, "state": "NEW", "items": items }),
        None => json!({ "id": id, "state": "NEW" }),
    };
    Some((Duration::ZERO, event))
}

/// Validates an order that is new: it needs at least one of `items` where it names any.
fn validate(event: &[u8]) -> Option<(Duration, Value)> {
    let event: Value = serde_json::from_slice(event).ok()?;
    let id = event.get("id").filter(|_| event["state"] == "NEW")?;
    let state = if event.get("items") == Some(&json!([])) { "FAILED" } else { "VALIDATED" };
    Some((VALIDATION_TIME, json!({ "id": id, "state": state })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_new_and_then_validated() {
        let (_, new) = take(br#"{"id":7}"#).unwrap();
        assert_eq!((new["state"].as_str(), &*key_of(&new)), (Some("NEW"), "7"));
        let (after, validated) = validate(new.to_string().as_bytes()).unwrap();
        assert_eq!((after, validated["state"].as_str()), (VALIDATION_TIME, Some("VALIDATED")));
        assert!(validate(validated.to_string().as_bytes()).is_none());
        let (_, empty) = take(br#"{"id":"a","items":[]}"#).unwrap();
        assert_eq!(key_of(&empty), "a");
        assert_eq!(validate(empty.to_string().as_bytes()).unwrap().1["state"], "FAILED");
        for bad in ["", "{}", "[]", r#"{"id":null}"#] {
            assert!(take(bad.as_bytes()).is_none() && validate(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
