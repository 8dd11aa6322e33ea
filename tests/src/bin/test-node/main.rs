//! The gateway, built together with the scenarios, so that they always start today's build.
//!
//! It can also stand for a later version beside nodes of this one. `TEST_NODE_PLAYS` says how that one
//! writes: `words`, with fields, words and variants that this version passes over; `frames`, also with
//! frames in checkpoints that this version cannot read; `apart`, as a version that has none in common
//! with this one.

use std::process::ExitCode;

use registry::{
    Versions,
    later::{Scribe, play},
};

mod later;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NEXT: Versions = Versions { lowest: 1, highest: 2 };
const APART: Versions = Versions { lowest: 7, highest: 9 };

fn main() -> ExitCode {
    if let Ok(part) = std::env::var("TEST_NODE_PLAYS") {
        let (speaks, scribe): (Versions, Scribe) = match part.as_str() {
            "words" => (NEXT, later::write),
            "frames" => (NEXT, later::write_with_frames),
            "apart" => (APART, later::write),
            other => panic!("no version is called {other:?}"),
        };
        play(speaks, scribe);
    }
    gateway::cli::run()
}
