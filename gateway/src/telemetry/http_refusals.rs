//! Requests that never reached a route, by the status of their answer.

use prometheus_client::metrics::{counter::Counter, family::Family};

use super::labels::{HTTP_REFUSALS, StatusLabels};

/// Counts them; clones count together.
#[derive(Clone, Debug)]
pub struct HttpRefusals(Family<StatusLabels, Counter>);

impl HttpRefusals {
    /// Counts one request.
    pub fn count(&self, status: u16) {
        debug_assert!(HTTP_REFUSALS.contains(&status), "{status} is not in labels::HTTP_REFUSALS");
        self.0.get_or_create(&StatusLabels { status }).inc();
    }

    pub(super) fn family(&self) -> Family<StatusLabels, Counter> {
        self.0.clone()
    }
}

impl Default for HttpRefusals {
    fn default() -> Self {
        let family = Family::default();
        for &status in HTTP_REFUSALS {
            drop(family.get_or_create(&StatusLabels { status }));
        }
        Self(family)
    }
}
