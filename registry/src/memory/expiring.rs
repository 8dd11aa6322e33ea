//! A map whose entries end by themselves.
//!
//! Owns when an entry has ended and when it is dropped. Never looks at a clock: it is told.

use std::{collections::HashMap, hash::Hash, time::Duration};

use tokio::time::Instant;

/// A map whose entries end by themselves.
#[derive(Clone, Debug)]
pub(super) struct Expiring<K, V> {
    entries: HashMap<K, Held<V>>,
    /// The number of entries at which the next write drops those that have expired.
    sweep_at: usize,
}

#[derive(Clone, Debug)]
struct Held<V> {
    value: V,
    until: Instant,
}

impl<K, V> Default for Expiring<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), sweep_at: Self::SWEEP_MIN }
    }
}

impl<K, V> Expiring<K, V> {
    /// Below this many entries a sweep is not worth its time.
    const SWEEP_MIN: usize = 64;
}

impl<K: Eq + Hash, V> Expiring<K, V> {
    pub(super) fn get(&self, key: &K, now: Instant) -> Option<&V> {
        self.entries.get(key).filter(|held| held.until > now).map(|held| &held.value)
    }

    pub(super) fn get_mut(&mut self, key: &K, now: Instant) -> Option<&mut V> {
        self.entries.get_mut(key).filter(|held| held.until > now).map(|held| &mut held.value)
    }

    pub(super) fn remove(&mut self, key: &K) {
        self.entries.remove(key);
    }

    /// Lets an entry that has not expired live for `ttl` from now, and gives it.
    pub(super) fn refresh(&mut self, key: &K, now: Instant, ttl: Duration) -> Option<&mut V> {
        let held = self.entries.get_mut(key).filter(|held| held.until > now)?;
        held.until = now + ttl;
        Some(&mut held.value)
    }

    pub(super) fn live(&self, now: Instant) -> impl Iterator<Item = &V> {
        self.entries.values().filter(move |held| held.until > now).map(|held| &held.value)
    }

    /// Sweeps whenever the map has doubled since the last sweep, which costs each write a
    /// constant share of it.
    pub(super) fn insert(&mut self, key: K, value: V, now: Instant, ttl: Duration) {
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|_, held| held.until > now);
            self.sweep_at = (self.entries.len() * 2).max(Self::SWEEP_MIN);
        }
        self.entries.insert(key, Held { value, until: now + ttl });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expired_entries_are_dropped_by_later_writes() {
        let mut map = Expiring::default();
        let start = Instant::now();
        for key in 0..100_000_u32 {
            // Each entry lives as long as ten further writes take.
            let now = start + Duration::from_millis(key.into());
            map.insert(key, (), now, Duration::from_millis(10));
            assert!(map.entries.len() <= Expiring::<u32, ()>::SWEEP_MIN, "{}", map.entries.len());
        }
        assert_eq!(map.live(start + Duration::from_millis(99_999)).count(), 10);
    }
}
