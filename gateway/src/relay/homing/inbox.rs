//! The strays whose node the registry is to name: newly found ones that no mark helps, and those
//! that came back from a peer.

use std::sync::Mutex;

use tokio::sync::Notify;

use super::{Guide, Stray};
use crate::tasks::locked;

/// Filled by the reader and the lines, emptied by who asks the registry. Bounded by the windows of
/// the partitions that the strays were read from.
#[derive(Debug, Default)]
pub(super) struct Inbox {
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
        locked(&self.strays).extend(strays.into_iter().map(known));
        self.wake.notify_one();
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
