//! How much was forwarded to each peer. Bounds the number of peers in the metrics, because the
//! names of nodes that come and go, as pods do, would otherwise be kept for ever.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::metrics::{counter::Counter, family::Family};
use tokio::time::Instant;

use super::labels::{FORWARDS, ForwardLabels};

/// Peers that have series of their own; what is forwarded to others is counted as `other`.
const PEERS_MAX: usize = 256;
/// How long the series of a peer that is gone stay, so that they are scraped once more.
const GONE_TTL: Duration = Duration::from_secs(10 * 60);
/// The label of peers beyond that number.
const OTHER: &str = "other";

/// The counters of all peers.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    family: Family<ForwardLabels, Counter>,
    /// When each peer was last there.
    seen: Mutex<HashMap<String, Instant>>,
}

impl Forwards {
    /// What is registered.
    pub(super) fn family(&self) -> Family<ForwardLabels, Counter> {
        self.family.clone()
    }

    /// Counts what was forwarded to a peer, or was not.
    pub(super) fn count(&self, peer: &str, result: &'static str, count: u64, now: Instant) {
        debug_assert!(FORWARDS.contains(&result), "{result} is not in labels::FORWARDS");
        let mut seen = self.seen();
        let peer = if self.see(&mut seen, peer, now) { peer } else { OTHER };
        let labels = ForwardLabels { peer: peer.to_owned(), result };
        self.family.get_or_create(&labels).inc_by(count);
    }

    /// Tells which peers are alive `now`. The series of others are dropped after a while.
    pub(super) fn keep<'p>(&self, alive: impl Iterator<Item = &'p str>, now: Instant) {
        let mut seen = self.seen();
        for peer in alive {
            self.see(&mut seen, peer, now);
        }
        seen.retain(|peer, at| {
            let is_kept = now.duration_since(*at) < GONE_TTL;
            if !is_kept {
                for &result in FORWARDS {
                    self.family.remove(&ForwardLabels { peer: peer.clone(), result });
                }
            }
            is_kept
        });
    }

    /// Creates the series of a peer; false if there are too many already.
    fn see(&self, seen: &mut HashMap<String, Instant>, peer: &str, now: Instant) -> bool {
        if let Some(at) = seen.get_mut(peer) {
            *at = now;
            return true;
        }
        if seen.len() >= PEERS_MAX {
            return false;
        }
        seen.insert(peer.to_owned(), now);
        for &result in FORWARDS {
            let labels = ForwardLabels { peer: peer.to_owned(), result };
            drop(self.family.get_or_create(&labels));
        }
        true
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(forwards: &Forwards) -> usize {
        forwards.seen().len()
    }

    fn delivered(forwards: &Forwards, peer: &str) -> Option<u64> {
        let labels = ForwardLabels { peer: peer.to_owned(), result: "delivered" };
        forwards.family.get(&labels).map(|counter| counter.get())
    }

    #[tokio::test(start_paused = true)]
    async fn peers_that_are_gone_are_forgotten_after_a_while() {
        let forwards = Forwards::default();
        forwards.keep(["a", "b"].into_iter(), Instant::now());
        assert_eq!(delivered(&forwards, "a"), Some(0), "from the start");
        forwards.count("a", "delivered", 3, Instant::now());
        forwards.count("b", "delivered", 4, Instant::now());
        tokio::time::advance(GONE_TTL / 2).await;
        forwards.keep(["b"].into_iter(), Instant::now());
        assert_eq!(delivered(&forwards, "a"), Some(3), "scraped once more");
        tokio::time::advance(GONE_TTL / 2).await;
        forwards.keep(["b"].into_iter(), Instant::now());
        assert_eq!((delivered(&forwards, "a"), delivered(&forwards, "b")), (None, Some(4)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_names_do_not_take_a_thousand_series() {
        let forwards = Forwards::default();
        for number in 0..1000 {
            forwards.count(&format!("pod-{number}"), "failed", 1, Instant::now());
        }
        assert_eq!(peers(&forwards), PEERS_MAX);
        let other = ForwardLabels { peer: OTHER.to_owned(), result: "failed" };
        let other = forwards.family.get(&other).map(|counter| counter.get());
        assert_eq!(other, Some(1000 - PEERS_MAX as u64));
    }
}
