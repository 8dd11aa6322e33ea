//! What a [`crate::tables::results::ResultTable`] promises.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{eventually, good, node_ref, request, same};
use crate::{
    ids::RequestId,
    tables::{
        Registry,
        results::{Arrival, Expectation, ResultEntry, ResultState, Stored},
    },
};

/// Longer than any check takes.
const LONG: Duration = Duration::from_secs(60);
/// Long enough to be seen, short enough to be waited for.
const SHORT: Duration = Duration::from_millis(500);

pub(super) async fn run_all<R: Registry>(make: impl AsyncFn() -> R) {
    are_expected_then_stored(&make().await).await;
    keep_every_byte(&make().await).await;
    of_one_request_are_stored_once(&make().await).await;
    are_unexpected_unless_noted(&make().await).await;
    of_which_the_table_knows_nothing_are_stored_all_the_same(&make().await).await;
    may_be_noted_anew_until_they_are_there(&make().await).await;
    may_come_late(&make().await).await;
    are_given_up_in_the_end(&make().await).await;
    expire_and_are_gone_for_as_long(&make().await).await;
    are_found_in_the_order_asked(&make().await).await;
    may_come_in_no_and_in_large_numbers(&make().await).await;
}

async fn are_expected_then_stored(registry: &impl Registry) {
    let one = expectation(LONG, LONG);
    same(&find(registry, one.request).await, &None, "nothing is known of what nobody expects");
    expect(registry, &[&one]).await;
    let ResultEntry { node, detail, state } = found(registry, one.request).await;
    same(&(node, detail), &(one.node.clone(), one.detail.clone()), "what was noted comes back");
    let ResultState::Waiting { left } = state else { panic!("it waits, and is {state:?}") };
    assert!(left <= LONG && left > LONG / 2, "what is left of its time: {left:?}");
    same(&store(registry, one.request, "a").await, &Stored::Done, "a result is stored");
    let ResultEntry { node, detail, state } = found(registry, one.request).await;
    same(&state, &ResultState::Stored("a".into()), "a result comes back");
    same(&(node, detail), &(one.node, one.detail), "what was noted stays");
}

async fn keep_every_byte(registry: &impl Registry) {
    let all: Bytes = (0..=255).collect::<Vec<u8>>().into();
    let large: Bytes = vec![0xff; 1 << 20].into();
    for bytes in [Bytes::new(), all, large] {
        let one = Expectation { detail: bytes.clone(), ..expectation(LONG, LONG) };
        expect(registry, &[&one]).await;
        let arrival = Arrival { request: one.request, result: bytes.clone(), expected: None };
        good(registry.store_results(&[arrival]).await, "store_results");
        let ResultEntry { detail, state, .. } = found(registry, one.request).await;
        assert!(detail == bytes, "{} bytes of a detail", bytes.len());
        assert!(state == ResultState::Stored(bytes.clone()), "{} bytes of a result", bytes.len());
    }
}

async fn of_one_request_are_stored_once(registry: &impl Registry) {
    let one = expectation(LONG, LONG);
    expect(registry, &[&one]).await;
    let batch = ["a", "b"].map(|result| arrival(one.request, result));
    let answers = good(registry.store_results(&batch).await, "store_results");
    same(&answers, &vec![Stored::Done, Stored::Before], "the first of two is stored");
    same(&store(registry, one.request, "c").await, &Stored::Before, "a later one is not");
    let again = Arrival { expected: Some(one.clone()), ..arrival(one.request, "d") };
    let answers = good(registry.store_results(&[again]).await, "store_results");
    same(&answers, &vec![Stored::Before], "whatever its caller knows");
    let state = found(registry, one.request).await.state;
    same(&state, &ResultState::Stored("a".into()), "the first result stays");
}

async fn are_unexpected_unless_noted(registry: &impl Registry) {
    let id = request();
    same(&store(registry, id, "a").await, &Stored::Unexpected, "nobody expects it");
    same(&find(registry, id).await, &None, "what nobody expects is not stored");
}

async fn of_which_the_table_knows_nothing_are_stored_all_the_same(registry: &impl Registry) {
    let one = expectation(LONG, LONG);
    let known = Arrival { expected: Some(one.clone()), ..arrival(one.request, "a") };
    let answers = good(registry.store_results(&[known]).await, "store_results");
    same(&answers, &vec![Stored::Done], "its caller knows that it is expected");
    let state = ResultState::Stored("a".into());
    let entry = ResultEntry { node: one.node, detail: one.detail, state };
    same(&found(registry, one.request).await, &entry, "it is as if it had been noted before");
}

async fn may_be_noted_anew_until_they_are_there(registry: &impl Registry) {
    let one = expectation(Duration::ZERO, LONG);
    expect(registry, &[&one]).await;
    same(&found(registry, one.request).await.state, &ResultState::Overdue, "no time is left");
    let anew = Expectation { node: node_ref("gw-2", 7), left: LONG, ..one.clone() };
    expect(registry, &[&anew]).await;
    let ResultEntry { node, state, .. } = found(registry, one.request).await;
    same(&node, &anew.node, "another node has taken the request");
    assert!(matches!(state, ResultState::Waiting { .. }), "it has more time: {state:?}");
    store(registry, one.request, "a").await;
    expect(registry, &[&one]).await;
    let ResultEntry { node, state, .. } = found(registry, one.request).await;
    same(&state, &ResultState::Stored("a".into()), "a result is not forgotten");
    same(&node, &anew.node, "nor is anything else changed then");
}

async fn may_come_late(registry: &impl Registry) {
    let one = expectation(SHORT, LONG);
    expect(registry, &[&one]).await;
    let is_over = async || found(registry, one.request).await.state == ResultState::Overdue;
    eventually("its time is over", is_over).await;
    same(&store(registry, one.request, "a").await, &Stored::Done, "a late result is stored");
    let state = found(registry, one.request).await.state;
    same(&state, &ResultState::Stored("a".into()), "a late result comes back");
}

async fn are_given_up_in_the_end(registry: &impl Registry) {
    let one = expectation(Duration::ZERO, SHORT);
    expect(registry, &[&one]).await;
    let is_gone = async || found(registry, one.request).await.state == ResultState::Gone;
    eventually("it is not expected any more", is_gone).await;
    same(&store(registry, one.request, "a").await, &Stored::Unexpected, "it comes too late");
    let is_forgotten = async || find(registry, one.request).await.is_none();
    eventually("it is forgotten", is_forgotten).await;
}

async fn expire_and_are_gone_for_as_long(registry: &impl Registry) {
    let one = expectation(LONG, SHORT);
    expect(registry, &[&one]).await;
    let begun = Instant::now();
    store(registry, one.request, "a").await;
    let is_gone = async || found(registry, one.request).await.state == ResultState::Gone;
    eventually("it expires, and that is known", is_gone).await;
    assert!(begun.elapsed() >= SHORT, "it is kept for as long as was asked for");
    same(&store(registry, one.request, "b").await, &Stored::Before, "it came once");
    let is_forgotten = async || find(registry, one.request).await.is_none();
    eventually("it is forgotten", is_forgotten).await;
    assert!(begun.elapsed() >= SHORT * 2, "it is gone for as long as it was kept");
}

async fn are_found_in_the_order_asked(registry: &impl Registry) {
    let all: Vec<_> = std::iter::repeat_with(|| expectation(LONG, LONG)).take(4).collect();
    expect(registry, &all.iter().collect::<Vec<_>>()).await;
    let asked = [all[3].request, request(), all[0].request, all[3].request];
    let entries = good(registry.find_results(&asked).await, "find_results");
    let details: Vec<_> =
        entries.into_iter().map(|entry| entry.map(|entry| entry.detail)).collect();
    let [first, last] = [&all[0], &all[3]].map(|one| Some(one.detail.clone()));
    same(&details, &vec![last.clone(), None, first, last], "results come in the order asked for");
}

async fn may_come_in_no_and_in_large_numbers(registry: &impl Registry) {
    expect(registry, &[]).await;
    same(&good(registry.store_results(&[]).await, "store_results"), &Vec::new(), "nothing stored");
    same(&good(registry.find_results(&[]).await, "find_results"), &Vec::new(), "nothing found");

    let all: Vec<_> = std::iter::repeat_with(|| expectation(LONG, LONG)).take(1000).collect();
    expect(registry, &all.iter().collect::<Vec<_>>()).await;
    let batch: Vec<_> = all.iter().map(|one| arrival(one.request, "a")).collect();
    let answers = good(registry.store_results(&batch).await, "store_results of 1000");
    assert!(answers.iter().all(|answer| *answer == Stored::Done), "1000 results are stored");
    let ids: Vec<_> = all.iter().map(|one| one.request).collect();
    let entries = good(registry.find_results(&ids).await, "find_results of 1000");
    let there =
        entries.iter().flatten().filter(|entry| entry.state == ResultState::Stored("a".into()));
    same(&there.count(), &1000, "1000 results come back");
}

fn expectation(left: Duration, keep: Duration) -> Expectation {
    let request = request();
    let detail = request.to_string().into();
    Expectation { request, node: node_ref("gw-1", u64::MAX), left, keep, detail }
}

fn arrival(request: RequestId, result: &'static str) -> Arrival {
    Arrival { request, result: result.into(), expected: None }
}

async fn expect(registry: &impl Registry, expected: &[&Expectation]) {
    let expected: Vec<_> = expected.iter().map(|one| (*one).clone()).collect();
    let answers = good(registry.expect_results(&expected).await, "expect_results");
    assert_eq!(answers.len(), expected.len(), "one answer for each");
}

async fn store(registry: &impl Registry, request: RequestId, result: &'static str) -> Stored {
    good(registry.store_results(&[arrival(request, result)]).await, "store_results")[0]
}

async fn find(registry: &impl Registry, request: RequestId) -> Option<ResultEntry> {
    good(registry.find_results(&[request]).await, "find_results").pop().expect("one answer")
}

async fn found(registry: &impl Registry, request: RequestId) -> ResultEntry {
    find(registry, request).await.expect("something is known of it")
}
