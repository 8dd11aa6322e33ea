//! The line to one peer: its strays in the order of reading, one batch at a time. Gives none up:
//! what the peer cannot take, or was only guessed to be its own, goes back to be looked up.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use registry::{NodeEntry, NodeRef, RequestId, SessionId};
use tokio::{sync::Notify, time::Instant};

use crate::{
    peer::{
        BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Delivery, PeerError, PeerLink, Verdict,
        format::delivery_bytes,
    },
    relay::{
        cluster::Membership,
        offsets::OffsetGuard,
        requests::foreign::{ForeignReply, Guide, LookupQueue, Wants},
        services::Services,
    },
    tasks::locked,
    telemetry::{Telemetry, Way},
};

/// How long a peer may take for a batch.
const PEER_TIMEOUT: Duration = Duration::from_secs(2);
/// First and last pause between two attempts to deliver a batch.
const PEER_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(160));
/// How long a peer is left alone that cannot be talked to at all: as long as it takes at least until
/// another one may be there in its place.
const HOPELESS_PAUSE: Duration = Duration::from_secs(2);
/// How often in a row a peer may say in words that are not known what has become of a reply: some
/// seconds long. Then it counts as not there.
const UNREAD_MAX: u8 = 32;
/// How often a peer is asked what has become of what it has kept.
const SETTLE_INTERVAL: Duration = Duration::from_millis(200);
/// Questions in one call.
const SETTLE_MAX: usize = 4096;
/// Replies that wait for one peer; more are looked up again later.
const PEER_QUEUE_MAX: usize = 16 * 1024;

/// One peer's queue, in the order of reading.
#[derive(Debug, Default)]
pub(super) struct PeerQueue {
    strays: Mutex<VecDeque<ForeignReply>>,
    wake: Notify,
}

impl PeerQueue {
    /// Queues a stray, or hands it back when the queue is full.
    pub(super) fn push(&self, stray: ForeignReply) -> Option<ForeignReply> {
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
    pub(super) fn take(&self) -> VecDeque<ForeignReply> {
        std::mem::take(&mut *locked(&self.strays))
    }

    fn next_batch(&self) -> Vec<ForeignReply> {
        let mut strays = locked(&self.strays);
        let mut bytes = 0;
        let fits = |stray: &&ForeignReply| {
            bytes += delivery_bytes(&stray.reply);
            bytes <= BATCH_BYTES_MAX
        };
        let count = strays.iter().take(BATCH_RECORDS_MAX).take_while(fits).count();
        let count = count.max(1).min(strays.len());
        strays.drain(..count).collect()
    }
}

/// What stays here of a stray while its reply is with the peer.
struct Kept {
    hold: Option<OffsetGuard>,
    read_at: Instant,
    guide: Guide,
    wants: Option<Wants>,
    unread: u8,
}

/// Strays that the peer has, and that nobody else would have if it died now. Each comes back here
/// for one of two reasons: it is safe, or the peer is dead.
struct Unacknowledged {
    strays: Vec<(ForeignReply, SessionId)>,
    ask_at: Instant,
}

/// What all senders work with.
#[derive(Debug)]
pub(super) struct Means {
    pub(super) membership: Arc<Membership>,
    pub(super) link: Arc<dyn PeerLink>,
    pub(super) inbox: Arc<LookupQueue>,
    pub(super) services: Arc<Services>,
    pub(super) telemetry: Arc<Telemetry>,
}

/// The one ordered stream of batches to one run of one peer.
pub(super) struct PeerSender {
    node: NodeRef,
    queue: Arc<PeerQueue>,
    means: Arc<Means>,
    /// The log has said that the peer speaks in words that are not known.
    is_said: AtomicBool,
}

impl PeerSender {
    /// One that has sent nothing yet.
    pub(super) fn new(node: NodeRef, queue: Arc<PeerQueue>, means: Arc<Means>) -> Self {
        Self { node, queue, means, is_said: AtomicBool::new(false) }
    }

    /// Forwards until the peer is dead.
    pub(super) async fn run(&self) {
        let mut entrusted = Unacknowledged { strays: Vec::new(), ask_at: Instant::now() };
        let left = self.work(&mut entrusted).await;
        self.means.inbox.put(entrusted.strays.into_iter().map(|(stray, _)| stray));
        self.means.inbox.put(left);
    }

    async fn work(&self, entrusted: &mut Unacknowledged) -> Vec<ForeignReply> {
        loop {
            let is_due = !entrusted.strays.is_empty() && entrusted.ask_at <= Instant::now();
            if is_due && self.ask(entrusted).await.is_err() {
                return Vec::new();
            }
            let batch = self.queue.next_batch();
            if batch.is_empty() {
                let patience = match entrusted.strays.is_empty() {
                    true => PEER_TIMEOUT,
                    false => entrusted.ask_at.saturating_duration_since(Instant::now()),
                };
                let notified = self.queue.wake.notified();
                let is_quiet = tokio::time::timeout(patience, notified).await.is_err();
                if is_quiet && self.peer().is_none() {
                    return Vec::new();
                }
                continue;
            }
            match self.send(batch).await {
                Ok(kept) => {
                    if entrusted.strays.is_empty() {
                        entrusted.ask_at = Instant::now() + SETTLE_INTERVAL;
                    }
                    entrusted.strays.extend(kept);
                }
                Err(undelivered) => return undelivered,
            }
        }
    }

    /// Sends one batch while the peer lives; what the peer has kept. What it does not take in
    /// several attempts is looked up again: its session may have gone elsewhere meanwhile.
    async fn send(
        &self,
        strays: Vec<ForeignReply>,
    ) -> Result<Vec<(ForeignReply, SessionId)>, Vec<ForeignReply>> {
        let (batch, kept): (Vec<Delivery>, Vec<Kept>) = strays.into_iter().map(part).unzip();
        let mut pause = PEER_PAUSE.0;
        while let Some(peer) = self.peer() {
            if pause > PEER_PAUSE.1 {
                self.look_up_again(batch.into_iter().zip(kept).map(join));
                return Ok(Vec::new());
            }
            match self.means.link.deliver(&peer, &batch, PEER_TIMEOUT).await {
                Ok(verdicts) => {
                    let answered = batch.into_iter().zip(kept).map(join).zip(verdicts);
                    return Ok(self.settle(answered, false));
                }
                Err(error) => {
                    self.failed(&error);
                    if !error.may_pass() {
                        self.leave_alone(batch.into_iter().zip(kept).map(join)).await;
                        return Ok(Vec::new());
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(batch.into_iter().zip(kept).map(join).collect())
    }

    /// The peer cannot be talked to: what is for it waits, and then all of it is looked up again, since
    /// some of it may be somebody else's by then.
    async fn leave_alone(&self, strays: impl Iterator<Item = ForeignReply>) {
        let strays: Vec<ForeignReply> = strays.collect();
        tokio::time::sleep(HOPELESS_PAUSE).await;
        self.look_up_again(strays.into_iter().chain(self.queue.take()));
    }

    /// Asks what has become of what the peer has kept; an error when the peer is dead.
    async fn ask(&self, entrusted: &mut Unacknowledged) -> Result<(), ()> {
        let peer = self.peer().ok_or(())?;
        let asked = entrusted.strays.len().min(SETTLE_MAX);
        let of_asked = entrusted.strays[..asked].iter();
        let questions: Vec<(RequestId, SessionId)> =
            of_asked.map(|(stray, session)| (stray.request, *session)).collect();
        match self.means.link.settle(&peer, &questions, PEER_TIMEOUT).await {
            Ok(verdicts) => {
                let rest = entrusted.strays.split_off(asked);
                let asked = std::mem::replace(&mut entrusted.strays, rest);
                let answered = asked.into_iter().map(|(stray, _)| stray).zip(verdicts);
                entrusted.strays.extend(self.settle(answered, true));
            }
            Err(error) => {
                self.failed(&error);
                let strays = std::mem::take(&mut entrusted.strays);
                self.look_up_again(strays.into_iter().map(|(stray, _)| stray));
            }
        }
        entrusted.ask_at = Instant::now() + SETTLE_INTERVAL;
        Ok(())
    }

    fn look_up_again(&self, strays: impl Iterator<Item = ForeignReply>) {
        self.means.inbox.put(strays.map(|stray| ForeignReply { is_early: true, ..stray }));
    }

    /// The peer, while it lives.
    fn peer(&self) -> Option<NodeEntry> {
        self.means.membership.find(&self.node)
    }

    /// Does with each stray what the peer has said of it; those that it has kept come back.
    fn settle(
        &self,
        answered: impl Iterator<Item = (ForeignReply, Verdict)>,
        was_kept: bool,
    ) -> Vec<(ForeignReply, SessionId)> {
        let (mut delivered, mut unknown, mut unread) = (0, 0, 0);
        let (mut kept, mut again) = (Vec::new(), Vec::new());
        for (mut stray, verdict) in answered {
            tracing::trace!(request = %stray.request, peer = %self.node, ?verdict, "peer answered");
            match verdict {
                Verdict::Delivered => {
                    delivered += 1;
                    stray.done();
                }
                Verdict::Kept(session) => kept.push((stray, session)),
                Verdict::Later => again.push(early(stray)),
                Verdict::Unread if stray.unread < UNREAD_MAX => {
                    unread += 1;
                    stray.unread += 1;
                    again.push(early(stray));
                }
                Verdict::Over if was_kept => {
                    delivered += 1;
                    stray.done();
                }
                Verdict::Over => {
                    unknown += 1;
                    self.means.services.reply_went(Way::Unrouted);
                    stray.done();
                }
                Verdict::Unknown | Verdict::Unread => {
                    unknown += 1;
                    stray.unread = 0;
                    // Of a session's the registry knows where it is now; the same node twice is
                    // final.
                    if stray.guide == Guide::Mark || stray.wants.is_some() {
                        stray.guide = Guide::Registry { denied_by: Some(self.node.clone()) };
                        again.push(stray);
                    } else {
                        self.means.services.reply_went(Way::Unrouted);
                        stray.done();
                    }
                }
            }
        }
        let (peer, telemetry) = (self.node.id.as_str(), &self.means.telemetry);
        telemetry.forwarded(peer, "delivered", delivered);
        telemetry.forwarded(peer, "unknown", unknown);
        telemetry.forwarded(peer, "failed", unread);
        if unread > 0 && !self.is_said.swap(true, Ordering::Relaxed) {
            tracing::warn!(peer = %self.node, "the peer answers in words of another version");
        }
        self.means.inbox.put(again);
        kept
    }

    fn failed(&self, error: &PeerError) {
        self.means.telemetry.forwarded(self.node.id.as_str(), "failed", 1);
        tracing::debug!(peer = %self.node, %error, "batch not delivered");
    }
}

/// It waits a little before it is looked up. Not a denial: for the same epoch the holder is to be asked
/// again.
fn early(mut stray: ForeignReply) -> ForeignReply {
    stray.is_early = true;
    if let Some(wants) = &mut stray.wants {
        wants.epoch = None;
    }
    stray
}

fn part(stray: ForeignReply) -> (Delivery, Kept) {
    let ForeignReply { request, reply, hold, read_at, guide, wants, unread, .. } = stray;
    let session = wants.as_ref().map(|wants| wants.session);
    let held_us = held_us(read_at);
    (Delivery { request, session, held_us, reply }, Kept { hold, read_at, guide, wants, unread })
}

fn join((delivery, kept): (Delivery, Kept)) -> ForeignReply {
    let Delivery { request, reply, .. } = delivery;
    let Kept { hold, read_at, guide, wants, unread } = kept;
    let is_early = false;
    ForeignReply { request, reply, hold, read_at, guide, wants, is_early, unread }
}

fn held_us(read_at: Instant) -> u64 {
    u64::try_from(read_at.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{peer::format::write_deliveries, wire::Reply};

    fn stray(headers: Vec<(Box<str>, Bytes)>) -> ForeignReply {
        ForeignReply {
            request: RequestId::from_uuid(uuid::Uuid::now_v7()),
            reply: Reply { headers, ..Reply::default() },
            hold: None,
            read_at: Instant::now(),
            guide: Guide::Mark,
            wants: None,
            is_early: false,
            unread: 0,
        }
    }

    /// How many strays go with each batch, none of which is larger than batches are, but where one
    /// stray is.
    fn batches(strays: usize, headers: &[(Box<str>, Bytes)]) -> Vec<usize> {
        let queue = PeerQueue::default();
        for _ in 0..strays {
            assert!(queue.push(stray(headers.to_vec())).is_none());
        }
        let batches = std::iter::repeat_with(|| {
            let (batch, _): (Vec<Delivery>, Vec<Kept>) =
                queue.next_batch().into_iter().map(part).unzip();
            let bytes = write_deliveries(&batch).len();
            assert!(batch.len() == 1 || bytes <= BATCH_BYTES_MAX, "{bytes} bytes");
            batch.len()
        });
        batches.take_while(|length| *length > 0).collect()
    }

    #[test]
    fn headers_count_as_payloads_do() {
        let large = [("x".into(), Bytes::from(vec![b'1'; BATCH_BYTES_MAX / 2]))];
        assert_eq!(batches(3, &large), [1, 1, 1]);
        // Each header has its own lengths beside its bytes.
        let many = vec![("x".into(), Bytes::from_static(b"1")); BATCH_BYTES_MAX / 12];
        assert_eq!(batches(4, &many), [1, 1, 1, 1]);
        // One that is larger than a batch goes alone, and those that are small go together.
        let larger = [("x".into(), Bytes::from(vec![b'1'; 2 * BATCH_BYTES_MAX]))];
        assert_eq!(batches(2, &larger), [1, 1]);
        assert_eq!(batches(3, &[]), [3]);
        // As many as fit, and not one more.
        let tenth = [("x".into(), Bytes::from(vec![b'1'; BATCH_BYTES_MAX / 10]))];
        assert_eq!(batches(20, &tenth), [9, 9, 2]);
    }
}
