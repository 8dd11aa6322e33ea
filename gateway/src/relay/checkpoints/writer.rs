//! Writes what is queued to the registry: batch by batch, records and copies in the order that lets
//! nothing be lost between them.

use std::sync::Arc;

use registry::{
    BackedUp, Backup, NodeRef, Recorded, Registry, RegistryError, SessionId, SessionRecord,
};
use tokio::time::Instant;

use super::{Checkpoints, Continue, WholeBackup, Work, ended::ENDS_MAX};
use crate::{
    relay::{
        session::Session,
        write_behind::{Batches, Pace},
    },
    tasks::locked,
    telemetry::Telemetry,
};

/// Sessions in one round trip.
const BATCH_MAX: usize = 512;

/// Whose sessions are written: what the writer asks, and tells.
pub trait Owner: Send + Sync {
    /// All that the registry should have of a session, for a copy that begins anew.
    fn whole(&self, session: &Session) -> WholeBackup;

    /// The session is not this node's any more, as the registry has told of a write for this epoch:
    /// another node has claimed it (`is_claimed`), or has taken this one for dead. False when it is
    /// this node's all the same.
    fn lost(&self, session: &Arc<Session>, epoch: u64, is_claimed: bool) -> bool;

    /// The session's mailbox is full, by this limit: it has to end.
    fn overflowed(&self, session: &Arc<Session>, limit: &'static str);
}

/// A session that the registry says is another node's, for which epoch it was written, and what
/// waited for that.
type Lost = (Arc<Session>, u64, Vec<Continue>);

/// The one task that writes sessions.
#[expect(missing_debug_implementations, reason = "lives within one call")]
pub struct Writer<'a> {
    /// What is to be written.
    pub queue: &'a Checkpoints,
    /// Where to.
    pub registry: &'a dyn Registry,
    /// Whose sessions they are.
    pub owner: &'a dyn Owner,
    /// This node, which holds them.
    pub node: &'a NodeRef,
    /// Told how long each took.
    pub telemetry: &'a Telemetry,
}

impl Batches for Writer<'_> {
    fn pace(&self) -> &Pace {
        &self.queue.pace
    }

    async fn write(&self) -> Option<Result<(), RegistryError>> {
        let (work, ends) = {
            let mut queue = locked(&self.queue.queue);
            queue.is_busy = true;
            (std::mem::take(&mut queue.work), std::mem::take(&mut queue.ends))
        };
        let mut work: Vec<Work> = work.into_values().collect();
        let is_nothing = work.is_empty() && ends.is_empty();
        work.sort_unstable_by_key(|work| *work.session.id().as_uuid());
        let mut result = self.end_all(ends).await;
        while !work.is_empty() {
            let rest = work.split_off(work.len().min(BATCH_MAX));
            let mut batch = std::mem::replace(&mut work, rest);
            if result.is_ok() {
                result = self.write_batch(&mut batch).await;
            }
            self.written(batch, result.is_ok());
        }
        locked(&self.queue.queue).is_busy = false;
        (!is_nothing).then_some(result)
    }
}

impl Writer<'_> {
    async fn end_all(&self, ends: Vec<(SessionId, u64)>) -> Result<(), RegistryError> {
        if ends.is_empty() {
            return Ok(());
        }
        let outcome = self.registry.end_sessions(&ends).await;
        let mut queue = locked(&self.queue.queue);
        if outcome.is_err() && queue.ends.len() < ENDS_MAX {
            queue.ends.extend(ends);
        } else {
            queue.ended.written(ends, Instant::now());
        }
        outcome
    }

    /// What has waited for this batch goes on. What could not be written is part of its session,
    /// which is written anew.
    fn written(&self, batch: Vec<Work>, is_written: bool) {
        for mut work in batch {
            let then = std::mem::take(&mut work.then);
            if is_written {
                work.parked.sort_unstable();
                work.session.mailbox().parked(&work.parked);
            } else {
                self.queue.rewrite(&work.session);
            }
            then.into_iter().for_each(|go_on| go_on());
        }
    }

    async fn write_batch(&self, batch: &mut [Work]) -> Result<(), RegistryError> {
        // A new session's record comes before its backup, a known one's after it: a session that has
        // lost its connection says so only when all of it is there.
        let generation = *locked(&self.queue.generation);
        let is_new = |work: &Work| !work.session.ownership().is_recorded();
        batch
            .iter()
            .filter(|work| work.rewrite || is_new(work))
            .for_each(|work| work.session.ownership().copied_in(generation));
        self.write_records(batch, is_new).await?;
        for work in batch.iter_mut().filter(|work| work.rewrite) {
            self.owner.whole(&work.session).write_over(work);
        }
        let routes: Vec<_> =
            batch.iter_mut().flat_map(|work| std::mem::take(&mut work.routes)).collect();
        let started = Instant::now();
        let backups = self.write_backups(batch);
        let (routed, backed_up) = tokio::join!(self.registry.put_routes(&routes), backups);
        self.telemetry.registry_call("back_up", started.elapsed());
        routed?;
        backed_up?;
        self.write_records(batch, |work| work.record).await
    }

    async fn write_records(
        &self,
        batch: &mut [Work],
        is_due: impl Fn(&Work) -> bool,
    ) -> Result<(), RegistryError> {
        let is_due = |work: &&mut Work| work.record && is_due(work);
        let of_batch = batch.iter_mut().filter(is_due).map(|work| {
            work.record = false;
            &*work
        });
        let (works, records): (Vec<&Work>, Vec<SessionRecord>) = of_batch
            .filter_map(|work| Some((work, work.session.ownership().record(self.node)?)))
            .unzip();
        if records.is_empty() {
            return Ok(());
        }
        let epochs: Vec<u64> = records.iter().map(|record| record.epoch).collect();
        let started = Instant::now();
        let answers = self.registry.record(&records, self.queue.ttl).await?;
        self.telemetry.registry_call("record", started.elapsed());
        let mut lost = Vec::new();
        let answered = works.into_iter().zip(answers).zip(epochs);
        for ((Work { session, rewrite, .. }, answer), epoch) in answered {
            let was_recorded = session.ownership().recorded();
            match answer {
                Recorded::Superseded => lost.push((Arc::clone(session), epoch, Vec::new())),
                // The registry has lost it, or gone back to what it was, and its backup with it.
                Recorded::Created if was_recorded && !rewrite => self.queue.rewrite(session),
                Recorded::Created | Recorded::Refreshed => {}
            }
        }
        self.lose(lost).await
    }

    async fn write_backups(&self, batch: &mut [Work]) -> Result<(), RegistryError> {
        let (mut works, mut backups) = (Vec::new(), Vec::new());
        for work in batch {
            if !work.session.is_held() {
                work.let_go();
                continue;
            }
            if work.steps.is_empty() {
                continue;
            }
            let steps = std::mem::take(&mut work.steps);
            let (session, epoch) = (work.session.id(), work.session.epoch());
            backups.push(Backup { session, epoch, orphan: false, steps });
            works.push(work);
        }
        if backups.is_empty() {
            return Ok(());
        }
        let mut lost = Vec::new();
        let answers = self.registry.back_up(&backups, self.queue.limits).await?;
        for ((work, answer), backup) in works.into_iter().zip(answers).zip(backups) {
            match answer {
                BackedUp::Done => continue,
                BackedUp::Superseded => {
                    let then = std::mem::take(&mut work.then);
                    lost.push((Arc::clone(&work.session), backup.epoch, then));
                    work.let_go();
                }
                // Only this node has it now; the next round writes it anew, and only then goes on
                // what waits for its copy.
                BackedUp::Missing => {
                    work.session.ownership().unrecorded();
                    self.queue.rewrite_then(&work.session, std::mem::take(&mut work.then));
                }
                BackedUp::Overflowed => self.owner.overflowed(&work.session, "mailbox_bytes_max"),
            }
            work.parked.clear();
        }
        self.lose(lost).await
    }

    /// Lets go of sessions that are not this node's any more. One that is, because this node has
    /// claimed it meanwhile, or because the registry has gone back since to an earlier epoch, is
    /// written anew.
    async fn lose(&self, lost: Vec<Lost>) -> Result<(), RegistryError> {
        if lost.is_empty() {
            return Ok(());
        }
        let ids: Vec<SessionId> = lost.iter().map(|(session, ..)| session.id()).collect();
        let entries = match self.registry.find_sessions(&ids).await {
            Ok(entries) => entries,
            Err(error) => {
                // The next round goes on with them, or without the registry.
                lost.into_iter()
                    .for_each(|(session, _, then)| self.queue.rewrite_then(&session, then));
                return Err(error);
            }
        };
        for ((session, epoch, then), entry) in lost.into_iter().zip(entries) {
            let is_later = entry.as_ref().is_none_or(|entry| entry.epoch > epoch);
            let is_claimed = entry.is_some_and(|entry| entry.node.is_some());
            if !is_later || !self.owner.lost(&session, epoch, is_claimed) {
                self.queue.rewrite_then(&session, then);
            }
        }
        Ok(())
    }
}
