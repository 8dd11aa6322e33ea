//! Writes the queued changes to the registry: batch by batch, and in an order in which nothing is
//! lost in between.

use std::sync::Arc;

use registry::{
    CheckpointUpdate, Checkpointed, NodeRef, Recorded, Registry, RequestId, Route, SessionId,
};
use tokio::time::Instant;

use super::{
    Checkpoints,
    ended::ENDS_MAX,
    format::RequestDetail,
    snapshot::Snapshot,
    work::{Aside, Continue, Work},
};
use crate::{
    relay::{
        cluster::RegistryHealth,
        session::Session,
        write_behind::{Batches, Pace},
    },
    tasks::locked,
    telemetry::Telemetry,
};

/// Sessions in one round trip.
const BATCH_MAX: usize = 512;

/// The owner of the sessions, which the writer asks and tells.
pub trait Owner: Send + Sync {
    /// All that the registry should have of a session, for a copy that begins anew. `None` if it
    /// should have no copy of it.
    fn whole(&self, session: &Session) -> Option<Snapshot>;

    /// The route of a request that is part of a session's copy.
    fn route(&self, session: &Session, request: RequestId, detail: &RequestDetail) -> Arc<Route>;

    /// The registry has refused a write for this epoch, so the session belongs to another node: one
    /// that has claimed it (`is_claimed`), or one that took this node for dead. Returns false if it
    /// belongs to this node all the same.
    fn lost(&self, session: &Arc<Session>, epoch: u64, is_claimed: bool) -> bool;

    /// The routes of these requests could not be written.
    fn unrouted(&self, requests: Vec<RequestId>);

    /// The session's mailbox is full, by this limit: it has to end.
    fn overflowed(&self, session: &Arc<Session>, limit: &'static str);
}

/// A session that the registry says belongs to another node, the epoch for which it was written,
/// and what waited for that.
type Lost = (Arc<Session>, u64, Vec<Continue>);

/// The one task that writes sessions.
#[expect(missing_debug_implementations, reason = "lives within one call")]
pub struct Writer<'a> {
    /// What is to be written.
    pub queue: &'a Checkpoints,
    /// The registry.
    pub registry: &'a dyn Registry,
    /// The owner of the sessions.
    pub owner: &'a dyn Owner,
    /// Told whether it answers.
    pub health: &'a RegistryHealth,
    /// This node, which holds them.
    pub node: &'a NodeRef,
    /// The metrics of each call.
    pub telemetry: &'a Telemetry,
}

impl Batches for Writer<'_> {
    fn pace(&self) -> &Pace {
        &self.queue.pace
    }

    async fn write(&self) {
        let (work, ends) = {
            let mut queue = locked(&self.queue.queue);
            queue.is_busy = true;
            (std::mem::take(&mut queue.work), std::mem::take(&mut queue.ends))
        };
        let mut work: Vec<Work> = work.into_values().collect();
        work.sort_unstable_by_key(|work| *work.session.id().as_uuid());
        self.end_all(ends).await;
        while !work.is_empty() {
            let rest = work.split_off(work.len().min(BATCH_MAX));
            let mut batch = std::mem::replace(&mut work, rest);
            self.write_batch(&mut batch).await;
            batch.into_iter().for_each(|work| self.written(work));
        }
        locked(&self.queue.queue).is_busy = false;
    }

    fn try_again(&self) {
        let mut queue = locked(&self.queue.queue);
        let Aside { sessions, ends } = std::mem::take(&mut queue.aside);
        queue.ends.extend(ends);
        for (id, session) in sessions {
            let work = queue.work.entry(id).or_insert_with(|| Work::new(&session));
            (work.record, work.rewrite) = (true, true);
        }
    }
}

impl Writer<'_> {
    async fn end_all(&self, ends: Vec<(SessionId, u64)>) {
        for ends in ends.chunks(BATCH_MAX) {
            let answers = self.registry.end_sessions(ends).await;
            self.health.heard(&answers);
            let mut queue = locked(&self.queue.queue);
            let mut written = Vec::with_capacity(ends.len());
            for (end, answer) in ends.iter().zip(answers) {
                match answer {
                    Err(_) if queue.aside.ends.len() < ENDS_MAX => {
                        queue.aside.ends.push(*end);
                        self.queue.pace.later();
                    }
                    _ => written.push(*end),
                }
            }
            queue.ended.written(written, Instant::now());
        }
    }

    /// What has waited for this goes on. What could not be written is part of its session, which is
    /// written anew.
    fn written(&self, mut work: Work) {
        if work.has_failed {
            return self.queue.put_aside(&work.session, work.then);
        }
        work.parked.sort_unstable();
        work.session.mailbox().parked(&work.parked);
        work.then.into_iter().for_each(|go_on| go_on());
    }

    async fn write_batch(&self, batch: &mut [Work]) {
        // A new session's record comes before its checkpoint, a known one's after it: a session
        // that has lost its connection says so only when all of it is there.
        let generation = *locked(&self.queue.generation);
        let is_new = |work: &Work| !work.session.ownership().is_recorded();
        batch
            .iter()
            .filter(|work| work.rewrite || is_new(work))
            .for_each(|work| work.session.ownership().copied_in(generation));
        self.write_records(batch, is_new).await;
        for work in batch.iter_mut().filter(|work| work.rewrite && !work.has_failed) {
            let whole = self.owner.whole(&work.session);
            for (request, detail, _) in whole.iter().flat_map(|whole| &whole.requests) {
                let route = self.owner.route(&work.session, *request, detail);
                work.routes.push((*request, route));
            }
            work.write_over(whole);
        }
        let routes: Vec<_> =
            batch.iter_mut().flat_map(|work| std::mem::take(&mut work.routes)).collect();
        let started = Instant::now();
        let (routed, ()) =
            tokio::join!(self.registry.put_routes(&routes), self.write_checkpoints(batch));
        self.telemetry.registry_call("back_up", started.elapsed());
        self.health.heard(&routed);
        let failed = routes.iter().zip(routed).filter(|(_, answer)| answer.is_err());
        self.owner.unrouted(failed.map(|((request, _), _)| *request).collect());
        self.write_records(batch, |work| work.record).await;
    }

    async fn write_records(&self, batch: &mut [Work], is_due: impl Fn(&Work) -> bool) {
        let is_due = |work: &&mut Work| work.record && !work.has_failed && is_due(work);
        let (mut works, mut records) = (Vec::new(), Vec::new());
        for work in batch.iter_mut().filter(is_due) {
            work.record = false;
            if let Some(record) = work.session.ownership().record(self.node) {
                works.push(work);
                records.push(record);
            }
        }
        if records.is_empty() {
            return;
        }
        let started = Instant::now();
        let answers = self.registry.record(&records, self.queue.ttl).await;
        self.telemetry.registry_call("record", started.elapsed());
        self.health.heard(&answers);
        let mut lost = Vec::new();
        for ((work, answer), record) in works.into_iter().zip(answers).zip(records) {
            let Some(answer) = work.heard(answer) else { continue };
            let was_recorded = work.session.ownership().recorded();
            match answer {
                Recorded::Superseded => {
                    lost.push((Arc::clone(&work.session), record.epoch, Vec::new()));
                }
                // The registry has lost it, or gone back to what it was, and its checkpoint with
                // it.
                Recorded::Created if was_recorded && !work.rewrite => {
                    self.queue.rewrite(&work.session);
                }
                Recorded::Created | Recorded::Refreshed => {}
            }
        }
        self.lose(lost).await;
    }

    async fn write_checkpoints(&self, batch: &mut [Work]) {
        let (mut works, mut checkpoints) = (Vec::new(), Vec::new());
        for work in batch.iter_mut().filter(|work| !work.has_failed) {
            if !work.session.is_held() {
                work.let_go();
                continue;
            }
            if work.steps.is_empty() {
                continue;
            }
            let steps = std::mem::take(&mut work.steps);
            let (session, epoch) = (work.session.id(), work.session.epoch());
            checkpoints.push(CheckpointUpdate { session, epoch, orphan: false, steps });
            works.push(work);
        }
        if checkpoints.is_empty() {
            return;
        }
        let mut lost = Vec::new();
        let answers = self.registry.update_checkpoints(&checkpoints, self.queue.limits).await;
        self.health.heard(&answers);
        for ((work, answer), checkpoint) in works.into_iter().zip(answers).zip(checkpoints) {
            let Some(answer) = work.heard(answer) else { continue };
            match answer {
                Checkpointed::Done => continue,
                Checkpointed::Superseded => {
                    let then = std::mem::take(&mut work.then);
                    lost.push((Arc::clone(&work.session), checkpoint.epoch, then));
                    work.let_go();
                }
                // Only this node has it now. The next round writes it anew, and only then does what
                // waits for its checkpoint go on.
                Checkpointed::Missing => {
                    work.session.ownership().unrecorded();
                    self.queue.rewrite_then(&work.session, std::mem::take(&mut work.then));
                }
                Checkpointed::Overflowed => {
                    self.owner.overflowed(&work.session, "mailbox_bytes_max")
                }
            }
            work.parked.clear();
        }
        self.lose(lost).await;
    }

    /// Lets go of sessions that do not belong to this node any more. A session that does, because
    /// this node has claimed it meanwhile or because the registry has gone back to an earlier
    /// epoch, is written anew.
    async fn lose(&self, lost: Vec<Lost>) {
        if lost.is_empty() {
            return;
        }
        let ids: Vec<SessionId> = lost.iter().map(|(session, ..)| session.id()).collect();
        let answers = self.registry.find_sessions(&ids).await;
        self.health.heard(&answers);
        for ((session, epoch, then), answer) in lost.into_iter().zip(answers) {
            // A later round goes on with it, or without the registry.
            let Ok(entry) = answer else {
                self.queue.put_aside(&session, then);
                continue;
            };
            let is_later = entry.as_ref().is_none_or(|entry| entry.epoch > epoch);
            let is_claimed = entry.is_some_and(|entry| entry.node.is_some());
            if !is_later || !self.owner.lost(&session, epoch, is_claimed) {
                self.queue.rewrite_then(&session, then);
            }
        }
    }
}
