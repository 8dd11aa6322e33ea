//! Whether the registry answers, judged by the latest call of any part of this node.

use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by all parts that call the registry. The registry counts as reachable until a call has
/// failed.
#[derive(Debug)]
pub struct RegistryHealth {
    reachable: AtomicBool,
}

impl RegistryHealth {
    /// Whether the last call succeeded.
    pub fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    /// Records how a call went.
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
