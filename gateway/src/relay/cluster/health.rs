//! Whether the registry answers, by the word of whoever called it last.

use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by all that call the registry. It counts as reachable until a call has failed.
#[derive(Debug)]
pub struct RegistryHealth {
    reachable: AtomicBool,
}

impl RegistryHealth {
    /// Whether the last call succeeded.
    pub fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    /// Takes note of how a call went.
    pub fn set_reachable(&self, reachable: bool) {
        if self.reachable.swap(reachable, Ordering::Relaxed) != reachable {
            if reachable {
                tracing::info!("registry is reachable again");
            } else {
                tracing::warn!("registry is not reachable; replies that need a look-up wait");
            }
        }
    }
}

impl Default for RegistryHealth {
    fn default() -> Self {
        Self { reachable: AtomicBool::new(true) }
    }
}
