//! The line to one peer: its strays in the order of reading, one batch at a time. Gives none up:
//! what the peer cannot take, or was only guessed to be its own, goes back to be looked up.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use registry::{NodeEntry, NodeRef};
use tokio::{sync::Notify, time::Instant};

use super::{Guide, Stray, lines::Lines};
use crate::{
    peer::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Delivery, PeerError, Verdict},
    relay::window::Hold,
    tasks::locked,
};

/// How long a peer may take for a batch.
const PEER_TIMEOUT: Duration = Duration::from_secs(2);
/// First and last pause between two attempts to reach a peer.
const PEER_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Replies that wait for one peer; more are looked up again later.
const PEER_QUEUE_MAX: usize = 16 * 1024;

/// One peer's queue, in the order of reading.
#[derive(Debug, Default)]
pub(super) struct PeerQueue {
    strays: Mutex<VecDeque<Stray>>,
    wake: Notify,
}

impl PeerQueue {
    /// Queues a stray, or hands it back when the queue is full.
    pub(super) fn push(&self, stray: Stray) -> Option<Stray> {
        let mut strays = locked(&self.strays);
        if strays.len() >= PEER_QUEUE_MAX {
            return Some(stray);
        }
        strays.push_back(stray);
        drop(strays);
        self.wake.notify_one();
        None
    }

    /// Everything that waits.
    pub(super) fn take(&self) -> VecDeque<Stray> {
        std::mem::take(&mut *locked(&self.strays))
    }

    fn next_batch(&self) -> Vec<Stray> {
        let mut strays = locked(&self.strays);
        let mut bytes = 0;
        let fits = |stray: &&Stray| {
            bytes += stray.reply.payload.len();
            bytes <= BATCH_BYTES_MAX
        };
        let count = strays.iter().take(BATCH_RECORDS_MAX).take_while(fits).count();
        let count = count.max(1).min(strays.len());
        strays.drain(..count).collect()
    }
}

/// What stays here of a stray while its reply is with the peer.
struct Kept {
    hold: Hold,
    read_at: Instant,
    guide: Guide,
}

/// The one ordered stream of batches to one run of one peer.
pub(super) struct PeerLine {
    pub(super) node: NodeRef,
    pub(super) queue: Arc<PeerQueue>,
    pub(super) lines: Arc<Lines>,
}

impl PeerLine {
    /// Forwards until the peer is dead.
    pub(super) async fn run(&self) {
        loop {
            let batch = self.queue.next_batch();
            if batch.is_empty() {
                let notified = self.queue.wake.notified();
                if tokio::time::timeout(PEER_TIMEOUT, notified).await.is_err()
                    && self.peer().is_none()
                {
                    return;
                }
                continue;
            }
            if let Err(undelivered) = self.send(batch).await {
                return self.lines.inbox.put(undelivered);
            }
        }
    }

    /// Sends one batch, as often as it takes while the peer lives.
    async fn send(&self, strays: Vec<Stray>) -> Result<(), Vec<Stray>> {
        let (batch, kept): (Vec<Delivery>, Vec<Kept>) = strays.into_iter().map(part).unzip();
        let mut pause = PEER_PAUSE.0;
        while let Some(NodeEntry { url, .. }) = self.peer() {
            match self.lines.link.deliver(&url, &batch, PEER_TIMEOUT).await {
                Ok(verdicts) => {
                    self.settle(batch.into_iter().zip(kept).map(join).zip(verdicts));
                    return Ok(());
                }
                Err(error) => self.failed(&error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PEER_PAUSE.1);
        }
        Err(batch.into_iter().zip(kept).map(join).collect())
    }

    /// The peer, while it lives.
    fn peer(&self) -> Option<NodeEntry> {
        self.lines.membership.find(&self.node)
    }

    fn settle(&self, answered: impl Iterator<Item = (Stray, Verdict)>) {
        let (mut delivered, mut unknown) = (0, 0);
        let mut misled = Vec::new();
        for (mut stray, verdict) in answered {
            match verdict {
                Verdict::Delivered => {
                    delivered += 1;
                    stray.hold.done();
                }
                Verdict::Unknown => {
                    unknown += 1;
                    if stray.guide == Guide::Mark {
                        stray.guide = Guide::Registry { denied_by: Some(self.node.clone()) };
                        misled.push(stray);
                    } else {
                        self.lines.relay.unrouted();
                        stray.hold.done();
                    }
                }
            }
        }
        let (peer, telemetry) = (self.node.id.as_str(), self.lines.relay.telemetry());
        telemetry.forwarded(peer, "delivered", delivered);
        telemetry.forwarded(peer, "unknown", unknown);
        self.lines.inbox.put(misled);
    }

    fn failed(&self, error: &PeerError) {
        self.lines.relay.telemetry().forwarded(self.node.id.as_str(), "failed", 1);
        tracing::debug!(peer = %self.node, %error, "batch not delivered");
    }
}

impl Drop for PeerLine {
    /// However the line ends, also by a panic, what still waits for it is not forgotten.
    fn drop(&mut self) {
        self.lines.ended(&self.node);
    }
}

fn part(stray: Stray) -> (Delivery, Kept) {
    let Stray { request, reply, hold, read_at, read_at_us, guide } = stray;
    (Delivery { request, read_at_us, reply }, Kept { hold, read_at, guide })
}

fn join((delivery, kept): (Delivery, Kept)) -> Stray {
    let Delivery { request, read_at_us, reply } = delivery;
    let Kept { hold, read_at, guide } = kept;
    Stray { request, reply, hold, read_at, read_at_us, guide }
}
