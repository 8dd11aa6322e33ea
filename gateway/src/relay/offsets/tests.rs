//! A window by itself: its committable offset, its limits, and guards that are dropped.

use std::time::Duration;

use proptest::prelude::{any, prop_assert_eq, proptest};

use super::*;

const LIMITS: TrackerLimits =
    TrackerLimits { records_max: 3, bytes_max: 4096, node_bytes_max: 1 << 20 };

/// A guard for a record whose size does not matter.
fn guard(window: &OffsetTracker, offset: i64) -> OffsetGuard {
    window.guard(offset, Record::sized(1))
}

#[test]
fn nothing_read_is_not_committable() {
    assert_eq!(OffsetTracker::default().committable(), None);
}

#[test]
fn a_waiting_record_is_not_committable() {
    let window = OffsetTracker::default();
    window.passed(4);
    assert_eq!(window.committable(), Some(5));
    let waiting = guard(&window, 5);
    window.passed(9);
    assert_eq!(window.committable(), Some(5));
    waiting.done();
    assert_eq!(window.committable(), Some(10));
}

#[test]
fn a_dropped_guard_comes_back_to_be_handled_again() {
    let window = OffsetTracker::default();
    drop(guard(&window, 7));
    window.passed(8);
    assert_eq!(window.committable(), Some(7), "nobody has said that it is handled");
    let (mut again, given_up) = window.take_dropped();
    assert_eq!((again.len(), given_up), (1, 0));
    assert!(
        matches!(&again[0].record().content, Content::Reply { reply, .. } if reply.payload == "x")
    );
    assert!(window.take_dropped().0.is_empty(), "it is handed out once");
    assert_eq!(window.committable(), Some(7));
    again.remove(0).done();
    assert_eq!(window.committable(), Some(9));
}

#[test]
fn a_guard_that_a_panic_drops_comes_back_too() {
    let window = OffsetTracker::default();
    let guarded = guard(&window, 7);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _guarded = guarded;
        panic!("a part of the node has failed");
    }));
    assert!(panicked.is_err());
    assert_eq!(window.take_dropped().0.len(), 1);
}

#[test]
fn a_record_that_is_dropped_each_time_is_given_up_in_the_end() {
    let window = OffsetTracker::default();
    drop(guard(&window, 7));
    for _ in 0..DROPS_MAX {
        let (again, given_up) = window.take_dropped();
        assert_eq!((again.len(), given_up), (1, 0));
        drop(again);
    }
    let (again, given_up) = window.take_dropped();
    assert_eq!((again.len(), given_up, window.committable()), (0, 1, Some(8)));
}

#[test]
fn after_a_revocation_neither_end_of_a_guard_means_anything() {
    let budget = Budget::default();
    let window = OffsetTracker::new(&budget);
    let (done, dropped) = (guard(&window, 1), guard(&window, 2));
    window.close();
    assert!(budget.bytes() > 0, "what waits takes up memory still");
    drop(dropped);
    done.done();
    assert!(window.take_dropped().0.is_empty(), "its next reader has it");
    assert_eq!(budget.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_waiting_record_is_known() {
    let window = OffsetTracker::default();
    assert_eq!(window.waits_since(), None);
    let began = Instant::now();
    let first = guard(&window, 1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let second = guard(&window, 2);
    assert_eq!(window.waits_since(), Some(began));
    first.done();
    assert_eq!(window.waits_since(), Some(began + Duration::from_secs(3)));
    second.done();
    assert_eq!(window.waits_since(), None);
}

#[test]
fn is_full_by_count_and_by_bytes() {
    let window = OffsetTracker::default();
    let mut guards: Vec<OffsetGuard> = (0..3).map(|offset| guard(&window, offset)).collect();
    assert_eq!(window.full(LIMITS, 1), Some("window"));
    // Done, but behind one that waits: it still takes its place.
    guards.remove(1).done();
    assert_eq!(window.full(LIMITS, 1), Some("window"));
    guards.remove(0).done();
    assert_eq!(window.full(LIMITS, 1), None);
    let _big = window.guard(3, Record::sized(4096));
    assert_eq!(window.full(LIMITS, 1), Some("window"));
}

#[test]
fn headers_count_as_payload_does() {
    let window = OffsetTracker::default();
    let mut record = Record::sized(0);
    let Content::Reply { reply, .. } = &mut record.content else { unreachable!() };
    reply.headers.push(("x".into(), vec![b'x'; 4096].into()));
    let _heavy = window.guard(1, record);
    assert_eq!(window.full(LIMITS, 1), Some("window"));
}

#[test]
fn one_that_takes_all_of_the_nodes_bytes_stops_alone() {
    let limits = TrackerLimits { records_max: 1 << 20, bytes_max: 1 << 20, node_bytes_max: 80_000 };
    let budget = Budget::default();
    let windows: Vec<OffsetTracker> = (0..4).map(|_| OffsetTracker::new(&budget)).collect();
    let full = |window: &OffsetTracker| window.full(limits, windows.len()).is_some();
    let mut guards = Vec::new();
    while !full(&windows[0]) {
        guards.push(windows[0].guard(guards.len() as i64, Record::sized(1000)));
    }
    assert!(budget.bytes() >= 40_000, "half of the bytes are for whoever needs them");
    for window in &windows[1..] {
        assert!(!full(window), "the others are read on");
        while !full(window) {
            guards.push(window.guard(guards.len() as i64, Record::sized(1000)));
        }
    }
    let overshoot = windows.len() * (1000 + RECORD_BYTES);
    assert!(budget.bytes() <= limits.node_bytes_max + overshoot, "{}", budget.bytes());
    guards.into_iter().for_each(OffsetGuard::done);
    assert!(!windows.iter().any(full));
    assert_eq!(budget.bytes(), 0);
}

#[test]
fn an_empty_window_is_never_full() {
    let limits = TrackerLimits { node_bytes_max: 2, ..LIMITS };
    let budget = Budget::default();
    let _elsewhere = OffsetTracker::new(&budget).guard(0, Record::sized(1000));
    assert_eq!(OffsetTracker::new(&budget).full(limits, 1000), None);
}

proptest! {
    #[test]
    fn what_is_committable_ends_at_the_first_record_not_done(
        gaps in proptest::collection::vec((1..4_i64, any::<bool>()), 1..64),
        order in any::<u64>(),
    ) {
        let window = OffsetTracker::default();
        let mut guards = Vec::new();
        let mut offset = 0;
        for (gap, waits) in gaps {
            offset += gap;
            if waits {
                guards.push((offset, guard(&window, offset)));
            } else {
                window.passed(offset);
            }
        }
        let mut order = order as usize;
        while !guards.is_empty() {
            let first = guards.iter().map(|(offset, _)| *offset).min();
            prop_assert_eq!(window.committable(), first);
            order = order.rotate_left(7) ^ 0x5bd1;
            let (offset, guarded) = guards.remove(order % guards.len());
            // However a guard ends, its record is done or is handed out again.
            if order & 8 == 0 {
                guarded.done();
            } else {
                drop(guarded);
                guards.extend(window.take_dropped().0.into_iter().map(|guarded| (offset, guarded)));
            }
            if order & 8 != 0 {
                let at = guards.iter().position(|(found, _)| *found == offset);
                guards.remove(at.expect("it was handed out again")).1.done();
            }
        }
        prop_assert_eq!(window.committable(), Some(offset + 1));
    }
}

#[test]
fn a_shared_record_is_handled_when_all_of_it_is() {
    let window = OffsetTracker::default();
    let content = |number| Content::Reply {
        request: RequestId::from_uuid(uuid::Uuid::from_u128(number)),
        reply: Reply::default(),
    };
    let mut shares = guard(&window, 7).share((0..3).map(content).collect());
    window.passed(8);
    assert_eq!((shares.len(), window.fate(7)), (3, Fate::Waits));
    shares.pop().unwrap().done();
    drop(shares.pop());
    shares.pop().unwrap().done();
    assert_eq!((window.committable(), window.fate(7)), (Some(7), Fate::Waits));
    let (mut again, given_up) = window.take_dropped();
    assert_eq!((again.len(), given_up), (1, 0), "each is handled again by itself");
    again.remove(0).done();
    assert_eq!((window.committable(), window.fate(7)), (Some(9), Fate::Handled));
    assert_eq!(guard(&window, 9).share(Vec::new()).len(), 0);
    assert_eq!(window.fate(9), Fate::Handled);
    let waiting = guard(&window, 10);
    window.close();
    assert_eq!(window.fate(10), Fate::Elsewhere);
    waiting.done();
}
