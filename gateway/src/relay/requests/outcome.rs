//! How the end of a request is put into words: for the client, for the caller, and for the metrics.

use std::time::Duration;

use bytes::Bytes;
use registry::RequestId;
use tokio::time::Instant;

use super::{
    pending::{Early, Entry, Outcome, Timing},
    recording::Recording,
    stream::Role,
};
use crate::{
    bus::{Position, ProduceError},
    config::Dialect,
    error::{ErrorCode, Failure},
    relay::services::Service,
    wire::{ClientId, Frame, Item, Reply},
};

/// What a client is told when its request was not produced.
pub(super) fn refusal(error: &ProduceError, service: &Service) -> Failure {
    let code = match error {
        ProduceError::QueueFull => ErrorCode::Overloaded,
        ProduceError::TooLarge(_) => ErrorCode::TooLarge,
        ProduceError::UnknownTopic
        | ProduceError::Unreachable
        | ProduceError::Refused(_)
        | ProduceError::Unconfirmed(_) => ErrorCode::Unavailable,
    };
    let message = match error {
        ProduceError::UnknownTopic => {
            format!("kafka: topic {} does not exist: `roundtrip topics` creates it", service.topic)
        }
        error => format!("kafka: {error}"),
    };
    Failure::new(code, message).recorded(error.may_be_recorded())
}

/// What the caller gets once the deletion of a message is recorded.
pub(super) fn deleted(service: &Service, position: Position) -> Early {
    let Position { partition, offset } = position;
    let topic = &*service.topic;
    let body = serde_json::json!({ "topic": topic, "partition": partition, "offset": offset });
    let headers = vec![("content-type".into(), "application/json".into())];
    let reply =
        Reply { status: Some(202), headers, payload: body.to_string().into(), ..Reply::default() };
    Early { reply, forward: None, guard: None }
}

/// What went wrong, for metrics and for the client; `None` for a good reply.
pub fn failure_of(outcome: &Outcome) -> Option<Failure> {
    match outcome {
        Outcome::Reply(reply) if reply.is_error() => {
            let message = format!("the service answered with status {}", reply.status_or_ok());
            Some(Failure::new(ErrorCode::ServiceError, message).recorded(true))
        }
        Outcome::Reply(_) => None,
        Outcome::Failure(failure) => Some(failure.clone()),
    }
}

/// The last frame of a request of a session.
pub(super) fn last_frame(
    request: RequestId,
    id: ClientId,
    outcome: Outcome,
    failure: Option<Failure>,
) -> Frame {
    let (id_of_error, request_of_error) = (Some(id.clone()), Some(request));
    match (outcome, failure) {
        (Outcome::Reply(reply), None) => Frame::Response { id, request, reply },
        (Outcome::Reply(reply), Some(failure)) => {
            Frame::Error { id: id_of_error, request: request_of_error, failure, reply: Some(reply) }
        }
        (Outcome::Failure(failure), _) => {
            Frame::Error { id: id_of_error, request: request_of_error, failure, reply: None }
        }
    }
}

/// What a last frame says of its request; `None` if it is none.
pub fn outcome_of(frame: Frame) -> Option<Outcome> {
    match frame {
        Frame::Response { reply, .. } | Frame::Error { reply: Some(reply), .. } => {
            Some(Outcome::Reply(reply))
        }
        Frame::Error { failure, reply: None, .. } => Some(Outcome::Failure(failure)),
        _ => None,
    }
}

/// The frame for a reply that nobody on this node waits for.
pub(in crate::relay) fn reply_frame(request: RequestId, id: ClientId, reply: Reply) -> Frame {
    let outcome = Outcome::Reply(reply);
    let failure = failure_of(&outcome);
    last_frame(request, id, outcome, failure)
}

/// Counts a request that has ended; how long its stages took.
pub(super) fn measure(entry: &Entry, outcome: &Outcome, forward: Option<Duration>) -> Timing {
    let now = Instant::now();
    let metrics = &entry.service.metrics;
    metrics.in_flight.dec();
    metrics.total.observe((now - entry.started).as_secs_f64());
    let mut timing = Timing::default();
    let acknowledged = match entry.recording {
        Recording::Confirmed { at, .. } => {
            timing.produce = Some(at - entry.started);
            at
        }
        Recording::Waiting | Recording::Unconfirmed => entry.started,
    };
    if matches!(outcome, Outcome::Reply(_)) && entry.waiter.wants_reply() {
        let service = (now - acknowledged).saturating_sub(forward.unwrap_or_default());
        metrics.service.observe(service.as_secs_f64());
        timing.service = Some(service);
    }
    if let Some(forward) = forward {
        metrics.forward.observe(forward.as_secs_f64());
        timing.forward = Some(forward);
    }
    timing
}

/// What is kept of a reply for a caller who fetches it; `service` is none where this node has none of
/// that name, as with another version's configuration.
pub(in crate::relay) fn kept_reply(reply: &Reply, service: Option<&Service>) -> Reply {
    let dialect = service.map_or(Dialect::Plain, |service| service.dialect);
    if Role::of(reply, dialect, None) != Role::Whole {
        return not_kept(reply.item);
    }
    reply.passing(|name| match service {
        Some(service) => service.passes_to_client(name),
        None => name == "content-type",
    })
}

/// What the caller of a request gets who comes for its reply, if that is a stream.
pub(super) fn not_kept(item: Item) -> Reply {
    let text = "the service streams its reply, which is not kept: call without respond-async\n";
    let headers = vec![("content-type".into(), Bytes::from_static(b"text/plain"))];
    let item = Item { source: item.source, ..Item::default() };
    Reply { status: Some(502), headers, payload: Bytes::from_static(text.as_bytes()), item }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::requests::pending::tests::service;

    #[test]
    fn a_part_is_kept_for_no_whole() {
        let reply = |item: Item| Reply { item, payload: "1".into(), ..Reply::default() };
        let part = Item { part: Some(0), ..Item::default() };
        let disposed = Item { is_disposed: true, ..Item::default() };
        let status = |item, dialect| kept_reply(&reply(item), Some(&service(dialect))).status;
        assert_eq!(status(Item::default(), Dialect::Plain), None);
        assert_eq!(status(part, Dialect::Plain), Some(502));
        // NestJS numbers no parts: only the mark of the end says that there is one alone.
        assert_eq!(status(Item::default(), Dialect::Nest), Some(502));
        assert_eq!(status(disposed, Dialect::Nest), None);
        assert_eq!(kept_reply(&reply(part), None).status, Some(502));
        assert_eq!(kept_reply(&reply(Item::default()), None).status, None);
    }
}
