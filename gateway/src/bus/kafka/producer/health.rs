//! Whether the cluster can be reached, and what is to be done to find out. Decides; the producer's
//! health thread does.

use std::{
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rdkafka::error::RDKafkaErrorCode;

use super::is_connectivity;

/// How long the brokers have for an answer before they count as unreachable.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// From one question, or one new client, to the next.
const PAUSE: Duration = Duration::from_secs(1);

/// What the health thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Ask the brokers, and say [`Health::answered`].
    Ask,
    /// Replace the client, which has failed for good.
    Replace,
}

/// Up once a broker has answered or a record was delivered; down once librdkafka has lost all
/// brokers, or when a question that followed a failure is not answered.
#[derive(Debug, Default)]
pub(super) struct Health {
    up: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Something failed since the last question, so that "up" has to be checked.
    doubtful: bool,
    /// Something was just done: the next thing waits a little.
    rest: bool,
    /// The client will not produce any more.
    broken: bool,
    stopping: bool,
}

impl Health {
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// A record was acknowledged.
    pub(super) fn delivered(&self) {
        // A plain read first: this runs for every record.
        if !self.is_up() {
            self.up.store(true, Ordering::Relaxed);
        }
    }

    /// A record, or the client as a whole, has failed.
    pub(super) fn failed(&self, code: RDKafkaErrorCode) {
        if code == RDKafkaErrorCode::Fatal {
            self.up.store(false, Ordering::Relaxed);
            self.change(|state| state.broken = true);
        } else if is_connectivity(code) {
            if code == RDKafkaErrorCode::AllBrokersDown {
                self.up.store(false, Ordering::Relaxed);
            }
            self.change(|state| state.doubtful = true);
        }
    }

    /// What a question has come to.
    pub(super) fn answered(&self, answered: bool) {
        self.change(|state| {
            // A failure after the question may be newer than the answer: then ask again.
            if !(answered && state.doubtful) {
                self.up.store(answered, Ordering::Relaxed);
            }
        });
    }

    /// Ends [`Health::next_task`].
    pub(super) fn stop(&self) {
        self.change(|state| state.stopping = true);
    }

    /// Waits for something to do; `None` once stopped.
    pub(super) fn next_task(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return None;
            }
            if !(state.broken || state.doubtful) && self.is_up() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else if std::mem::take(&mut state.rest) {
                let rested = self.changed.wait_timeout_while(state, PAUSE, |state| !state.stopping);
                state = rested.unwrap_or_else(PoisonError::into_inner).0;
            } else {
                state.rest = true;
                state.doubtful = false;
                let broken = std::mem::take(&mut state.broken);
                return Some(if broken { Task::Replace } else { Task::Ask });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_reachable_before_an_answer() {
        let health = Health::default();
        assert!(!health.is_up());
        assert_eq!(health.next_task(), Some(Task::Ask));
        health.answered(true);
        assert!(health.is_up());
    }

    #[test]
    fn a_failed_record_raises_a_question_but_is_no_outage_yet() {
        let health = Health::default();
        health.answered(true);
        health.failed(RDKafkaErrorCode::MessageTimedOut);
        assert!(health.is_up());
        assert_eq!(health.next_task(), Some(Task::Ask));
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
        assert_eq!(health.next_task(), None);
    }

    #[test]
    fn losing_all_brokers_is_an_outage_at_once() {
        let health = Health::default();
        health.answered(true);
        health.failed(RDKafkaErrorCode::AllBrokersDown);
        assert!(!health.is_up());
        assert_eq!(health.next_task(), Some(Task::Ask));
    }

    #[test]
    fn a_client_that_failed_for_good_is_replaced_once() {
        let health = Health::default();
        health.answered(true);
        health.failed(RDKafkaErrorCode::Fatal);
        assert!(!health.is_up());
        assert_eq!(health.next_task(), Some(Task::Replace));
        health.stop();
        assert_eq!(health.next_task(), None);
    }
}
