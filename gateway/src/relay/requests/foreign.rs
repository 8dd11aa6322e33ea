//! The strays whose node the registry is to name: newly found ones that no mark helps, those that
//! came back from a peer, and replies whose session has left this node.

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
    /// Whose it is.
    pub request: RequestId,
    /// What it says, with every header that may concern a client.
    pub reply: Reply,
    /// Keeps its offset from being stored, where this node has read it.
    pub hold: Option<OffsetGuard>,
    /// When it was read.
    pub read_at: Instant,
    /// Who says where it belongs.
    pub guide: Guide,
    /// Which session wants it, once its route has said so.
    pub wants: Option<Wants>,
    /// Whether its session was still on its way when it came there: it has to wait a little.
    pub is_early: bool,
    /// How often in a row a peer has not said in words of this version what became of it: the more
    /// often, the longer it waits.
    pub unread: u8,
}

/// What a route says of a session's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wants {
    /// The session.
    pub session: SessionId,
    /// Its client's id of the request, as JSON text.
    pub client_id: Box<str>,
    /// For which epoch of the session the stray was last sent to its holder.
    pub epoch: Option<u64>,
}

/// Who says to which node a stray belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Guide {
    /// The mark in its id, on nobody's word.
    #[default]
    Mark,
    /// The registry.
    Registry {
        /// The peer that has said that nobody waits for it there.
        denied_by: Option<NodeRef>,
    },
}

/// Filled by the reader and the lines, emptied by who asks the registry. Bounded by the windows of
/// the partitions that the strays were read from.
#[derive(Debug, Default)]
pub struct LookupQueue {
    strays: Mutex<Vec<ForeignReply>>,
    wake: Notify,
}

impl LookupQueue {
    /// Takes strays over. From now on none of them goes anywhere by its mark.
    pub(in crate::relay) fn put(&self, strays: impl IntoIterator<Item = ForeignReply>) {
        let known = |mut stray: ForeignReply| {
            if stray.guide == Guide::Mark {
                stray.guide = Guide::Registry { denied_by: None };
            }
            stray
        };
        let mut waiting = locked(&self.strays);
        waiting.extend(strays.into_iter().map(known));
        let is_filled = !waiting.is_empty();
        drop(waiting);
        if is_filled {
            self.wake.notify_one();
        }
    }

    /// Takes the reply of a request over that waits elsewhere by now.
    pub(in crate::relay) fn send(
        &self,
        request: RequestId,
        reply: Reply,
        hold: Option<OffsetGuard>,
    ) {
        let read_at = Instant::now();
        let guide = Guide::Registry { denied_by: None };
        let (wants, is_early, unread) = (None, false, 0);
        self.put([ForeignReply { request, reply, hold, read_at, guide, wants, is_early, unread }]);
    }

    /// The same for a frame, where it carries a reply. Whatever else a request ended with is said
    /// by whoever holds its session.
    pub(in crate::relay) fn send_after(&self, frame: Frame, hold: Option<OffsetGuard>) {
        match frame {
            Frame::Response { request, reply, .. }
            | Frame::Error { request: Some(request), reply: Some(reply), .. } => {
                self.send(request, reply, hold);
            }
            _ => {
                if let Some(hold) = hold {
                    hold.done();
                }
            }
        }
    }

    /// Everything that came since the last time.
    pub(in crate::relay) fn take(&self) -> Vec<ForeignReply> {
        std::mem::take(&mut *locked(&self.strays))
    }

    /// Waits until something may have come. Cancel safe.
    pub(in crate::relay) async fn filled(&self) {
        self.wake.notified().await;
    }
}

impl ForeignReply {
    /// It needs nothing more: its offset may be stored.
    pub(in crate::relay) fn done(self) {
        if let Some(hold) = self.hold {
            hold.done();
        }
    }

    pub(in crate::relay) fn is_denied_by(&self, node: &NodeRef) -> bool {
        matches!(&self.guide, Guide::Registry { denied_by: Some(peer) } if peer == node)
    }
}
