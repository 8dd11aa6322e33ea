//! Results in Redis: each call is one script per request.
//!
//! Owns what the scripts are given and what their answers mean. What is compared and changed
//! together is in the scripts.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::{Cmd, Pipeline, Value};

use super::{
    RedisRegistry, entries::sessions as text, keys::ResultKeys, link::Answer, malformed, scripts,
};
use crate::{
    error::RegistryError,
    ids::RequestId,
    tables::{
        Answers, millis,
        results::{Arrival, Expectation, ResultEntry, ResultState, ResultTable, Stored},
    },
    unreadable::EntryKind,
};

#[async_trait]
impl ResultTable for RedisRegistry {
    async fn expect_results(&self, expected: &[Expectation]) -> Answers<()> {
        let mut room = ResultKeys::default();
        let mut batch = Pipeline::with_capacity(expected.len());
        for one in expected {
            let keys = self.shared.keys.result(&one.request, &mut room);
            let mut cmd = scripts::EXPECT.call(&keys, 4, 120 + one.detail.len());
            add_expectation(&mut cmd, one);
            batch.add_command(cmd);
        }
        let answers = self.shared.servers.scripts(&scripts::EXPECT, &batch).await;
        answers.into_iter().map(|answer| answer.map(drop)).collect()
    }

    async fn store_results(&self, results: &[Arrival]) -> Answers<Stored> {
        let mut room = ResultKeys::default();
        let mut batch = Pipeline::with_capacity(results.len());
        for Arrival { request, result, expected } in results {
            let keys = self.shared.keys.result(request, &mut room);
            let detail = expected.as_ref().map_or(0, |expected| expected.detail.len());
            let mut cmd = scripts::STORE.call(&keys, 5, 120 + result.len() + detail);
            cmd.arg(&result[..]);
            if let Some(expected) = expected {
                add_expectation(&mut cmd, expected);
            }
            batch.add_command(cmd);
        }
        let answers = self.shared.servers.scripts(&scripts::STORE, &batch).await;
        answers.into_iter().map(|answer| read_stored(&answer?)).collect()
    }

    async fn find_results(&self, requests: &[RequestId]) -> Answers<Option<ResultEntry>> {
        let mut room = ResultKeys::default();
        let mut batch = Pipeline::with_capacity(requests.len());
        for request in requests {
            batch.add_command(scripts::RESULT.call(
                &self.shared.keys.result(request, &mut room),
                0,
                0,
            ));
        }
        let found = self.shared.servers.scripts(&scripts::RESULT, &batch).await;
        let read = |(answer, request): (Answer, &RequestId)| {
            let Value::Array(parts) = answer? else { return Ok(None) };
            let entry = read_entry(parts);
            if entry.is_none() {
                self.shared.unreadable.add(EntryKind::Result, || request.to_string());
            }
            Ok(entry)
        };
        found.into_iter().zip(requests).map(read).collect()
    }
}

/// The words of what is expected, as `expect.lua` lists them.
fn add_expectation(cmd: &mut Cmd, expected: &Expectation) {
    cmd.arg(millis(expected.left())).arg(millis(expected.keep()));
    cmd.arg(text::write_owner(Some(&expected.node))).arg(&expected.detail[..]);
}

fn read_stored(answer: &Value) -> Result<Stored, RegistryError> {
    match answer {
        Value::BulkString(word) => match word.as_slice() {
            b"done" => Ok(Stored::Done),
            b"before" => Ok(Stored::Before),
            b"unexpected" => Ok(Stored::Unexpected),
            _ => Err(malformed("a result", answer)),
        },
        _ => Err(malformed("a result", answer)),
    }
}

/// Takes the answer apart, so that no result is copied.
fn read_entry(parts: Vec<Value>) -> Option<ResultEntry> {
    let [node, detail, state, left, result] = <[Value; 5]>::try_from(parts).ok()?;
    let (Value::BulkString(node), Value::BulkString(detail)) = (node, detail) else { return None };
    let (Value::BulkString(state), Value::BulkString(left)) = (state, left) else { return None };
    let Value::BulkString(result) = result else { return None };
    let state = match state.as_slice() {
        b"waiting" => {
            let left_ms = std::str::from_utf8(&left).ok()?.parse().ok()?;
            ResultState::Waiting { left: Duration::from_millis(left_ms) }
        }
        b"overdue" => ResultState::Overdue,
        b"stored" => ResultState::Stored(result.into()),
        b"gone" => ResultState::Gone,
        _ => return None,
    };
    Some(ResultEntry { node: text::read_owner(&node)??, detail: Bytes::from(detail), state })
}
