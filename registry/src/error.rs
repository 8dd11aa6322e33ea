//! What can go wrong with the shared table.

/// A failure of the registry. No call has a partial result: on an error the caller must assume
/// that each write of it may or may not have happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Not reachable, or no answer in time.
    #[error("registry unreachable: {0}")]
    Unreachable(String),
    /// It answered, and with a refusal (out of memory, read-only replica, no permission, …).
    #[error("registry refused: {0}")]
    Refused(String),
    /// Its URL or its key prefix cannot be used. Only connecting says so.
    #[error("registry misconfigured: {0}")]
    Misconfigured(String),
    /// An entry is not what this version writes.
    #[error("registry holds a malformed entry: {0}")]
    Malformed(String),
}

impl RegistryError {
    /// Whether the same call may succeed later without anybody mending anything.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Refused(_))
    }
}
