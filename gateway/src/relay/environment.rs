//! What a relay takes from the world without asking anybody: the time of day, and chance. Both can be
//! replaced, so that what has happened to simulated nodes happens again.

use std::sync::Mutex;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use registry::{Clock, SessionId};

use crate::tasks::locked;

/// Time and chance: the world's, unless told otherwise.
#[derive(Debug, Default)]
pub struct Environment {
    clock: Clock,
    /// What ids are made of. Secrets are not: they are never anybody's to repeat.
    random: Option<Mutex<StdRng>>,
}

impl Environment {
    /// A world that goes by this clock, and in which ids follow from a seed.
    pub fn simulated(clock: Clock, seed: u64) -> Self {
        Self { clock, random: Some(Mutex::new(StdRng::seed_from_u64(seed))) }
    }

    /// Milliseconds since the Unix epoch.
    pub fn unix_ms(&self) -> u64 {
        self.clock.unix_ms()
    }

    /// Bytes that nobody expects.
    pub(super) fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        match &self.random {
            Some(random) => locked(random).fill_bytes(&mut bytes),
            None => rand::rng().fill_bytes(&mut bytes),
        }
        bytes
    }

    /// Puts things into an order that nobody expects.
    pub(super) fn shuffle<T>(&self, things: &mut [T]) {
        things.shuffle(&mut StdRng::from_seed(self.bytes()));
    }

    /// A session that nobody else has.
    pub(super) fn session(&self) -> SessionId {
        match self.random {
            Some(_) => SessionId::from_bytes(self.bytes()),
            None => SessionId::random(),
        }
    }
}
