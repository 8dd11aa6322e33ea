//! The line to one peer: its strays in the order of reading, one batch at a time.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use registry::{NodeEntry, NodeRef};
use tokio::sync::Notify;

use super::Stray;
use crate::{
    peer::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Delivery, PeerError, PeerLink, Verdict},
    relay::{Relay, membership::Membership, window::Hold},
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
    pub(super) fn push(&self, stray: Stray) -> Result<(), Stray> {
        let mut strays = locked(&self.strays);
        if strays.len() >= PEER_QUEUE_MAX {
            return Err(stray);
        }
        strays.push_back(stray);
        drop(strays);
        self.wake.notify_one();
        Ok(())
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        locked(&self.strays).is_empty()
    }
}

/// The one ordered stream of batches to one run of one peer.
pub(super) struct PeerLine {
    pub(super) node: NodeRef,
    pub(super) queue: Arc<PeerQueue>,
    pub(super) relay: Arc<Relay>,
    pub(super) membership: Arc<Membership>,
    pub(super) link: Arc<dyn PeerLink>,
}

impl PeerLine {
    /// Forwards until the peer is dead; returns what could not be delivered to it.
    pub(super) async fn run(&self) -> Vec<Stray> {
        loop {
            let batch = self.next_batch();
            if batch.is_empty() {
                let notified = self.queue.wake.notified();
                if tokio::time::timeout(PEER_TIMEOUT, notified).await.is_err()
                    && self.membership.find(&self.node).is_none()
                {
                    return Vec::new();
                }
                continue;
            }
            if let Err(undelivered) = self.send(batch).await {
                return undelivered;
            }
        }
    }

    /// Sends one batch, as often as it takes while the peer lives.
    async fn send(&self, strays: Vec<Stray>) -> Result<(), Vec<Stray>> {
        let (mut batch, mut holds) = (Vec::new(), Vec::new());
        for Stray { request, reply, hold, read_at, read_at_us } in strays {
            batch.push(Delivery { request, read_at_us, reply });
            holds.push((hold, read_at));
        }
        let mut pause = PEER_PAUSE.0;
        while let Some(NodeEntry { url, .. }) = self.membership.find(&self.node) {
            match self.link.deliver(&url, &batch, PEER_TIMEOUT).await {
                Ok(verdicts) => {
                    self.settle(&verdicts, holds.into_iter().map(|(hold, _)| hold));
                    return Ok(());
                }
                Err(error) => self.failed(&error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PEER_PAUSE.1);
        }
        let stray = |(Delivery { request, read_at_us, reply }, (hold, read_at))| Stray {
            request,
            reply,
            hold,
            read_at,
            read_at_us,
        };
        Err(batch.into_iter().zip(holds).map(stray).collect())
    }

    fn settle(&self, verdicts: &[Verdict], holds: impl Iterator<Item = Hold>) {
        let delivered = verdicts.iter().filter(|verdict| **verdict == Verdict::Delivered).count();
        let unknown = verdicts.len() - delivered;
        let (peer, telemetry) = (self.node.id.as_str(), self.relay.telemetry());
        telemetry.forwarded(peer, "delivered", delivered as u64);
        telemetry.forwarded(peer, "unknown", unknown as u64);
        for _ in 0..unknown {
            self.relay.unrouted();
        }
        holds.for_each(Hold::done);
    }

    fn failed(&self, error: &PeerError) {
        self.relay.telemetry().forwarded(self.node.id.as_str(), "failed", 1);
        tracing::debug!(peer = %self.node, %error, "batch not delivered");
    }

    fn next_batch(&self) -> Vec<Stray> {
        let mut strays = locked(&self.queue.strays);
        let mut bytes = 0;
        let fits = |stray: &&Stray| {
            bytes += stray.reply.payload.len();
            bytes <= BATCH_BYTES_MAX
        };
        let count = strays.iter().take(BATCH_RECORDS_MAX).take_while(fits).count();
        let count = count.max(1).min(strays.len());
        strays.drain(..count).collect()
    }

    /// Gives up what could not be delivered, and what is still queued.
    pub(super) fn give_up(&self, undelivered: Vec<Stray>) {
        let queued = std::mem::take(&mut *locked(&self.queue.strays));
        give_up(&self.relay, undelivered.into_iter().chain(queued));
    }
}

/// The node that waited is dead, and its sockets with it.
pub(super) fn give_up(relay: &Relay, strays: impl IntoIterator<Item = Stray>) {
    let mut count = 0;
    for stray in strays {
        count += 1;
        relay.unrouted();
        stray.hold.done();
    }
    relay.telemetry().frames_abandoned("node_lost", count);
}
