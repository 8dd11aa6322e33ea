//! Whether the registry answers, judged by the latest call of any part of this node.

use std::sync::atomic::{AtomicBool, Ordering};

use registry::RegistryError;

/// Shared by all parts that call the registry. The registry counts as reachable until a call has
/// failed.
#[derive(Debug)]
pub struct RegistryHealth {
    reachable: AtomicBool,
}

impl RegistryHealth {
    /// Whether anything was answered the last time.
    pub fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    /// Records how a call went. A registry of which a part cannot be reached counts as one that
    /// can: what concerns that part alone is found out by whoever asks for it.
    pub fn heard<T>(&self, answers: &[Result<T, RegistryError>]) {
        let is_answer = |answer: &Result<T, RegistryError>| {
            answer.as_ref().err().is_none_or(RegistryError::is_partial)
        };
        if !answers.is_empty() {
            self.set_reachable(answers.iter().any(is_answer));
        }
    }

    fn set_reachable(&self, reachable: bool) {
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
