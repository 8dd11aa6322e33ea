//! How far a partition has been handled: the offset below which every record is done with.
//!
//! Records that must wait (for a look-up, for another node) hold the mark back; all others only
//! move it. The window of waiting records is bounded; whoever reads pauses a full partition.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use crate::tasks::locked;

/// The handled part of one partition, for one assignment of it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Window {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// One past the last record read.
    read: Option<i64>,
    /// Records that wait, by rising offset; those done behind a waiting one are still listed.
    open: VecDeque<Open>,
    waiting: usize,
    waiting_bytes: usize,
}

#[derive(Debug)]
struct Open {
    offset: i64,
    bytes: usize,
    done: bool,
}

/// What a window may hold.
#[derive(Clone, Copy, Debug)]
pub struct WindowLimits {
    /// Waiting records.
    pub records_max: usize,
    /// Bytes of waiting records.
    pub bytes_max: usize,
}

impl Window {
    /// A window in which nothing has been read.
    pub fn new() -> Self {
        Self { state: Arc::default() }
    }

    /// A record was read and needs nothing more.
    pub fn passed(&self, offset: i64) {
        locked(&self.state).read = Some(offset + 1);
    }

    /// A record was read and waits: the mark stays below it until [`Hold::done`].
    pub fn hold(&self, offset: i64, bytes: usize) -> Hold {
        let mut state = locked(&self.state);
        state.read = Some(offset + 1);
        state.open.push_back(Open { offset, bytes, done: false });
        state.waiting += 1;
        state.waiting_bytes += bytes;
        Hold { window: self.clone(), offset }
    }

    /// The offset below which everything is done with; `None` before the first record.
    pub fn mark(&self) -> Option<i64> {
        let state = locked(&self.state);
        state.open.front().map(|open| open.offset).or(state.read)
    }

    /// Whether no more may be read for now.
    pub fn is_full(&self, limits: WindowLimits) -> bool {
        let state = locked(&self.state);
        state.open.len() >= limits.records_max || state.waiting_bytes >= limits.bytes_max
    }
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

/// One waiting record. Dropped without [`Hold::done`] it holds the mark back for good, so that the
/// record is read again by the partition's next owner.
#[derive(Debug)]
#[must_use]
pub struct Hold {
    window: Window,
    offset: i64,
}

impl Hold {
    /// The record has been handled.
    pub fn done(self) {
        let mut state = locked(&self.window.state);
        let Ok(at) = state.open.binary_search_by_key(&self.offset, |open| open.offset) else {
            return;
        };
        state.open[at].done = true;
        state.waiting -= 1;
        state.waiting_bytes -= state.open[at].bytes;
        while state.open.front().is_some_and(|open| open.done) {
            state.open.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    const LIMITS: WindowLimits = WindowLimits { records_max: 3, bytes_max: 100 };

    #[test]
    fn nothing_read_has_no_mark() {
        assert_eq!(Window::new().mark(), None);
    }

    #[test]
    fn a_waiting_record_holds_the_mark_back() {
        let window = Window::new();
        window.passed(4);
        assert_eq!(window.mark(), Some(5));
        let waiting = window.hold(5, 1);
        window.passed(9);
        assert_eq!(window.mark(), Some(5));
        waiting.done();
        assert_eq!(window.mark(), Some(10));
    }

    #[test]
    fn a_dropped_hold_is_never_passed() {
        let window = Window::new();
        drop(window.hold(7, 1));
        window.passed(8);
        assert_eq!(window.mark(), Some(7));
    }

    #[test]
    fn is_full_by_count_and_by_bytes() {
        let window = Window::new();
        let mut holds: Vec<Hold> = (0..3).map(|offset| window.hold(offset, 1)).collect();
        assert!(window.is_full(LIMITS));
        // Done, but behind one that waits: it still takes its place.
        holds.remove(1).done();
        assert!(window.is_full(LIMITS));
        holds.remove(0).done();
        assert!(!window.is_full(LIMITS));
        let _big = window.hold(3, 100);
        assert!(window.is_full(LIMITS));
    }

    proptest! {
        #[test]
        fn the_mark_is_the_first_record_not_done(
            gaps in proptest::collection::vec((1..4_i64, any::<bool>()), 1..64),
            order in any::<u64>(),
        ) {
            let window = Window::new();
            let mut holds = Vec::new();
            let mut offset = 0;
            for (gap, waits) in gaps {
                offset += gap;
                if waits {
                    holds.push((offset, window.hold(offset, 1)));
                } else {
                    window.passed(offset);
                }
            }
            let mut order = order as usize;
            while !holds.is_empty() {
                let first = holds.iter().map(|(offset, _)| *offset).min();
                prop_assert_eq!(window.mark(), first);
                order = order.rotate_left(7) ^ 0x5bd1;
                holds.remove(order % holds.len()).1.done();
            }
            prop_assert_eq!(window.mark(), Some(offset + 1));
        }
    }
}
