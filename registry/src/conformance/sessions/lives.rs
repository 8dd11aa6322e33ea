//! How long sessions and their checkpoints live.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{LONG, ROOMY, SHORT, Subject, find, park, record, submitted, write};
use crate::{
    conformance::{eventually, request, same},
    ids::SessionId,
    tables::{
        Registry,
        sessions::{Checkpointed, Recorded},
    },
};

pub(crate) async fn end_with_their_checkpoints(registry: &impl Registry) {
    let mut subject = Subject::begin_for(registry, SHORT).await;
    let steps = vec![submitted(request(), "detail"), park(1, "frame")];
    subject.checkpoint_within(ROOMY, steps).await;
    gone(&subject).await;
    let told = subject.checkpoint_within(ROOMY, vec![park(2, "late")]).await;
    same(&told, &Checkpointed::Missing, "a session that expired has no checkpoint");

    let told = write(registry, &subject.record(), LONG).await;
    same(&told, &Recorded::Created, "a session that expired is created again");
    let holding = subject.held().await;
    assert!(holding.requests.is_empty(), "the requests expired with it: {holding:?}");
    assert!(holding.mailbox.is_empty(), "the mailbox expired with it: {holding:?}");
}

pub(crate) async fn are_not_prolonged_by_checkpoints(registry: &impl Registry) {
    let begun = Instant::now();
    let subject = Subject::begin_for(registry, SHORT).await;
    let mut last = Checkpointed::Done;
    while last == Checkpointed::Done {
        last = subject.checkpoint_within(ROOMY, vec![submitted(request(), "detail")]).await;
        assert!(begun.elapsed() < SHORT * 10, "checkpoints do not prolong a life");
        sleep(SHORT / 20).await;
    }
    same(&last, &Checkpointed::Missing, "what expired is missing");
}

pub(crate) async fn are_prolonged_by_records_and_claims(registry: &impl Registry) {
    let steps = |id| vec![submitted(id, "detail"), park(1, "frame")];
    let mut recorded = Subject::begin_for(registry, SHORT).await;
    recorded.checkpoint_within(ROOMY, steps(request())).await;
    let told = write(registry, &recorded.record(), LONG).await;
    // A very slow machine may have let it expire; then there is nothing to see.
    let refreshed = told == Recorded::Refreshed;

    let mut claimed = Subject::begin(registry).await;
    claimed.done(steps(request())).await;
    write(registry, &claimed.record(), Duration::from_secs(5)).await;
    claimed.held().await;
    let mut shortened = Subject::begin(registry).await;
    shortened.done(steps(request())).await;
    shortened.held_for(SHORT).await;

    sleep(SHORT * 2).await;
    gone(&shortened).await;
    for (subject, name, whole) in
        [(&mut recorded, "record", refreshed), (&mut claimed, "claim", true)]
    {
        let holding = subject.held().await;
        let lives = holding.requests.len() == 1 && holding.mailbox.len() == 1;
        assert!(lives || !whole, "a {name} prolongs the checkpoint's life: {holding:?}");
    }
}

pub(crate) async fn may_be_of_any_length(registry: &impl Registry) {
    let [shortest, longest] = [SessionId::random(), SessionId::random()];
    for (session, ttl) in [(shortest, Duration::ZERO), (longest, Duration::MAX)] {
        let told = write(registry, &record(session), ttl).await;
        same(&told, &Recorded::Created, "no length of a life is refused");
    }
    let over = async || find(registry, shortest).await.is_none();
    eventually("the shortest life ends", over).await;
    assert!(find(registry, longest).await.is_some(), "the longest life goes on");
}

async fn gone<R: Registry>(subject: &Subject<'_, R>) {
    let over = async || find(subject.registry, subject.session).await.is_none();
    eventually("a session expires", over).await;
}
