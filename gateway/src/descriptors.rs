//! File descriptors: how many this process may have, and who gets them. Clients can use up what is
//! theirs, and no more: what the node itself needs to serve those that it has stays free.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Of how many descriptors one is kept from the clients.
const RESERVED_ONE_OF: usize = 8;
/// The least and the most that is kept from them. A node with one broker and one Redis needs some 60;
/// each further broker 6, each peer 2.
const RESERVED_MIN: usize = 192;
const RESERVED_MAX: usize = 8192;
/// Connections of the internal listener, at most.
const INTERNAL_MAX: usize = 4096;
/// Clients that are told at a time that there is no place for them, at most.
const REFUSALS_MAX: usize = 32;

/// Who gets how many descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Connections of clients.
    pub clients: usize,
    /// Connections of clients that are only refused.
    pub refusals: usize,
    /// Connections of peers, probes and operators. The rest is for Kafka, the registry, links to
    /// peers, and files.
    pub internal: usize,
}

impl Budget {
    /// Out of so many descriptors. A few go to the clients even where the node needs them all: it
    /// would be of no use otherwise.
    pub fn of(descriptors: usize) -> Self {
        let reserve = (descriptors / RESERVED_ONE_OF).clamp(RESERVED_MIN, RESERVED_MAX);
        let reserve = reserve.min(descriptors / 4 * 3);
        Self {
            clients: descriptors - reserve,
            refusals: (reserve / 8).clamp(1, REFUSALS_MAX),
            internal: (reserve / 3).clamp(1, INTERNAL_MAX),
        }
    }

    /// Out of what this process may have, shared by so many nodes.
    pub fn of_process(nodes: usize) -> Self {
        Self::of(limit() / nodes.max(1))
    }
}

/// Raises this process's limit as far as it may go by itself, and says so in the log: the usual
/// soft limit of 1024 is there for programs that use `select`.
pub fn raise() {
    match raised() {
        Ok((before, limit)) => tracing::info!(before, limit, "file descriptors"),
        Err(error) => tracing::warn!(%error, "the limit of file descriptors cannot be raised"),
    }
}

fn raised() -> io::Result<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok((soft, hard))
}

/// How many descriptors this process may have.
fn limit() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_never_get_what_the_node_needs() {
        for (descriptors, clients, internal) in [
            (64, 16, 16),
            (256, 64, 64),
            (1024, 832, 64),
            (65_536, 57_344, 2730),
            (1_048_576, 1_040_384, 2730),
        ] {
            let budget = Budget::of(descriptors);
            assert_eq!((budget.clients, budget.internal), (clients, internal), "{descriptors}");
            let reserve = descriptors - budget.clients;
            assert!(budget.internal + budget.refusals < reserve, "{budget:?}");
        }
        assert!(Budget::of(usize::MAX).clients > 1 << 32);
        assert_eq!(Budget::of(0).clients, 0);
    }

    #[test]
    fn the_limit_goes_up_to_the_hard_one() {
        let (_, hard) = raised().unwrap();
        assert_eq!(limit(), usize::try_from(hard).unwrap_or(usize::MAX));
    }
}
