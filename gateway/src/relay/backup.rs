//! Copies sessions to the registry, behind their backs: batched, in order for each session, and
//! written anew where the registry has lost them.
//!
//! What must not be lost with this node waits here for its copy: a reliable session's request is
//! produced, and a parked reply's offset is let go, once the registry has it. Only while the
//! registry is away does a request go on without.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use registry::{
    BackedUp, Backup, BackupStep, Generation, MailboxLimits, Recorded, Registry, RegistryError,
    RequestId, Route, SessionId, SessionRecord,
};
use tokio::{sync::Notify, time::Instant};

use super::{Relay, session::Session};
use crate::tasks::locked;

/// Sessions in one round trip.
const BATCH_MAX: usize = 512;
/// Ended sessions that wait for the registry to come back; more expire there by themselves.
const ENDS_MAX: usize = 64 * 1024;
/// How long after the registry has heard of a session's end another node may ask for it, that had
/// claimed it before: as long as a call of the registry and the way here take.
const ENDED_KEPT: Duration = Duration::from_secs(10);
/// How long what nobody waits for waits for company.
const LINGER: Duration = Duration::from_millis(5);
/// Between two attempts while the registry cannot be reached.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// Goes on once the registry has what it waits for, or cannot be reached.
pub type Continue = Box<dyn FnOnce() + Send + Sync>;

/// What is to be copied. Shared by all who change sessions.
#[derive(Debug)]
pub struct Backups {
    queue: Mutex<Queue>,
    wake: Notify,
    hurry: Notify,
    /// How long a session outlives its holder in the registry.
    ttl: Duration,
    limits: MailboxLimits,
    /// The registry's, as far as this node knows.
    generation: Mutex<Option<Generation>>,
}

/// A session that the registry says is another node's, for which epoch it was written, and what
/// waited for that.
type Lost = (Arc<Session>, u64, Vec<Continue>);

#[derive(Debug, Default)]
struct Queue {
    work: HashMap<SessionId, Work>,
    ends: Vec<(SessionId, u64)>,
    /// Sessions that are over, for the epoch they were held here, and perhaps still in the registry.
    ending: HashMap<SessionId, u64>,
    /// The same when the registry has heard of it, for a while.
    ended: HashMap<SessionId, u64>,
    /// In that order.
    ended_at: VecDeque<(Instant, SessionId)>,
    /// A batch is on its way.
    is_busy: bool,
}

impl Queue {
    fn forget_ended(&mut self) {
        let now = Instant::now();
        while let Some((at, id)) = self.ended_at.front().copied()
            && (at + ENDED_KEPT <= now || self.ended_at.len() > ENDS_MAX)
        {
            self.ended_at.pop_front();
            self.ended.remove(&id);
        }
    }
}

/// What is to be copied of one session.
struct Work {
    session: Arc<Session>,
    /// Its record has changed, or has to be refreshed.
    record: bool,
    /// Its whole state has to be written anew; steps are part of it then.
    rewrite: bool,
    steps: Vec<BackupStep>,
    routes: Vec<(RequestId, Arc<Route>)>,
    parked: Vec<u64>,
    then: Vec<Continue>,
}

impl Backups {
    /// An empty queue. A session lives in the registry for `ttl` after its last refresh.
    pub fn new(ttl: Duration, limits: MailboxLimits) -> Self {
        let (wake, hurry) = (Notify::new(), Notify::new());
        let generation = Mutex::default();
        Self { queue: Mutex::default(), wake, hurry, ttl, limits, generation }
    }

    /// The bounds of a mailbox.
    pub fn limits(&self) -> MailboxLimits {
        self.limits
    }

    /// How long a session lives without a refresh.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The registry is of this generation, in which what is written anew from now on has its copy.
    pub fn set_generation(&self, generation: Option<Generation>) {
        *locked(&self.generation) = generation;
    }

    /// The session's record has changed.
    pub fn record(&self, session: &Arc<Session>) {
        self.change(session, false, |work| work.record = true);
    }

    /// The same, and what goes on once the registry has it, or cannot be reached.
    pub fn record_then(&self, session: &Arc<Session>, then: Continue) {
        self.change(session, true, |work| {
            work.record = true;
            work.then.push(then);
        });
    }

    /// The session has to be written anew, with all that is in flight for it.
    pub fn rewrite(&self, session: &Arc<Session>) {
        self.rewrite_then(session, Vec::new());
    }

    /// The same, and what goes on once the registry has it, or cannot be reached.
    pub fn rewrite_then(&self, session: &Arc<Session>, then: Vec<Continue>) {
        self.change(session, true, |work| {
            (work.record, work.rewrite) = (true, true);
            work.then.extend(then);
        });
    }

    /// One step; nobody waits for it.
    pub fn step(&self, session: &Arc<Session>, step: BackupStep) {
        self.change(session, false, |work| work.steps.push(step));
    }

    /// A request is over; what is queued of it need not be written.
    pub fn forget(&self, session: &Arc<Session>, request: RequestId) {
        let is_of = |step: &BackupStep| matches!(step, BackupStep::Request { request: r, .. } if *r == request);
        self.change(session, false, |work| {
            work.steps.retain(|step| !is_of(step));
            work.steps.push(BackupStep::Forget { request });
        });
    }

    /// A request, and what goes on once the registry has it with its route.
    pub fn request(
        &self,
        session: &Arc<Session>,
        step: BackupStep,
        route: (RequestId, Arc<Route>),
        then: Continue,
    ) {
        self.change(session, true, |work| {
            work.steps.push(step);
            work.routes.push(route);
            work.then.push(then);
        });
    }

    /// Frames for the mailbox. Their session is told once they are there.
    pub fn park(&self, session: &Arc<Session>, seqs: Vec<u64>, steps: Vec<BackupStep>) {
        self.change(session, true, |work| {
            work.steps.extend(steps);
            work.parked.extend(seqs);
        });
    }

    /// The session is about to be over.
    pub fn ends(&self, id: SessionId, epoch: u64) {
        locked(&self.queue).ending.insert(id, epoch);
    }

    /// The session is over.
    pub fn end(&self, id: SessionId, epoch: u64) {
        let mut queue = locked(&self.queue);
        let work = queue.work.remove(&id);
        queue.ends.push((id, epoch));
        queue.ending.insert(id, epoch);
        drop(queue);
        self.wake.notify_one();
        self.hurry.notify_one();
        // Nobody waits for the answer any more; the command stands.
        work.into_iter().flat_map(|work| work.then).for_each(|go_on| go_on());
    }

    /// Whether the session has ended here, and another node may not know yet: it may have claimed the
    /// session a moment before the registry heard of that.
    /// Not so for what was held here before `epoch`: it has gone on elsewhere since.
    pub fn is_ending(&self, id: SessionId, epoch: u64) -> bool {
        let mut queue = locked(&self.queue);
        queue.forget_ended();
        let ended = queue.ending.get(&id).max(queue.ended.get(&id));
        ended.is_some_and(|ended| *ended >= epoch)
    }

    /// Whether the session has ended here, and the registry may not know yet.
    pub fn is_end_unwritten(&self, id: SessionId) -> bool {
        locked(&self.queue).ending.contains_key(&id)
    }

    /// Whether everything has been written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many sessions have something to be written; a batch on its way counts as one.
    pub fn len(&self) -> usize {
        let queue = locked(&self.queue);
        queue.work.len() + queue.ends.len() + usize::from(queue.is_busy)
    }

    fn change(&self, session: &Arc<Session>, is_urgent: bool, change: impl FnOnce(&mut Work)) {
        let mut queue = locked(&self.queue);
        let work = queue.work.entry(session.id()).or_insert_with(|| Work::new(session));
        if !Arc::ptr_eq(&work.session, session) {
            // It has been elsewhere meanwhile: of what was held before nothing is written any more.
            if session.epoch() < work.session.epoch() {
                return;
            }
            *work = Work::new(session);
        }
        change(work);
        drop(queue);
        self.wake.notify_one();
        if is_urgent {
            self.hurry.notify_one();
        }
    }

    /// Writes for as long as the node lives.
    pub async fn run(&self, registry: Arc<dyn Registry>, relay: &Relay) {
        loop {
            self.wake.notified().await;
            tokio::select! {
                biased;
                () = self.hurry.notified() => {}
                () = tokio::time::sleep(LINGER) => {}
            }
            let (work, ends) = {
                let mut queue = locked(&self.queue);
                queue.is_busy = true;
                (std::mem::take(&mut queue.work), std::mem::take(&mut queue.ends))
            };
            let mut work: Vec<Work> = work.into_values().collect();
            work.sort_unstable_by_key(|work| *work.session.id().as_uuid());
            let mut is_down = !self.end_all(&*registry, ends).await;
            while !work.is_empty() {
                let rest = work.split_off(work.len().min(BATCH_MAX));
                let batch = std::mem::replace(&mut work, rest);
                is_down |= self.write(&*registry, relay, batch, is_down).await;
            }
            locked(&self.queue).is_busy = false;
            if is_down {
                tokio::time::sleep(RETRY_INTERVAL).await;
                self.wake.notify_one();
            }
        }
    }

    async fn end_all(&self, registry: &dyn Registry, ends: Vec<(SessionId, u64)>) -> bool {
        if ends.is_empty() {
            return true;
        }
        let outcome = registry.end_sessions(&ends).await;
        let mut queue = locked(&self.queue);
        if let Err(error) = &outcome {
            tracing::debug!(%error, "sessions not removed");
            if queue.ends.len() < ENDS_MAX {
                queue.ends.extend(ends);
                return false;
            }
        }
        let now = Instant::now();
        for (id, epoch) in ends {
            queue.ending.remove(&id);
            queue.ended.insert(id, epoch);
            queue.ended_at.push_back((now, id));
        }
        queue.forget_ended();
        outcome.is_ok()
    }

    /// Writes one batch; true when the registry could not be reached, and what was to be written is
    /// queued again.
    async fn write(
        &self,
        registry: &dyn Registry,
        relay: &Relay,
        mut batch: Vec<Work>,
        is_down: bool,
    ) -> bool {
        let outcome = match is_down {
            true => Err(None),
            false => self.try_write(registry, relay, &mut batch).await.map_err(Some),
        };
        let is_reachable = outcome.is_ok();
        if let Err(Some(error)) = outcome {
            tracing::debug!(%error, "sessions not copied");
        }
        relay.routes().set_reachable(is_reachable);
        for mut work in batch {
            let then = std::mem::take(&mut work.then);
            if is_reachable {
                work.parked.sort_unstable();
                work.session.parked(&work.parked);
            } else {
                // What could not be written is part of the session, which is written anew.
                self.rewrite(&work.session);
            }
            then.into_iter().for_each(|go_on| go_on());
        }
        !is_reachable
    }

    async fn try_write(
        &self,
        registry: &dyn Registry,
        relay: &Relay,
        batch: &mut [Work],
    ) -> Result<(), RegistryError> {
        // A new session's record comes before its backup, a known one's after it: a session that has
        // lost its connection says so only when all of it is there.
        let generation = *locked(&self.generation);
        let is_new = |work: &Work| !work.session.is_recorded();
        batch
            .iter()
            .filter(|work| work.rewrite || is_new(work))
            .for_each(|work| work.session.copied_in(generation));
        self.write_records(registry, relay, batch, is_new).await?;
        for work in batch.iter_mut().filter(|work| work.rewrite) {
            relay.whole_backup(work.session.as_ref()).write_over(work);
        }
        let routes: Vec<_> =
            batch.iter_mut().flat_map(|work| std::mem::take(&mut work.routes)).collect();
        let started = Instant::now();
        let backups = self.write_backups(registry, relay, batch);
        let (routed, backed_up) = tokio::join!(registry.put_routes(&routes), backups);
        relay.telemetry().registry_call("back_up", started.elapsed());
        routed?;
        backed_up?;
        self.write_records(registry, relay, batch, |work| work.record).await
    }

    async fn write_records(
        &self,
        registry: &dyn Registry,
        relay: &Relay,
        batch: &mut [Work],
        is_due: impl Fn(&Work) -> bool,
    ) -> Result<(), RegistryError> {
        let is_due = |work: &&mut Work| work.record && is_due(work);
        let of_batch = batch.iter_mut().filter(is_due).map(|work| {
            work.record = false;
            &*work
        });
        let (works, records): (Vec<&Work>, Vec<SessionRecord>) =
            of_batch.filter_map(|work| Some((work, work.session.record(relay.node())?))).unzip();
        if records.is_empty() {
            return Ok(());
        }
        let epochs: Vec<u64> = records.iter().map(|record| record.epoch).collect();
        let started = Instant::now();
        let answers = registry.record(&records, self.ttl).await?;
        relay.telemetry().registry_call("record", started.elapsed());
        let mut lost = Vec::new();
        let answered = works.into_iter().zip(answers).zip(epochs);
        for ((Work { session, rewrite, .. }, answer), epoch) in answered {
            let was_recorded = session.recorded();
            match answer {
                Recorded::Superseded => lost.push((Arc::clone(session), epoch, Vec::new())),
                // The registry has lost it, or gone back to what it was, and its backup with it.
                Recorded::Created if was_recorded && !rewrite => self.rewrite(session),
                Recorded::Created | Recorded::Refreshed => {}
            }
        }
        self.lose(registry, relay, lost).await
    }

    async fn write_backups(
        &self,
        registry: &dyn Registry,
        relay: &Relay,
        batch: &mut [Work],
    ) -> Result<(), RegistryError> {
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
        let answers = registry.back_up(&backups, self.limits).await?;
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
                    work.session.unrecorded();
                    self.rewrite_then(&work.session, std::mem::take(&mut work.then));
                }
                BackedUp::Overflowed => relay.overflowed(&work.session, "mailbox_bytes_max"),
            }
            work.parked.clear();
        }
        self.lose(registry, relay, lost).await
    }

    /// Lets go of sessions that are not this node's any more. One that is, because this node has
    /// claimed it meanwhile, or because the registry has gone back since to an earlier epoch, is
    /// written anew.
    async fn lose(
        &self,
        registry: &dyn Registry,
        relay: &Relay,
        lost: Vec<Lost>,
    ) -> Result<(), RegistryError> {
        if lost.is_empty() {
            return Ok(());
        }
        let ids: Vec<SessionId> = lost.iter().map(|(session, ..)| session.id()).collect();
        let entries = match registry.find_sessions(&ids).await {
            Ok(entries) => entries,
            Err(error) => {
                // The next round goes on with them, or without the registry.
                lost.into_iter().for_each(|(session, _, then)| self.rewrite_then(&session, then));
                return Err(error);
            }
        };
        for ((session, epoch, then), entry) in lost.into_iter().zip(entries) {
            let is_later = entry.as_ref().is_none_or(|entry| entry.epoch > epoch);
            let is_claimed = entry.is_some_and(|entry| entry.node.is_some());
            if !is_later || !relay.lose_session(&session, epoch, is_claimed) {
                self.rewrite_then(&session, then);
            }
        }
        Ok(())
    }
}

/// A session's whole state as the registry should have it.
#[derive(Debug, Default)]
pub struct WholeBackup {
    /// From the first step on, which drops what was there.
    pub steps: Vec<BackupStep>,
    /// The frames that are parked by these steps.
    pub parked: Vec<u64>,
    /// The routes of what is in flight.
    pub routes: Vec<(RequestId, Arc<Route>)>,
}

impl WholeBackup {
    fn write_over(self, work: &mut Work) {
        (work.steps, work.parked) = (self.steps, self.parked);
        work.routes.extend(self.routes);
    }
}

impl Work {
    /// The session is another node's: nothing is produced for it here any more.
    fn let_go(&mut self) {
        self.parked.clear();
        self.then.clear();
    }

    fn new(session: &Arc<Session>) -> Self {
        Self {
            session: Arc::clone(session),
            record: false,
            rewrite: false,
            steps: Vec::new(),
            routes: Vec::new(),
            parked: Vec::new(),
            then: Vec::new(),
        }
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("session", &self.session).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
