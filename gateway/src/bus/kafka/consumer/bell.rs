//! Wakes the thread of a consumer's watch, and ends it.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Rung by any thread that wants the topic looked at.
#[derive(Debug, Default)]
pub(super) struct Bell {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    has_rung: bool,
    is_over: bool,
}

impl Bell {
    pub(super) fn ring(&self) {
        self.lock().has_rung = true;
        self.changed.notify_one();
    }

    /// Ends the watch. Does not wait for it.
    pub(super) fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_one();
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// Waits at least this long, even if it is rung, but not beyond the end.
    pub(super) fn rest(&self, length: Duration) {
        drop(self.wait(length, |state| !state.is_over));
    }

    /// Waits until it is rung, or until `longest` is over. If it has rung since the last call, it
    /// returns at once. `false`: the watch has to end.
    pub(super) fn heard(&self, longest: Duration) -> bool {
        let mut state = self.wait(longest, |state| !(state.has_rung || state.is_over));
        state.has_rung = false;
        !state.is_over
    }

    fn wait(&self, longest: Duration, waits: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_timeout_while(self.lock(), longest, |state| waits(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOR_EVER: Duration = Duration::MAX;

    #[test]
    fn a_ring_is_heard_once_and_the_end_for_ever() {
        let bell = Bell::default();
        bell.ring();
        bell.ring();
        assert!(bell.heard(FOR_EVER));
        assert!(bell.heard(Duration::ZERO), "the interval is over");
        bell.end();
        bell.rest(FOR_EVER);
        assert!(!bell.heard(FOR_EVER));
        assert!(bell.is_over() && !bell.heard(FOR_EVER));
    }
}
