//! The peers of a node in tests.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use registry::{Claim, MemoryRegistry, NodeEntry, SessionId, SessionTable};

use crate::{
    peer::{Delivery, PeerError, PeerLink, Unsettled, Verdict},
    relay::Relay,
    tasks::locked,
};

/// Nobody, until a test wakes some. Those who are awake hand sessions over, which is all that they do.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    /// By their URLs.
    awake: Mutex<HashMap<String, Arc<Relay>>>,
    /// Carried out while one that sleeps is asked.
    meanwhile: Mutex<Option<(Arc<MemoryRegistry>, Claim)>>,
}

impl Peers {
    /// This node answers from now on.
    pub(crate) fn wake(&self, url: &str, node: &Arc<Relay>) {
        locked(&self.awake).insert(url.to_owned(), Arc::clone(node));
    }

    /// The node with this URL does not answer any more.
    pub(crate) fn sleep(&self, url: &str) {
        locked(&self.awake).remove(url);
    }

    /// The next time that a node is asked which sleeps, this claim is carried out before its silence is
    /// noticed.
    pub(crate) fn claim_meanwhile(&self, registry: &Arc<MemoryRegistry>, claim: Claim) {
        *locked(&self.meanwhile) = Some((Arc::clone(registry), claim));
    }
}

fn nobody<T>() -> Result<T, PeerError> {
    Err(PeerError::Unreachable("nobody answers".to_owned()))
}

#[async_trait]
impl PeerLink for Peers {
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
        _: &[Unsettled],
        _: Duration,
    ) -> Result<Vec<Verdict>, PeerError> {
        nobody()
    }

    async fn release(
        &self,
        peer: &NodeEntry,
        session: SessionId,
        epochs: Range<u64>,
        _: Duration,
    ) -> Result<Option<Bytes>, PeerError> {
        let node = locked(&self.awake).get(&peer.url).cloned();
        if let Some(node) = node {
            return Ok(node.leaving.release(session, epochs).await);
        }
        let claim = locked(&self.meanwhile).take();
        if let Some((registry, claim)) = claim {
            registry.claim(&claim).await.unwrap();
        }
        nobody()
    }
}
