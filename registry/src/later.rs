//! Lets the node of a test write as a later version might. Not in what is shipped, which is built
//! without this feature.

use std::sync::OnceLock;

use crate::versions::Versions;

/// Given the name of what is written, and its bytes: those that a later version writes.
pub type Scribe = fn(&str, Vec<u8>) -> Vec<u8>;

static LATER: OnceLock<(Versions, Scribe)> = OnceLock::new();

/// From now on this process writes so, and says that it speaks these versions.
pub fn play(speaks: Versions, scribe: Scribe) {
    // The first word counts: nobody plays two versions.
    LATER.get_or_init(|| (speaks, scribe));
}

/// What it says that it speaks.
pub fn speaks() -> Option<Versions> {
    LATER.get().map(|(speaks, _)| *speaks)
}

/// What it writes.
pub fn written(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    match LATER.get() {
        Some((_, scribe)) => scribe(name, bytes),
        None => bytes,
    }
}
