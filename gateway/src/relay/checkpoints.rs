//! Writes checkpoints of sessions to the registry in the background: in batches, in order for each
//! session, and anew if the registry has lost them.
//!
//! What must not be lost with this node waits here for its checkpoint: a reliable session's request
//! is produced, and a parked reply's offset is committed, only when the registry has it. While the
//! registry is away, requests go on without.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use registry::{CheckpointStep, Generation, MailboxLimits, Progress, RequestId, Route, SessionId};
use tokio::time::Instant;

use super::{
    session::{KEPT_BYTES_MAX, KEPT_FRAMES_MAX, Session},
    write_behind::Pace,
};
use crate::{config::Config, tasks::locked, wire::Frame};

mod ended;
pub mod format;
mod snapshot;
mod work;
mod writer;

use ended::Ended;
use format::RequestDetail;
pub use snapshot::Snapshot;
use snapshot::park_steps;
pub use work::Continue;
use work::{Aside, Work};
pub use writer::{Owner, Writer};

/// How long a reliable session's client may take to acknowledge a frame before the frame is copied
/// into the mailbox, so that one slow client does not hold a partition's offset back.
pub const ACK_PATIENCE: Duration = Duration::from_secs(2);
/// How long a write for which nobody waits waits for others to share its batch.
const LINGER: Duration = Duration::from_millis(5);
/// A session's entry in the registry is refreshed at least so often, and as often as this part of
/// the window.
const REFRESHES_PER_WINDOW: u32 = 3;
const REFRESH_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// The queued changes of checkpoints. Shared by all parts that change sessions.
#[derive(Debug)]
pub struct Checkpoints {
    queue: Mutex<Queue>,
    pace: Pace,
    /// How long a session outlives its owner in the registry.
    ttl: Duration,
    refresh_interval: Duration,
    limits: MailboxLimits,
    /// The registry's generation, as far as this node knows.
    generation: Mutex<Option<Generation>>,
}

#[derive(Debug, Default)]
struct Queue {
    work: HashMap<SessionId, Work>,
    ends: Vec<(SessionId, u64)>,
    aside: Aside,
    ended: Ended,
    /// Whether a batch is being written.
    is_busy: bool,
}

impl Checkpoints {
    /// An empty queue, for sessions as configured. A mailbox in the registry may have to take what
    /// was in the outbox when the connection was lost, and what had been written and was still
    /// kept, in addition to what comes later.
    pub fn new(config: &Config) -> Self {
        let (stream_bytes_max, config) = (config.limits.stream_bytes_max, &config.session);
        let from_outbox =
            config.outbox_bytes_max.saturating_add(stream_bytes_max) / Frame::ENVELOPE_BYTES;
        let sum = |numbers: [usize; 3]| numbers.into_iter().fold(0, usize::saturating_add);
        let limits = MailboxLimits {
            frames_max: sum([config.mailbox_frames_max, from_outbox, KEPT_FRAMES_MAX + 1]),
            bytes_max: sum([
                config.mailbox_bytes_max,
                config.outbox_bytes_max.saturating_add(stream_bytes_max),
                KEPT_BYTES_MAX,
            ]),
        };
        let window = config.resume_window;
        let refresh_interval = (window / REFRESHES_PER_WINDOW).max(REFRESH_INTERVAL_MIN);
        Self {
            queue: Mutex::default(),
            pace: Pace::new(LINGER),
            ttl: window + 2 * refresh_interval,
            refresh_interval,
            limits,
            generation: Mutex::default(),
        }
    }

    /// How often each session's record is to be refreshed.
    pub fn refresh_interval(&self) -> Duration {
        self.refresh_interval
    }

    /// The bounds of a mailbox.
    pub fn limits(&self) -> MailboxLimits {
        self.limits
    }

    /// How long a session lives without a refresh.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The registry is of this generation: whole checkpoints that are written from now on are of
    /// it.
    pub fn set_generation(&self, generation: Option<Generation>) {
        *locked(&self.generation) = generation;
    }

    /// The session's record has changed.
    pub fn record(&self, session: &Arc<Session>) {
        self.change(session, false, |work| work.record = true);
    }

    /// Like [`Checkpoints::record`]; `then` is called once the registry has it, or cannot be
    /// reached.
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

    /// Like [`Checkpoints::rewrite`]; `then` is called once the registry has it, or cannot be
    /// reached.
    pub fn rewrite_then(&self, session: &Arc<Session>, then: Vec<Continue>) {
        self.change(session, true, |work| {
            (work.record, work.rewrite) = (true, true);
            work.then.extend(then);
        });
    }

    /// Queues one step, for which nobody waits.
    pub fn step(&self, session: &Arc<Session>, step: CheckpointStep) {
        self.change(session, false, |work| work.steps.push(step));
    }

    /// A request is over, so what is queued about it need not be written.
    pub fn forget(&self, session: &Arc<Session>, request: RequestId) {
        let is_of = |step: &CheckpointStep| matches!(step, CheckpointStep::Request { request: r, .. } if *r == request);
        self.change(session, false, |work| {
            work.steps.retain(|step| !is_of(step));
            work.steps.push(CheckpointStep::Forget { request });
        });
    }

    /// Queues a request; `then` is called once the registry has it and its route.
    pub fn request(
        &self,
        session: &Arc<Session>,
        step: CheckpointStep,
        route: (RequestId, Arc<Route>),
        then: Continue,
    ) {
        self.change(session, true, |work| {
            work.steps.push(step);
            work.routes.push(route);
            work.then.push(then);
        });
    }

    /// A request is recorded; `detail` is what is known of it.
    pub fn recorded(&self, session: &Arc<Session>, request: RequestId, detail: &RequestDetail) {
        let (progress, detail) = (Progress::Recorded, format::encode(detail));
        self.step(session, CheckpointStep::Request { request, progress, detail });
    }

    /// The client has more parts of a streamed reply; `detail` is what is known of the request. `then`
    /// is called once the registry has it, or cannot be reached.
    pub fn parts_read(
        &self,
        session: &Arc<Session>,
        request: RequestId,
        detail: &RequestDetail,
        then: Continue,
    ) {
        let (progress, detail) = (Progress::Recorded, format::encode(detail));
        let is_of = |step: &CheckpointStep| matches!(step, CheckpointStep::Request { request: r, progress: Progress::Recorded, .. } if *r == request);
        self.change(session, false, |work| {
            work.steps.retain(|step| !is_of(step));
            work.steps.push(CheckpointStep::Request { request, progress, detail });
            work.then.push(then);
        });
    }

    /// Copies frames into the mailbox that have waited for too long. The session learns when they
    /// are there.
    pub fn park_due(&self, session: &Arc<Session>) {
        let now = Instant::now();
        self.park_since(session, now.checked_sub(ACK_PATIENCE).unwrap_or(now));
    }

    /// Copies frames that end requests into the mailbox. Only this node knows how it has ended a
    /// request, and the next owner would end it in another way.
    pub fn park_now(&self, session: &Arc<Session>) {
        if session.is_durable() {
            self.park_since(session, Instant::now());
        }
    }

    fn park_since(&self, session: &Arc<Session>, before: Instant) {
        let frames = session.mailbox().unparked(before);
        if frames.is_empty() {
            return;
        }
        let (seqs, steps) = park_steps(frames);
        self.change(session, true, |work| {
            work.steps.extend(steps);
            work.parked.extend(seqs);
        });
    }

    /// The session is about to be over.
    pub fn ends(&self, id: SessionId, epoch: u64) {
        locked(&self.queue).ended.add(id, epoch);
    }

    /// The session is over.
    pub fn end(&self, id: SessionId, epoch: u64) {
        let mut queue = locked(&self.queue);
        let work = queue.work.remove(&id);
        queue.aside.sessions.remove(&id);
        queue.ends.push((id, epoch));
        queue.ended.add(id, epoch);
        drop(queue);
        self.pace.now();
        // Nobody waits for the answer any more, but the record stays in the log.
        work.into_iter().flat_map(|work| work.then).for_each(|go_on| go_on());
    }

    /// Whether the session has ended here, and another node may not know yet: it may have claimed
    /// the session a moment before the registry heard of that. Not so for what was held here before
    /// `epoch`: it has gone on elsewhere since.
    pub fn is_ending(&self, id: SessionId, epoch: u64) -> bool {
        locked(&self.queue).ended.has(id, epoch, Instant::now())
    }

    /// Whether the session has ended here, and the registry may not know yet.
    pub fn is_end_unwritten(&self, id: SessionId) -> bool {
        locked(&self.queue).ended.is_unwritten(id)
    }

    /// Whether everything has been written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many sessions have something to be written; a batch that is being written counts as one.
    pub fn len(&self) -> usize {
        let queue = locked(&self.queue);
        let aside = queue.aside.sessions.len() + queue.aside.ends.len();
        queue.work.len() + queue.ends.len() + aside + usize::from(queue.is_busy)
    }

    /// The session could not be written: what waits for its copy goes on without, and so does what
    /// comes until all of it is tried again.
    fn put_aside(&self, session: &Arc<Session>, then: Vec<Continue>) {
        let mut queue = locked(&self.queue);
        let queued = queue.work.remove(&session.id());
        // What is queued by now may be of a later object, which has come back meanwhile.
        let session = queued.as_ref().map_or(session, |work| &work.session);
        queue.aside.sessions.insert(session.id(), Arc::clone(session));
        drop(queue);
        self.pace.later();
        let queued = queued.into_iter().flat_map(|work| work.then);
        then.into_iter().chain(queued).for_each(|go_on| go_on());
    }

    fn change(&self, session: &Arc<Session>, is_urgent: bool, change: impl FnOnce(&mut Work)) {
        let mut queue = locked(&self.queue);
        if let Some(aside) = queue.aside.sessions.get_mut(&session.id()) {
            // The session has been elsewhere meanwhile: nothing of the time before is written any
            // more.
            if session.epoch() < aside.epoch() {
                return;
            }
            *aside = Arc::clone(session);
            drop(queue);
            // All of it is written anew.
            let mut work = Work::new(session);
            change(&mut work);
            work.then.into_iter().for_each(|go_on| go_on());
            return;
        }
        let work = queue.work.entry(session.id()).or_insert_with(|| Work::new(session));
        if !Arc::ptr_eq(&work.session, session) {
            // The same.
            if session.epoch() < work.session.epoch() {
                return;
            }
            *work = Work::new(session);
        }
        change(work);
        drop(queue);
        match is_urgent {
            true => self.pace.now(),
            false => self.pace.soon(),
        }
    }
}

#[cfg(test)]
mod tests;
