//! The strays whose node the registry is to name: newly found ones that no mark helps, those that
//! came back from a peer, and replies whose session has left this node.

use std::sync::Mutex;

use registry::RequestId;
use tokio::{sync::Notify, time::Instant};

use super::{Guide, Stray};
use crate::{
    relay::window::Hold,
    tasks::locked,
    wire::{Frame, Reply},
};

/// Filled by the reader and the lines, emptied by who asks the registry. Bounded by the windows of
/// the partitions that the strays were read from.
#[derive(Debug, Default)]
pub struct Inbox {
    strays: Mutex<Vec<Stray>>,
    wake: Notify,
}

impl Inbox {
    /// Takes strays over. From now on none of them goes anywhere by its mark.
    pub(super) fn put(&self, strays: impl IntoIterator<Item = Stray>) {
        let known = |mut stray: Stray| {
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
    pub(in crate::relay) fn send(&self, request: RequestId, reply: Reply, hold: Option<Hold>) {
        let read_at = Instant::now();
        let guide = Guide::Registry { denied_by: None };
        let (wants, is_early) = (None, false);
        self.put([Stray { request, reply, hold, read_at, guide, wants, is_early }]);
    }

    /// The same for a frame, where it carries a reply. Whatever else a request ended with is said
    /// by whoever holds its session.
    pub(in crate::relay) fn send_after(&self, frame: Frame, hold: Option<Hold>) {
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
    pub(super) fn take(&self) -> Vec<Stray> {
        std::mem::take(&mut *locked(&self.strays))
    }

    /// Waits until something may have come. Cancel safe.
    pub(super) async fn filled(&self) {
        self.wake.notified().await;
    }
}
