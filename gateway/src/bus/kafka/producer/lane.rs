//! The records that are under way to one partition, and those that have to wait for them. Only
//! decides; the producer acts.
//!
//! librdkafka's idempotent producer sends nothing more to a partition while five of its records are
//! unacknowledged, and until the acknowledgement comes it spins on a core over whatever it has been
//! given beyond them, unless other requests fill `max.in.flight`: `rd_kafka_toppar_producer_serve`
//! asks to be woken at once before it finds that it may not send. With a broker that answers within a
//! millisecond nobody notices. With one that does not, the spinning starves the machine, and often
//! the broker. So once acknowledgements are late, what comes is kept back here, and what librdkafka
//! has beyond those five is *paused*, which is the one thing that makes it skip the partition.
//!
//! A batch that is larger than the topic takes is refused as a whole. Its records come back here, and
//! from then on the lane lets one at a time go, so that each is judged by itself.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// So many unacknowledged records of a partition are certainly on their way: librdkafka sends what
/// it has as long as there are fewer. Its `RD_KAFKA_IDEMP_MAX_INFLIGHT` counts records, not requests.
pub(super) const SENDABLE: usize = 5;

/// Acknowledgements are late after so many ticks without any.
const LATE_TICKS: u32 = 2;

/// A lane is not slow any more once acknowledgements have come in so many ticks, one after the other.
const PROMPT_TICKS: u32 = 10;

/// How many ticks a partition stays paused before it is tried for one: a connection that was lost
/// meanwhile has its records sent again only then.
const PAUSE_TICKS: u32 = 50;

/// How many records are handed over before those who wait to enter have their turn.
const LOCKED_MAX: usize = 64;

/// One partition, or those records of a topic whose partition is not known. `R` is a record that is
/// kept back.
#[derive(Debug)]
pub(super) struct Lane<R> {
    /// Records that librdkafka has and that are not acknowledged.
    outstanding: AtomicUsize,
    /// How many were acknowledged, or have failed, ever.
    finished: AtomicUsize,
    /// Whether a record has to ask [`Lane::enter`] before it may go. Most find that it is open, and
    /// pass without a lock.
    is_closed: AtomicBool,
    /// Whether each record goes alone. Changes under the state's lock, and once.
    is_single: AtomicBool,
    state: Mutex<State<R>>,
}

#[derive(Debug)]
struct State<R> {
    /// In the order in which they came.
    kept: VecDeque<R>,
    /// How many of them, the first ones, have been refused with their batch.
    again: usize,
    /// `finished` as of the last tick, and for how many ticks it has not changed.
    finished: usize,
    still: u32,
    /// For how many ticks it has changed.
    prompt: u32,
    /// While librdkafka has to skip the partition: the ticks that are left of it.
    paused: Option<u32>,
    /// Acknowledgements have been late and are not prompt yet: librdkafka is given no more than it
    /// can send.
    is_slow: bool,
}

/// What is to be done for a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// Tell librdkafka to skip the partition (`true`), or not to skip it any more.
    pub(super) pause: Option<bool>,
    /// What is kept back may go.
    pub(super) hand_over: bool,
    /// Look again at the next tick.
    pub(super) is_busy: bool,
}

impl<R> Lane<R> {
    /// An empty lane. A closed one keeps everything back until it is looked after.
    pub(super) fn new(is_closed: bool) -> Self {
        let state = State {
            kept: VecDeque::new(),
            again: 0,
            finished: 0,
            still: 0,
            prompt: 0,
            paused: None,
            is_slow: false,
        };
        Self {
            outstanding: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            is_closed: AtomicBool::new(is_closed),
            is_single: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    /// Whether a record may go to librdkafka now, of which it is then counted as one. Else `keep` is
    /// asked for it; it may refuse.
    ///
    /// # Errors
    /// Those of `keep`.
    pub(super) fn enter<E>(&self, keep: impl FnOnce() -> Result<R, E>) -> Result<Entered, E> {
        if self.is_closed.load(Ordering::Acquire) {
            let mut state = self.lock();
            // Looked at again under the lock: it may have been opened meanwhile.
            let may_go = match self.is_closed.load(Ordering::Acquire) {
                true if self.is_single() => false,
                true => state.is_slow && state.kept.is_empty() && state.still < LATE_TICKS,
                false => true,
            };
            if !may_go || (state.is_slow && self.outstanding() >= SENDABLE) {
                state.kept.push_back(keep()?);
                return Ok(Entered::Kept);
            }
        }
        // The one that may have to wait in librdkafka.
        let is_beyond = self.outstanding.fetch_add(1, Ordering::AcqRel) == SENDABLE;
        Ok(Entered::Goes { is_beyond })
    }

    /// librdkafka has told of a record, or has refused it. Returns whether the lane has to be looked
    /// at.
    pub(super) fn finish(&self) -> bool {
        self.finished.fetch_add(1, Ordering::Relaxed);
        self.outstanding.fetch_sub(1, Ordering::AcqRel);
        self.is_closed.load(Ordering::Acquire)
    }

    /// Whether each record goes alone: what has been handed over since then shares its batch with none.
    pub(super) fn is_single(&self) -> bool {
        self.is_single.load(Ordering::Acquire)
    }

    /// Takes back a record that was refused with its batch. It goes before all that has come since.
    /// Returns whether that has not happened here before.
    pub(super) fn again(&self, record: R) -> bool {
        let mut state = self.lock();
        let at = state.again;
        state.kept.insert(at, record);
        state.again += 1;
        self.is_closed.store(true, Ordering::Release);
        !self.is_single.swap(true, Ordering::AcqRel)
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Acquire)
    }

    /// Whether records are kept back.
    pub(super) fn keeps(&self) -> bool {
        self.is_closed.load(Ordering::Acquire) && !self.lock().kept.is_empty()
    }

    /// What is to be done now. `is_tick`: a tick has passed since the last one. `may_send`: there is
    /// a broker to send to.
    pub(super) fn step(&self, is_tick: bool, may_send: bool) -> Step {
        let mut state = self.lock();
        let (finished, outstanding) = (self.finished.load(Ordering::Relaxed), self.outstanding());
        state.observe(finished, outstanding, is_tick);
        let is_late = state.still >= LATE_TICKS;
        let mut step = Step::default();
        match state.paused {
            Some(left) if is_late && left > 0 => state.paused = Some(left - u32::from(is_tick)),
            Some(_) => {
                (state.paused, step.pause) = (None, Some(false));
                // If nothing follows from it, it is paused again at the next tick.
                state.still = state.still.min(LATE_TICKS - 1);
            }
            None if is_late && outstanding > SENDABLE => {
                (state.paused, step.pause) = (Some(PAUSE_TICKS), Some(true));
            }
            None => {}
        }
        let is_kept = !state.kept.is_empty();
        let sendable = if self.is_single() { 1 } else { SENDABLE };
        step.hand_over = is_kept && may_send && !is_late && outstanding < sendable;
        step.is_busy = outstanding > SENDABLE || is_kept || state.is_slow;
        let is_closed = state.is_slow || is_kept || !may_send || self.is_single();
        self.is_closed.store(is_closed, Ordering::Release);
        step
    }

    /// Hands over what is kept back, up to `max` records, until `send` gives one back. Whoever enters
    /// meanwhile comes after what is kept back, so that the order is kept.
    pub(super) fn hand_over(&self, max: usize, mut send: impl FnMut(R) -> Sent<R>) {
        for done in (0..max).step_by(LOCKED_MAX) {
            if !self.hand_some_over(LOCKED_MAX.min(max - done), &mut send) {
                break;
            }
        }
    }

    /// Returns whether it would go on.
    fn hand_some_over(&self, max: usize, send: &mut impl FnMut(R) -> Sent<R>) -> bool {
        let mut state = self.lock();
        let mut goes_on = !self.is_single();
        let max = match goes_on {
            true => max,
            // Seen under the lock. Of more than one, the next is handed over when the lane is looked at
            // again.
            false => usize::from(self.outstanding() == 0),
        };
        for _ in 0..max {
            let Some(record) = state.kept.pop_front() else { break };
            state.again = state.again.saturating_sub(1);
            self.outstanding.fetch_add(1, Ordering::AcqRel);
            match send(record) {
                Sent::Taken => {}
                Sent::Dropped => drop(self.outstanding.fetch_sub(1, Ordering::AcqRel)),
                Sent::Full(record) => {
                    self.outstanding.fetch_sub(1, Ordering::AcqRel);
                    state.kept.push_front(record);
                    goes_on = false;
                    break;
                }
            }
        }
        let is_kept = !state.kept.is_empty();
        let is_closed = state.is_slow || is_kept || self.is_single();
        self.is_closed.store(is_closed, Ordering::Release);
        goes_on && is_kept
    }

    /// Takes out what is kept back and not to be kept any longer.
    pub(super) fn take_kept(&self, keep: impl Fn(&R) -> bool) -> Vec<R> {
        let mut state = self.lock();
        // Nearly always so, and moving them would hold up whoever enters.
        if state.kept.iter().all(&keep) {
            return Vec::new();
        }
        let (kept, taken) = std::mem::take(&mut state.kept).into_iter().partition(keep);
        state.kept = kept;
        // Which of them went is not known: at worst one more goes before those that came later.
        state.again = state.again.min(state.kept.len());
        Vec::from(taken)
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R> State<R> {
    fn observe(&mut self, finished: usize, outstanding: usize, is_tick: bool) {
        let goes_on = finished != self.finished;
        if goes_on || outstanding == 0 {
            (self.finished, self.still) = (finished, 0);
        } else if is_tick {
            self.still = self.still.saturating_add(1);
        }
        if self.still > 0 {
            self.prompt = 0;
        } else if is_tick && goes_on {
            self.prompt = self.prompt.saturating_add(1);
        }
        let is_over = self.prompt >= PROMPT_TICKS || (outstanding == 0 && self.kept.is_empty());
        self.is_slow = self.still >= LATE_TICKS || (self.is_slow && !is_over);
    }
}

/// What becomes of a record in [`Lane::enter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entered {
    /// It goes to librdkafka. `is_beyond`: it is the first that has to wait there for
    /// acknowledgements, so that somebody should see whether they come.
    Goes { is_beyond: bool },
    /// It is kept back.
    Kept,
}

/// What became of a record that was kept back.
#[derive(Debug)]
pub(super) enum Sent<R> {
    /// librdkafka has it.
    Taken,
    /// It has ended otherwise.
    Dropped,
    /// librdkafka's queue is full.
    Full(R),
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Step = Step { pause: Some(true), hand_over: false, is_busy: true };
    const WAIT: Step = Step { pause: None, hand_over: false, is_busy: true };

    fn enter(lane: &Lane<u32>, record: u32) -> Entered {
        lane.enter(|| Ok::<_, ()>(record)).unwrap()
    }

    fn enter_all(lane: &Lane<u32>, records: std::ops::Range<u32>) -> Vec<Entered> {
        records.map(|record| enter(lane, record)).collect()
    }

    fn hand_over(lane: &Lane<u32>, max: usize) -> Vec<u32> {
        let mut sent = Vec::new();
        lane.hand_over(max, |record| {
            sent.push(record);
            Sent::Taken
        });
        sent
    }

    fn finish(lane: &Lane<u32>, count: usize) {
        for _ in 0..count {
            lane.finish();
        }
    }

    /// A lane whose acknowledgements are late, with `beyond` records in librdkafka that cannot be
    /// sent.
    fn late(beyond: u32) -> Lane<u32> {
        let lane = Lane::new(false);
        enter_all(&lane, 0..SENDABLE as u32 + beyond);
        for _ in 0..LATE_TICKS {
            lane.step(true, true);
        }
        lane
    }

    #[test]
    fn records_pass_while_acknowledgements_come() {
        let lane = Lane::new(false);
        for round in 0..10 {
            let entered = enter_all(&lane, 0..20);
            assert!(entered.iter().all(|entered| *entered != Entered::Kept), "{round}");
            assert_eq!(entered[SENDABLE], Entered::Goes { is_beyond: true });
            assert_eq!(entered.iter().filter(|one| **one != entered[0]).count(), 1);
            assert_eq!(lane.step(true, true), WAIT);
            finish(&lane, 20);
            assert_eq!(lane.step(true, true), Step::default());
        }
    }

    #[test]
    fn what_librdkafka_cannot_send_is_paused_and_what_comes_is_kept_back() {
        let lane = Lane::new(false);
        enter_all(&lane, 0..20);
        assert_eq!(lane.step(true, true), WAIT);
        assert_eq!(lane.step(true, true), PAUSE);
        assert_eq!(enter(&lane, 20), Entered::Kept);
        assert_eq!(enter(&lane, 21), Entered::Kept);
        assert_eq!(lane.step(true, true), WAIT);
        // The first acknowledgement: librdkafka goes on with what it has.
        assert!(lane.finish());
        assert_eq!(lane.step(false, true), Step { pause: Some(false), ..WAIT });
        finish(&lane, 15);
        assert_eq!(lane.step(false, true), Step { hand_over: true, ..WAIT });
        assert_eq!(hand_over(&lane, 100), [20, 21]);
        finish(&lane, 6);
        assert_eq!(lane.step(false, true), Step::default());
        assert_eq!(enter(&lane, 22), Entered::Goes { is_beyond: false });
    }

    #[test]
    fn what_is_on_its_way_needs_no_pause() {
        let lane = late(0);
        assert_eq!(lane.step(true, true), Step { pause: None, ..WAIT });
        assert_eq!(enter(&lane, 9), Entered::Kept);
    }

    #[test]
    fn a_paused_partition_is_tried_now_and_then() {
        let lane = late(1);
        for _ in 0..PAUSE_TICKS {
            assert_eq!(lane.step(false, true), WAIT);
            assert_eq!(lane.step(true, true), WAIT);
        }
        assert_eq!(lane.step(true, true), Step { pause: Some(false), ..WAIT });
        assert_eq!(lane.step(true, true), PAUSE);
    }

    #[test]
    fn a_slow_broker_is_given_no_more_than_it_can_be_sent() {
        let lane = late(0);
        finish(&lane, SENDABLE);
        enter_all(&lane, 10..12);
        // The broker answers, but late each time: while it is slow nothing goes beyond.
        for round in 0..3 {
            assert!(lane.step(false, true).hand_over, "{round}");
            assert_eq!(hand_over(&lane, 100).len(), 2);
            let entered = enter_all(&lane, 20..25);
            let goes = entered.iter().filter(|one| **one != Entered::Kept).count();
            assert_eq!((goes, entered.len() - goes), (3, 2), "{round}");
            for _ in 0..LATE_TICKS {
                lane.step(true, true);
            }
            finish(&lane, SENDABLE);
        }
        assert!(lane.step(false, true).hand_over);
    }

    #[test]
    fn a_busy_lane_is_not_slow_for_ever() {
        let lane = late(50);
        assert_eq!(enter(&lane, 1), Entered::Kept);
        for _ in 0..=PROMPT_TICKS {
            finish(&lane, 1);
            lane.step(true, true);
        }
        // There was always something under way.
        assert_eq!(hand_over(&lane, 100), [1]);
        assert_eq!(enter(&lane, 2), Entered::Goes { is_beyond: false });
    }

    #[test]
    fn nothing_overtakes_what_is_kept_back() {
        let lane = late(0);
        enter_all(&lane, 5..9);
        finish(&lane, SENDABLE);
        assert_eq!(enter(&lane, 9), Entered::Kept);
        lane.step(false, true);
        assert_eq!(hand_over(&lane, 3), [5, 6, 7]);
        assert_eq!(enter(&lane, 10), Entered::Kept);
        finish(&lane, 3);
        lane.step(false, true);
        assert_eq!(hand_over(&lane, 3), [8, 9, 10]);
    }

    #[test]
    fn who_enters_while_many_are_handed_over_comes_after_them() {
        let lane = Lane::new(true);
        enter_all(&lane, 0..100);
        lane.step(true, true);
        let sent = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            lane.hand_over(80, |record| {
                sent.lock().unwrap().push(record);
                if record == 0 {
                    scope.spawn(|| assert_eq!(enter(&lane, 100), Entered::Kept));
                }
                Sent::Taken
            });
        });
        assert_eq!(hand_over(&lane, 100), Vec::from_iter(80..=100));
        assert_eq!(sent.into_inner().unwrap(), Vec::from_iter(0..80));
    }

    #[test]
    fn a_full_librdkafka_gets_it_later_and_what_nobody_wants_is_dropped() {
        let lane = late(0);
        enter_all(&lane, 5..8);
        finish(&lane, SENDABLE);
        let mut sent = Vec::new();
        lane.hand_over(9, |record| match record {
            5 => Sent::Dropped,
            7 => Sent::Full(record),
            _ => {
                sent.push(record);
                Sent::Taken
            }
        });
        assert_eq!((sent, lane.outstanding()), (vec![6], 1));
        assert_eq!(lane.take_kept(|_| false), [7]);
    }

    #[test]
    fn before_there_is_a_broker_everything_is_kept_back() {
        let lane = Lane::new(true);
        enter_all(&lane, 0..3);
        assert_eq!(lane.step(true, false), WAIT);
        assert_eq!(lane.step(true, true), Step { hand_over: true, ..WAIT });
        assert_eq!(hand_over(&lane, 100), [0, 1, 2]);
        assert!(!lane.keeps());
    }

    #[test]
    fn what_was_refused_with_its_batch_goes_alone_and_first() {
        let lane = Lane::new(false);
        enter_all(&lane, 0..4);
        // The batch of the first three is refused while the fourth one is under way.
        assert!(lane.again(0));
        assert!(!lane.again(1) && !lane.again(2));
        finish(&lane, 3);
        assert_eq!(enter(&lane, 4), Entered::Kept);
        assert_eq!(lane.step(false, true), WAIT);
        assert!(hand_over(&lane, 100).is_empty(), "the fourth one is still under way");
        for record in 0..3 {
            assert!(lane.finish());
            assert_eq!(lane.step(false, true), Step { hand_over: true, ..WAIT });
            assert_eq!(hand_over(&lane, 100), [record]);
            assert!(hand_over(&lane, 100).is_empty());
        }
        finish(&lane, 1);
        lane.step(false, true);
        assert_eq!(hand_over(&lane, 100), [4]);
        finish(&lane, 1);
        assert_eq!(lane.step(false, true), Step::default());
        // Nor does anything that comes later share a batch.
        assert_eq!(enter_all(&lane, 5..7), [Entered::Kept; 2]);
        lane.step(false, true);
        assert_eq!(hand_over(&lane, 100), [5]);
    }

    #[test]
    fn a_refused_record_is_not_kept() {
        let lane: Lane<u32> = Lane::new(true);
        assert_eq!(lane.enter(|| Err("full")), Err("full"));
        assert!(!lane.keeps());
    }
}
