//! What becomes of a result on its way to the registry.

use std::time::Duration;

use registry::{NodeId, faulty::FaultyRegistry};
use uuid::Uuid;

use super::*;
use crate::{
    relay::{
        bed::{self, Ground},
        cluster::Membership,
        offsets::{OffsetTracker, Record},
        write_behind,
    },
    wire::Reply,
};

const KEEP: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(5);

fn request(number: u128) -> RequestId {
    RequestId::from_uuid(Uuid::from_u128(number))
}

fn reply(payload: &'static str) -> Reply {
    Reply { payload: payload.into(), ..Reply::default() }
}

fn frame(request: RequestId, payload: &'static str) -> Frame {
    let id = ClientId::from_request(request);
    Frame::Response { id, request, reply: reply(payload) }
}

/// The results of a node, written for as long as the test goes on.
async fn results(registry: &FaultyRegistry) -> Arc<Results> {
    let around =
        bed::surroundings(Ground { registry: Arc::new(registry.clone()), ..Ground::default() });
    let membership = Arc::new(Membership::new(&around));
    let config = RestConfig { response_retention: KEEP, response_bytes_max: 16 };
    let results = Arc::new(Results::new(&config, &around, &membership));
    let written = Arc::clone(&results);
    around.tasks.long_lived("results", async move {
        write_behind::run(&ResultWriter(&written)).await;
    });
    results
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn an_offset_is_let_go_of_once_the_registry_has_the_result() {
    let registry = FaultyRegistry::default();
    let results = results(&registry).await;
    let [one, away] = [1, 2].map(request);
    let (window, asked) = (OffsetTracker::default(), Some(holder(away)));
    for (request, offset) in [(one, 0), (away, 1)] {
        results.expect(request, "echo", TIMEOUT).await.unwrap();
        assert_eq!(results.poll(request).await, Polled::Waiting);
        if request == away {
            registry.set_away(true);
        }
        let guard = window.guard(offset, Record::new(request, reply("1")));
        results.arrived(request, &frame(request, "1"), Some(guard));
        assert_eq!(results.progress(request, None), Some(Progress::Unwritten));
        a_moment().await;
    }
    assert_eq!(window.committable(), Some(1), "the first is stored, the second is not");
    assert_eq!(results.progress(one, None), None);
    assert_eq!(results.progress(one, Some(holder(one))), Some(Progress::Written));
    assert_eq!(results.progress(away, asked), Some(Progress::Unwritten));
    assert!(!results.is_empty());
    registry.set_away(false);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(window.committable(), Some(2));
    assert_eq!(results.progress(away, asked), Some(Progress::Written));
    assert!(results.is_empty());
    assert_eq!(results.poll(away).await, Polled::Ended(frame(away, "1")));
}

#[tokio::test(start_paused = true)]
async fn what_the_registry_has_lost_is_noted_again_or_stored_all_the_same() {
    let registry = FaultyRegistry::default();
    let results = results(&registry).await;
    let [noted, stored] = [1, 2].map(request);
    for request in [noted, stored] {
        results.expect(request, "echo", TIMEOUT).await.unwrap();
    }
    registry.memory.wipe();
    results.arrived(stored, &frame(stored, "1"), None);
    a_moment().await;
    assert_eq!(results.poll(stored).await, Polled::Ended(frame(stored, "1")));
    // A node that has just come does not know what the table should have.
    let Polled::None(failure) = results.poll(noted).await else { panic!("it is lost") };
    assert_eq!(failure.code, ErrorCode::Unavailable);
    registry.set_away(true);
    results.write_again();
    a_moment().await;
    registry.set_away(false);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(results.poll(noted).await, Polled::Waiting);
    results.forget(noted);
    registry.memory.wipe();
    results.write_again();
    a_moment().await;
    assert!(matches!(results.poll(noted).await, Polled::None(_)), "nothing is to come of it");
}

#[tokio::test(start_paused = true)]
async fn a_caller_learns_how_far_a_result_is() {
    let registry = FaultyRegistry::default();
    let results = results(&registry).await;
    let code = async |request| match results.poll(request).await {
        Polled::None(failure) => (failure.code, failure.recorded),
        other => panic!("{other:?}"),
    };
    let [late, large] = [1, 2].map(request);
    results.expect(late, "echo", TIMEOUT).await.unwrap();
    tokio::time::sleep(TIMEOUT).await;
    assert_eq!(code(late).await, (ErrorCode::Timeout, true));
    let stored = results.store(&[(late, frame(late, "1"))]).await;
    assert_eq!(stored, [Ok(registry::Stored::Done)]);
    assert_eq!(results.poll(late).await, Polled::Ended(frame(late, "1")));
    tokio::time::sleep(KEEP).await;
    assert_eq!(code(late).await, (ErrorCode::Gone, true));

    results.expect(large, "echo", TIMEOUT).await.unwrap();
    results.arrived(large, &frame(large, "more than 16 bytes"), None);
    a_moment().await;
    let Polled::Ended(Frame::Error { failure, .. }) = results.poll(large).await else { panic!() };
    assert_eq!((failure.code, failure.recorded), (ErrorCode::TooLarge, true));
    assert!(failure.message.contains("rest.response_bytes_max is 16"), "{}", failure.message);

    registry.set_away(true);
    assert_eq!(code(large).await, (ErrorCode::Unavailable, false));
    let refused = results.expect(request(3), "echo", TIMEOUT).await.unwrap_err();
    assert_eq!((refused.code, refused.recorded), (ErrorCode::Unavailable, false));
}

#[tokio::test(start_paused = true)]
async fn only_what_is_still_to_come_is_expected() {
    let registry = FaultyRegistry::default();
    let results = results(&registry).await;
    let [waiting, overdue, stored, unknown] = [1, 2, 3, 4].map(request);
    results.expect(waiting, "echo", KEEP).await.unwrap();
    results.expect(overdue, "echo", Duration::ZERO).await.unwrap();
    results.expect(stored, "echo", KEEP).await.unwrap();
    results.arrived(stored, &frame(stored, "1"), None);
    a_moment().await;
    let found = results.find_expected(&[waiting, overdue, stored, unknown]).await;
    let echo = || Ok(Some(Expected { service: "echo".to_owned() }));
    assert_eq!(found, [echo(), echo(), Ok(None), Ok(None)]);
    assert_eq!(bed::node().id, NodeId::parse("gw-1").unwrap());
}
