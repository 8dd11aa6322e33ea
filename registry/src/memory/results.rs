//! Results in this process's memory.
//!
//! Owns what becomes of a result as time passes. Knows neither nodes nor replies.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::MemoryRegistry;
use crate::{
    ids::{NodeRef, RequestId},
    tables::{
        Answers,
        results::{Arrival, Expectation, ResultEntry, ResultState, ResultTable, Stored},
    },
};

/// A result, or that one is to come.
#[derive(Clone, Debug)]
pub(super) struct HeldResult {
    node: NodeRef,
    detail: Bytes,
    deadline: Instant,
    keep: Duration,
    /// The result, and until when it is kept.
    stored: Option<(Bytes, Instant)>,
}

#[async_trait]
impl ResultTable for MemoryRegistry {
    async fn expect_results(&self, expected: &[Expectation]) -> Answers<()> {
        let now = Instant::now();
        let table = &mut self.lock().results;
        for one in expected {
            let is_there = |held: &HeldResult| held.stored.is_some();
            if !table.get(&one.request, now).is_some_and(is_there) {
                let life = one.left() + one.keep() * 2;
                table.insert(one.request, HeldResult::new(one, now), now, life);
            }
        }
        vec![Ok(()); expected.len()]
    }

    async fn store_results(&self, results: &[Arrival]) -> Answers<Stored> {
        let now = Instant::now();
        let table = &mut self.lock().results;
        let mut store = |Arrival { request, result, expected }: &Arrival| {
            let held = table.get(request, now).cloned();
            let known = expected.as_ref().map(|expected| HeldResult::new(expected, now));
            let Some(mut held) = held.or(known) else { return Stored::Unexpected };
            if held.stored.is_some() {
                return Stored::Before;
            }
            if held.deadline + held.keep <= now {
                return Stored::Unexpected;
            }
            let keep = held.keep;
            held.stored = Some((result.clone(), now + keep));
            table.insert(*request, held, now, keep * 2);
            Stored::Done
        };
        results.iter().map(|result| Ok(store(result))).collect()
    }

    async fn find_results(&self, requests: &[RequestId]) -> Answers<Option<ResultEntry>> {
        let now = Instant::now();
        let table = &self.lock().results;
        requests.iter().map(|id| Ok(table.get(id, now).map(|held| held.entry(now)))).collect()
    }
}

impl HeldResult {
    fn new(expected: &Expectation, now: Instant) -> Self {
        let Expectation { node, detail, .. } = expected.clone();
        let (deadline, keep) = (now + expected.left(), expected.keep());
        Self { node, detail, deadline, keep, stored: None }
    }

    fn entry(&self, now: Instant) -> ResultEntry {
        let Self { node, detail, deadline, keep, stored } = self.clone();
        let state = match stored {
            Some((result, until)) if now < until => ResultState::Stored(result),
            None if now < deadline => ResultState::Waiting { left: deadline - now },
            None if now < deadline + keep => ResultState::Overdue,
            _ => ResultState::Gone,
        };
        ResultEntry { node, detail, state }
    }
}
