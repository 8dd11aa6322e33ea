//! Whether the cluster can be reached, and what to do in order to find out. Only decides; the
//! producer's health thread acts.

use std::{
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rdkafka::error::RDKafkaErrorCode;
use tokio::time::Instant;

use super::is_connectivity;

/// How long the brokers have for an answer before they count as unreachable.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// From the beginning of one question, or one new client, to the next; and how long nothing may be
/// acknowledged before there is a question.
const PAUSE: Duration = Duration::from_secs(1);

/// What the health thread has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Ask the brokers, and say [`Health::answered`].
    Ask,
    /// Replace the client, which has failed for good.
    Replace,
}

/// Up once a broker has answered or a record was delivered; down once librdkafka has lost all
/// brokers, or when a question is not answered that followed a failure or a silence.
#[derive(Debug, Default)]
pub(super) struct Health {
    up: AtomicBool,
    /// How many records were acknowledged, ever.
    delivered: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Something failed since the last question, so that "up" has to be checked.
    doubtful: bool,
    /// Somebody wants to know what only the brokers can tell.
    curious: bool,
    /// Whether a broker has ever answered.
    has_met: bool,
    /// When something was last done: there is a pause before the next.
    done: Option<Instant>,
    /// The client has failed for good.
    broken: bool,
    /// How many records were acknowledged when this was looked at last.
    delivered: u64,
    stopping: bool,
}

impl Health {
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// A record was acknowledged.
    pub(super) fn delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        if !self.is_up() {
            self.set_up(true);
        }
    }

    /// A record, or the client as a whole, has failed.
    pub(super) fn failed(&self, code: RDKafkaErrorCode) {
        if code == RDKafkaErrorCode::Fatal {
            self.set_up(false);
            self.change(|state| state.broken = true);
        } else if is_connectivity(code) {
            if code == RDKafkaErrorCode::AllBrokersDown {
                self.set_up(false);
            }
            self.change(|state| state.doubtful = true);
        }
    }

    /// There is something to learn about the cluster, such as a topic's partitions.
    pub(super) fn ask(&self) {
        self.change(|state| state.curious = true);
    }

    /// Takes the outcome of a question.
    pub(super) fn answered(&self, answered: bool) {
        self.change(|state| {
            // A failure after the question may be newer than the answer: then ask again. While brokers
            // are being looked for there are failures all the time, and the first answer counts.
            if !answered || !state.doubtful || !state.has_met {
                self.set_up(answered);
            }
            state.has_met |= answered;
        });
    }

    /// Ends [`Health::next_task`].
    pub(super) fn stop(&self) {
        self.change(|state| state.stopping = true);
    }

    /// Waits for something to do; `None` once stopped. `outstanding`: how many records are waiting
    /// to be acknowledged. A broker that hangs keeps its connections, and librdkafka would notice it
    /// only when the first of them times out.
    pub(super) fn next_task(&self, outstanding: impl Fn() -> usize) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return None;
            }
            if !(state.broken || state.doubtful || state.curious) && self.is_up() {
                let waited = self.changed.wait_timeout(state, PAUSE);
                let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                state = woken;
                let delivered = self.delivered.load(Ordering::Relaxed);
                if timeout.timed_out() {
                    state.doubtful |= outstanding() > 0 && delivered == state.delivered;
                    state.delivered = delivered;
                }
            } else if let Some(rest) = state.rest(Instant::now()) {
                let rested = self.changed.wait_timeout_while(state, rest, |state| !state.stopping);
                state = rested.unwrap_or_else(PoisonError::into_inner).0;
            } else {
                state.done = Some(Instant::now());
                (state.doubtful, state.curious) = (false, false);
                let broken = std::mem::take(&mut state.broken);
                return Some(if broken { Task::Replace } else { Task::Ask });
            }
        }
    }

    fn set_up(&self, up: bool) {
        if self.up.swap(up, Ordering::Relaxed) != up {
            if up {
                tracing::info!("a kafka broker answers");
            } else {
                tracing::warn!("no kafka broker answers");
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How long the next thing has to wait; `None`: it has waited. A question that was not answered has
    /// taken longer, so that the next one is on its way when the brokers come back.
    fn rest(&self, now: Instant) -> Option<Duration> {
        let until = self.done? + PAUSE;
        until.checked_duration_since(now).filter(|rest| !rest.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_reachable_before_an_answer() {
        let health = Health::default();
        assert!(!health.is_up());
        assert_eq!(health.next_task(|| 0), Some(Task::Ask));
        health.answered(true);
        assert!(health.is_up());
    }

    #[test]
    fn a_failed_record_raises_a_question_but_is_no_outage_yet() {
        let health = Health::default();
        health.answered(true);
        health.failed(RDKafkaErrorCode::MessageTimedOut);
        assert!(health.is_up());
        assert_eq!(health.next_task(|| 0), Some(Task::Ask));
        health.answered(false);
        assert!(!health.is_up());
        health.delivered();
        assert!(health.is_up());
    }

    #[test]
    fn a_refused_record_says_nothing_about_the_brokers() {
        let health = Health::default();
        health.answered(true);
        health.failed(RDKafkaErrorCode::MessageSizeTooLarge);
        health.failed(RDKafkaErrorCode::QueueFull);
        assert!(health.is_up());
        health.stop();
        assert_eq!(health.next_task(|| 0), None);
    }

    #[test]
    fn losing_all_brokers_is_an_outage_at_once() {
        let health = Health::default();
        health.answered(true);
        health.failed(RDKafkaErrorCode::AllBrokersDown);
        assert!(!health.is_up());
        assert_eq!(health.next_task(|| 0), Some(Task::Ask));
    }

    #[test]
    fn the_first_answer_counts_whatever_has_failed_before() {
        let health = Health::default();
        assert_eq!(health.next_task(|| 0), Some(Task::Ask));
        health.failed(RDKafkaErrorCode::AllBrokersDown);
        health.answered(true);
        assert!(health.is_up());
        // And then it is looked into.
        assert_eq!(health.next_task(|| 0), Some(Task::Ask));
        health.failed(RDKafkaErrorCode::AllBrokersDown);
        health.answered(true);
        assert!(!health.is_up());
    }

    #[test]
    fn a_question_may_be_asked_for_and_is_no_doubt() {
        let health = Health::default();
        health.answered(true);
        health.ask();
        assert_eq!(health.next_task(|| 0), Some(Task::Ask));
        health.ask();
        health.answered(true);
        assert!(health.is_up());
    }

    #[test]
    fn silence_raises_a_question_while_records_are_waiting() {
        let health = Health::default();
        health.answered(true);
        health.delivered();
        assert_eq!(health.next_task(|| 1), Some(Task::Ask));
        assert!(health.is_up());
    }

    #[test]
    fn only_what_was_quick_is_rested_after() {
        let start = Instant::now();
        let mut state = State::default();
        assert_eq!(state.rest(start), None);
        state.done = Some(start);
        assert_eq!(state.rest(start), Some(PAUSE));
        assert_eq!(state.rest(start + PAUSE / 4), Some(PAUSE * 3 / 4));
        assert_eq!(state.rest(start + PATIENCE), None, "a question that was not answered");
    }

    #[test]
    fn a_client_that_failed_for_good_is_replaced_once() {
        let health = Health::default();
        health.answered(true);
        health.failed(RDKafkaErrorCode::Fatal);
        assert!(!health.is_up());
        assert_eq!(health.next_task(|| 0), Some(Task::Replace));
        health.stop();
        assert_eq!(health.next_task(|| 0), None);
    }
}
