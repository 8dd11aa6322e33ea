//! When lanes are looked after: at once if something has happened, and every few milliseconds while
//! one of them is busy. Otherwise nothing runs.

use std::{
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::tasks::locked;

/// How often lanes are looked at while one of them has more than can be on its way.
const TICK: Duration = Duration::from_millis(10);

/// How often what is kept back is searched for what nobody wants any more, in ticks.
const SWEEP_TICKS: u32 = 100;

/// Wakes whoever looks after the lanes.
#[derive(Debug, Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    woken: Condvar,
    /// The same as in `state`, to be looked at without its lock.
    is_awake: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    is_awake: bool,
    is_busy: bool,
    is_stopping: bool,
    ticked: Option<Instant>,
    ticks: u32,
}

/// One look at the lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// A tick has passed since the last one.
    pub(super) is_tick: bool,
    /// What nobody wants any more is to be dropped.
    pub(super) is_sweep: bool,
}

impl Turns {
    /// Something has happened that lanes have to be looked at for.
    pub(super) fn wake(&self) {
        if !self.is_awake.swap(true, Ordering::AcqRel) {
            locked(&self.state).is_awake = true;
            self.woken.notify_one();
        }
    }

    /// Whether there is to be a turn at the next tick, whatever happens.
    pub(super) fn set_busy(&self, is_busy: bool) {
        locked(&self.state).is_busy = is_busy;
    }

    /// Ends [`Turns::next`].
    pub(super) fn stop(&self) {
        locked(&self.state).is_stopping = true;
        self.woken.notify_one();
    }

    /// Waits until lanes have to be looked at; `None` once stopped.
    pub(super) fn next(&self) -> Option<Turn> {
        let mut state = locked(&self.state);
        while !state.is_stopping && !state.is_awake {
            state = if state.is_busy {
                let waited = self.woken.wait_timeout(state, TICK);
                let (mut state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                state.is_awake |= timeout.timed_out();
                state
            } else {
                self.woken.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
        }
        state.is_awake = false;
        self.is_awake.store(false, Ordering::Release);
        let now = Instant::now();
        let is_tick = state.ticked.is_none_or(|ticked| now >= ticked + TICK);
        if is_tick {
            state.ticked = Some(now);
            state.ticks = state.ticks.wrapping_add(1);
        }
        let is_sweep = is_tick && state.ticks.is_multiple_of(SWEEP_TICKS);
        (!state.is_stopping).then_some(Turn { is_tick, is_sweep })
    }
}
