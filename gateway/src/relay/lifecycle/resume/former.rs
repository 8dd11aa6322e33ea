//! What the former owners of a session hand over to the node that has claimed it.

use std::ops::Range;

use registry::{Holding, NodeEntry, NodeRef, SessionId};

use super::{RELEASE_TIMEOUT, Resumption};
use crate::relay::{checkpoints::format, lifecycle::answer::Answer};

/// What became of a session's former owner.
pub(super) enum Former {
    /// It has answered.
    Answered(Answer),
    /// It is dead, or does not answer, or not in words of this version: the copy has to do.
    Gone,
}

/// For which epochs a session may have been held to be handed over. Whoever has held it before has
/// less of it than was written since.
pub(super) fn epochs_of(holding: &Holding) -> Range<u64> {
    holding.written.epoch..holding.epoch
}

impl Resumption {
    /// What its former owner hands over. The one that has claimed it last may never have heard of
    /// that; then it is the one that has written it last.
    pub(super) async fn released(&self, id: SessionId, holding: &Holding) -> Former {
        let epochs = epochs_of(holding);
        let (claimer, writer) = (holding.former.node.as_ref(), holding.written.node.as_ref());
        let another = writer.filter(|writer| claimer != Some(*writer));
        for node in claimer.into_iter().chain(another) {
            let answer = self.released_by(node, id, &epochs).await;
            if matches!(answer, Former::Answered(_)) {
                return answer;
            }
        }
        Former::Gone
    }

    async fn released_by(&self, node: &NodeRef, id: SessionId, epochs: &Range<u64>) -> Former {
        if *node == self.node {
            // It may have taken such a claim for another node's, and be waiting to be asked.
            let left = self.leaving.leave(id, epochs).await;
            return left.map_or(Former::Gone, Former::Answered);
        }
        let Some(peer) = self.find(node).await else { return Former::Gone };
        match self.link.release(&peer, id, epochs.clone(), RELEASE_TIMEOUT).await {
            Ok(Some(answer)) => format::decode(&answer).map_or_else(
                || {
                    tracing::warn!(session = %id, peer = %node, "handed over in unknown words");
                    Former::Gone
                },
                Former::Answered,
            ),
            // It has nothing that counts.
            Ok(None) => Former::Gone,
            Err(error) => {
                tracing::debug!(session = %id, peer = %node, %error, "not handed over");
                Former::Gone
            }
        }
    }

    async fn find(&self, node: &NodeRef) -> Option<NodeEntry> {
        if self.membership.find(node).is_none()
            && let Err(error) = self.membership.refresh().await
        {
            tracing::debug!(%error, "node table not read");
        }
        self.membership.find(node)
    }
}
