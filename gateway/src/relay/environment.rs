//! What a relay takes from outside without asking anybody: the time of day, and random numbers. A
//! simulation replaces both, so that a run can be repeated exactly.

use std::sync::Mutex;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use registry::{Clock, SessionId};

use crate::tasks::locked;

/// The time of day and random numbers: the system's, unless a simulation has given others.
#[derive(Debug, Default)]
pub struct Environment {
    clock: Clock,
    /// Where the bytes of ids come from. Secrets never come from here, because nobody may be able
    /// to repeat them.
    random: Option<Mutex<StdRng>>,
}

impl Environment {
    /// An environment with this clock, in which ids follow from a seed.
    pub fn simulated(clock: Clock, seed: u64) -> Self {
        Self { clock, random: Some(Mutex::new(StdRng::seed_from_u64(seed))) }
    }

    /// Milliseconds since the Unix epoch.
    pub fn unix_ms(&self) -> u64 {
        self.clock.unix_ms()
    }

    /// Random bytes.
    pub(super) fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        match &self.random {
            Some(random) => locked(random).fill_bytes(&mut bytes),
            None => rand::rng().fill_bytes(&mut bytes),
        }
        bytes
    }

    /// Puts things into a random order.
    pub(super) fn shuffle<T>(&self, things: &mut [T]) {
        things.shuffle(&mut StdRng::from_seed(self.bytes()));
    }

    /// A new, random session id.
    pub(super) fn session(&self) -> SessionId {
        match self.random {
            Some(_) => SessionId::from_bytes(self.bytes()),
            None => SessionId::random(),
        }
    }
}
