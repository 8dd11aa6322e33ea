//! Sessions whose owner is taken to be dead.

use super::{
    LONG, ROOMY, Subject, TOKEN, claim, entry, find, park, park_last, parked, submitted, taken,
    write,
};
use crate::{
    conformance::{good, request, same},
    tables::{
        Registry,
        sessions::{CheckpointUpdate, Checkpointed, Recorded, SessionEntry},
    },
};

pub(crate) async fn have_no_owner_and_fence_the_former(registry: &impl Registry) {
    // The second is the largest number of ten digits: a table that counts ten digits at a time has
    // to carry there.
    for epoch in [1, 9_999_999_999, (1 << 53) + 1] {
        let subject = Subject { epoch, ..Subject::begin(registry).await };
        write(registry, &subject.record(), LONG).await;
        let id = request();
        subject.done(vec![submitted(id, "a")]).await;
        let orphan =
            CheckpointUpdate { orphan: true, ..subject.checkpoint(vec![park_last(id, "reply")]) };
        let told = good(
            registry.update_checkpoints(std::slice::from_ref(&orphan), ROOMY).await,
            "update_checkpoints",
        );
        same(&told, &vec![Checkpointed::Done], "a session is orphaned");

        let orphaned = SessionEntry { node: None, epoch: epoch + 1, ..entry(&subject.record()) };
        let found = find(registry, subject.session).await;
        same(&found, &Some(orphaned.clone()), "an orphan has no owner, and one epoch more");
        let told = write(registry, &subject.record(), LONG).await;
        same(&told, &Recorded::Superseded, "an owner that only slept cannot refresh it");
        let told = subject.checkpoint_within(ROOMY, vec![park(1, "stale")]).await;
        same(&told, &Checkpointed::Superseded, "nor change its checkpoint");

        let holding = taken(registry, &claim(subject.session, TOKEN, TOKEN)).await;
        same(&holding.former, &orphaned, "who claims it learns that nobody held it");
        same(&holding.epoch, &(epoch + 2), "a claim raises the epoch again");
        let expected = vec![parked(0, Some(id), "reply")];
        same(&holding.mailbox, &expected, "with it goes what was parked for it");
    }
}

pub(crate) async fn are_made_at_their_epoch_alone(registry: &impl Registry) {
    let subject = Subject::begin(registry).await;
    let stale = Subject { epoch: 7, ..subject };
    let orphan = CheckpointUpdate { orphan: true, ..stale.checkpoint(vec![park(1, "a")]) };
    let told = good(registry.update_checkpoints(&[orphan], ROOMY).await, "update_checkpoints");
    same(&told, &vec![Checkpointed::Missing], "a session at another epoch is not orphaned");
    let subject = Subject { epoch: 1, ..stale };
    let found = find(registry, subject.session).await;
    same(&found, &Some(entry(&subject.record())), "and keeps its owner");
}
