//! What a producer's caller, its threads and librdkafka's callbacks have in common.

use std::sync::Arc;

use super::{health::Health, lanes::Lanes, partitioning::Partitioning};
use crate::bus::outstanding::Outstanding;

/// Outlives each single client of librdkafka's.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) health: Arc<Health>,
    pub(super) outstanding: Arc<Outstanding>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) partitioning: Arc<Partitioning>,
}
