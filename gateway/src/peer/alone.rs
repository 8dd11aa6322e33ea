//! The peers of a node that is alone, for tests.

use std::{ops::Range, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use registry::{NodeEntry, RequestId, SessionId};

use super::{Delivery, PeerError, PeerLink, Verdict};

/// Reaches no peer.
#[derive(Debug)]
pub(crate) struct Alone;

fn nobody<T>() -> Result<T, PeerError> {
    Err(PeerError::Unreachable("nobody is there".to_owned()))
}

#[async_trait]
impl PeerLink for Alone {
    async fn deliver(
        &self,
        _: &NodeEntry,
        _: &[Delivery],
        _: Duration,
    ) -> Result<Vec<Verdict>, PeerError> {
        nobody()
    }

    async fn settle(
        &self,
        _: &NodeEntry,
        _: &[(RequestId, SessionId)],
        _: Duration,
    ) -> Result<Vec<Verdict>, PeerError> {
        nobody()
    }

    async fn release(
        &self,
        _: &NodeEntry,
        _: SessionId,
        _: Range<u64>,
        _: Duration,
    ) -> Result<Option<Bytes>, PeerError> {
        nobody()
    }
}
