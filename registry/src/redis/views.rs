//! Views in Redis: each call is one script, or one plain command, per key.
//!
//! Owns what the scripts are given and what their answers mean. What is compared and changed
//! together is in the scripts.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::{Cmd, Pipeline, Value};

use super::{RedisRegistry, keys::ViewKeys, link::Answer, malformed, scripts};
use crate::{
    error::RegistryError,
    ids::RequestId,
    tables::{
        Answers, millis,
        views::{
            After, Event, EventPlace, Latest, StateWait, VIEW_TTL_MAX, VIEW_TTL_MIN, ViewKey,
            ViewTable, Waiting,
        },
    },
    unreadable::EntryKind,
};

/// What a topic is called whose id is not known.
const NO_TOPIC: &str = "-";

#[async_trait]
impl ViewTable for RedisRegistry {
    async fn write_events(&self, events: &[Event], ttl: Duration) -> Answers<Vec<RequestId>> {
        let mut room = ViewKeys::default();
        let mut batch = Pipeline::with_capacity(events.len());
        for Event { key, place, state, content } in events {
            let keys = self.shared.keys.view(key, &mut room);
            let bytes = content.as_ref().map_or(0, bytes::Bytes::len);
            let mut cmd = scripts::WRITE_EVENT.call_bytes(&keys, 9, 128 + bytes);
            for word in words(place) {
                cmd.arg(word);
            }
            cmd.arg(life(ttl));
            cmd.arg(flag(state.is_some())).arg(state.as_deref().unwrap_or_default());
            cmd.arg(flag(content.is_some())).arg(content.as_deref().unwrap_or_default());
            batch.add_command(cmd);
        }
        let answers = self.shared.servers.scripts(&scripts::WRITE_EVENT, &batch).await;
        answers.into_iter().map(|answer| read_requests(&answer?)).collect()
    }

    async fn begin_waits(&self, waits: &[StateWait]) -> Answers<Waiting> {
        let mut room = ViewKeys::default();
        let mut batch = Pipeline::with_capacity(waits.len());
        for StateWait { key, request, until, after, not_before_ms, ttl } in waits {
            let keys = self.shared.keys.view(key, &mut room);
            let bytes = until.iter().map(|state| state.len()).sum::<usize>();
            let mut cmd = scripts::BEGIN_WAIT.call_bytes(&keys, 4 + until.len(), 128 + bytes);
            cmd.arg(request.encode(&mut [0; 36])).arg(life(*ttl));
            match after {
                After::Nothing => cmd.arg("*"),
                After::Present => cmd.arg("="),
                After::Place(place) => cmd.arg(words(place).join(" ")),
            };
            cmd.arg(not_before_ms);
            until.iter().for_each(|state| {
                cmd.arg(&**state);
            });
            batch.add_command(cmd);
        }
        let answers = self.shared.servers.scripts(&scripts::BEGIN_WAIT, &batch).await;
        answers.into_iter().map(|answer| read_waiting(answer?)).collect()
    }

    async fn forget_waits(&self, waits: &[(ViewKey, RequestId)]) -> Answers<()> {
        let mut room = ViewKeys::default();
        let mut batch = Pipeline::with_capacity(waits.len());
        for (key, request) in waits {
            let [_, waiting] = self.shared.keys.view(key, &mut room);
            let mut cmd = Cmd::with_capacity(3, waiting.len() + 40);
            cmd.arg("HDEL").arg(waiting).arg(request.encode(&mut [0; 36]));
            batch.add_command(cmd);
        }
        let answers = self.shared.servers.batch(&batch).await;
        answers.into_iter().map(|answer| answer.map(drop)).collect()
    }

    async fn find_latest(&self, keys: &[ViewKey]) -> Answers<Option<Latest>> {
        let mut room = ViewKeys::default();
        let mut batch = Pipeline::with_capacity(keys.len());
        for key in keys {
            let [event, _] = self.shared.keys.view(key, &mut room);
            let mut cmd = Cmd::with_capacity(8, event.len() + 12);
            cmd.arg("HMGET").arg(event).arg(&["t", "p", "o", "a", "s", "c"]);
            batch.add_command(cmd);
        }
        let answers = self.shared.servers.batch(&batch).await;
        let read = |(answer, key): (Answer, &ViewKey)| {
            let parts = match answer? {
                Value::Array(parts) => parts,
                // A key of another type.
                _ => Vec::new(),
            };
            if parts.iter().all(|part| *part == Value::Nil) && !parts.is_empty() {
                return Ok(None);
            }
            let is_removed = matches!(parts.last(), Some(Value::Nil));
            let latest = read_latest(parts);
            if latest.is_none() && !is_removed {
                // Keys are clients' own.
                self.shared.unreadable.add(EntryKind::Event, || key.view.to_string());
            }
            Ok(latest)
        };
        answers.into_iter().zip(keys).map(read).collect()
    }

    async fn put_marks(&self, marks: &[(Arc<str>, i32, Box<str>)], ttl: Duration) -> Answers<()> {
        let mut batch = Pipeline::with_capacity(marks.len());
        for (view, partition, mark) in marks {
            let mut cmd = Cmd::new();
            cmd.arg("SET").arg(self.shared.keys.mark(view, *partition)).arg(&**mark);
            cmd.arg("PX").arg(life(ttl));
            batch.add_command(cmd);
        }
        let answers = self.shared.servers.batch(&batch).await;
        answers.into_iter().map(|answer| answer.map(drop)).collect()
    }

    async fn find_marks(&self, of: &[(Arc<str>, i32)]) -> Answers<Option<Box<str>>> {
        let mut batch = Pipeline::with_capacity(of.len());
        for (view, partition) in of {
            let mut cmd = Cmd::new();
            cmd.arg("GET").arg(self.shared.keys.mark(view, *partition));
            batch.add_command(cmd);
        }
        let read = |answer: Answer| match answer? {
            Value::BulkString(mark) => Ok(String::from_utf8(mark).ok().map(Into::into)),
            _ => Ok(None),
        };
        self.shared.servers.batch(&batch).await.into_iter().map(read).collect()
    }
}

fn life(ttl: Duration) -> u64 {
    millis(ttl.clamp(VIEW_TTL_MIN, VIEW_TTL_MAX))
}

fn flag(is_so: bool) -> &'static str {
    if is_so { "1" } else { "" }
}

fn words(place: &EventPlace) -> [String; 4] {
    let EventPlace { topic, partition, offset, at_ms } = place;
    let topic = if topic.is_empty() { NO_TOPIC } else { topic };
    [topic.to_owned(), partition.to_string(), offset.to_string(), at_ms.to_string()]
}

fn read_place(words: &[&str]) -> Option<EventPlace> {
    let [topic, partition, offset, at_ms] = words else { return None };
    Some(EventPlace {
        topic: if *topic == NO_TOPIC { "".into() } else { (*topic).into() },
        partition: partition.parse().ok()?,
        offset: offset.parse().ok()?,
        at_ms: at_ms.parse().ok()?,
    })
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

/// A hash's `t`, `p`, `o`, `a`, `s` and `c`.
fn read_latest(parts: Vec<Value>) -> Option<Latest> {
    let [topic, partition, offset, at_ms, state, content] = <[Value; 6]>::try_from(parts).ok()?;
    let place = [text(&topic)?, text(&partition)?, text(&offset)?, text(&at_ms)?];
    let Value::BulkString(content) = content else { return None };
    Some(Latest {
        place: read_place(&place)?,
        state: text(&state).map(Into::into),
        content: content.into(),
    })
}

fn read_requests(answer: &Value) -> Result<Vec<RequestId>, RegistryError> {
    let Value::Array(found) = answer else { return Err(malformed("who waits", answer)) };
    let read = |id: &Value| match id {
        Value::BulkString(id) => RequestId::from_header(id).ok(),
        _ => None,
    };
    Ok(found.iter().filter_map(read).collect())
}

fn read_waiting(answer: Value) -> Result<Waiting, RegistryError> {
    let waiting = || RegistryError::Malformed("what became of a wait".to_owned());
    let Value::Array(mut parts) = answer else { return Err(waiting()) };
    let rest = parts.split_off(1.min(parts.len()));
    match parts.first().and_then(text) {
        Some("begun") => {
            let place =
                rest.first().and_then(text).map(|place| place.split(' ').collect::<Vec<_>>());
            Ok(Waiting::Begun(place.and_then(|words| read_place(&words))))
        }
        Some("over") => read_latest(rest).map(Waiting::Over).ok_or_else(waiting),
        _ => Err(waiting()),
    }
}
