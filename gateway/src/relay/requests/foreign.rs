//! Foreign replies whose node the registry has to name: new ones whose node tag names no live peer,
//! those that a peer has given back, and those whose session has left this node.

use std::sync::Mutex;

use registry::{NodeRef, RequestId, SessionId};
use tokio::{sync::Notify, time::Instant};

use crate::{
    relay::offsets::OffsetGuard,
    tasks::locked,
    wire::{Frame, Reply},
};

/// A reply that nobody on this node waits for.
#[derive(Debug)]
pub struct ForeignReply {
    /// The request that it answers.
    pub request: RequestId,
    /// The reply itself, with every header that may concern a client.
    pub reply: Reply,
    /// Keeps its offset from being committed, if this node has read it.
    pub guard: Option<OffsetGuard>,
    /// When this node read it.
    pub read_at: Instant,
    /// What names the node that waits for it.
    pub guide: Guide,
    /// The session that waits for it, once its route has said so.
    pub wants: Option<Wants>,
    /// Whether its session had not arrived yet at the node that was asked: it is not sent again at
    /// once.
    pub is_early: bool,
    /// How often in a row a peer's verdict was one that this version does not know. The pause
    /// before the next attempt grows with it.
    pub unread: u8,
}

/// What a route says about the request of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wants {
    /// The session.
    pub session: SessionId,
    /// The client's id of the request, as JSON text.
    pub client_id: Box<str>,
    /// Whether a reply that says nothing about it may be one of several: its service numbers none.
    pub may_be_part: bool,
    /// For which epoch of the session the reply was last sent to its owner.
    pub epoch: Option<u64>,
}

/// What names the node that waits for a foreign reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Guide {
    /// The node tag in the request's id, which nobody has confirmed.
    #[default]
    Tag,
    /// The registry.
    Registry {
        /// The peer that has said that nobody waits for the reply there.
        denied_by: Option<NodeRef>,
    },
}

/// The look-up queue: filled by the reader and the peer senders, emptied by the task that asks the
/// registry. Bounded by the windows of the partitions from which the replies were read.
#[derive(Debug, Default)]
pub struct LookupQueue {
    replies: Mutex<Vec<ForeignReply>>,
    wake: Notify,
}

impl LookupQueue {
    /// Queues foreign replies. From now on the registry names their node, no longer the tag.
    pub(in crate::relay) fn put(&self, replies: impl IntoIterator<Item = ForeignReply>) {
        let known = |mut foreign: ForeignReply| {
            if foreign.guide == Guide::Tag {
                foreign.guide = Guide::Registry { denied_by: None };
            }
            foreign
        };
        let mut waiting = locked(&self.replies);
        waiting.extend(replies.into_iter().map(known));
        let is_filled = !waiting.is_empty();
        drop(waiting);
        if is_filled {
            self.wake.notify_one();
        }
    }

    /// Queues the reply to a request that waits on another node by now.
    pub(in crate::relay) fn send(
        &self,
        request: RequestId,
        reply: Reply,
        guard: Option<OffsetGuard>,
    ) {
        let read_at = Instant::now();
        let guide = Guide::Registry { denied_by: None };
        let (wants, is_early, unread) = (None, false, 0);
        self.put([ForeignReply { request, reply, guard, read_at, guide, wants, is_early, unread }]);
    }

    /// Does the same for a frame, if it carries a reply. Any other end of a request is told by the
    /// owner of its session.
    pub(in crate::relay) fn send_after(&self, frame: Frame, guard: Option<OffsetGuard>) {
        match frame {
            Frame::Part { request, reply, .. }
            | Frame::Response { request, reply, .. }
            | Frame::Error { request: Some(request), reply: Some(reply), .. } => {
                self.send(request, reply, guard);
            }
            _ => {
                if let Some(guard) = guard {
                    guard.done();
                }
            }
        }
    }

    /// Takes out everything that has come since the last call.
    pub(in crate::relay) fn take(&self) -> Vec<ForeignReply> {
        std::mem::take(&mut *locked(&self.replies))
    }

    /// Waits until the queue may have something in it. Cancel safe.
    pub(in crate::relay) async fn filled(&self) {
        self.wake.notified().await;
    }
}

impl ForeignReply {
    /// The reply is handled: its offset may be committed.
    pub(in crate::relay) fn done(self) {
        if let Some(guard) = self.guard {
            guard.done();
        }
    }

    pub(in crate::relay) fn is_denied_by(&self, node: &NodeRef) -> bool {
        matches!(&self.guide, Guide::Registry { denied_by: Some(peer) } if peer == node)
    }
}
