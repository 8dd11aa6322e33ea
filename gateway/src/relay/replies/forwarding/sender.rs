//! The sender of one peer: sends foreign replies in the order in which they were read, one batch at
//! a time. Drops none: what the peer does not take, or what the node tag only seemed to mean for
//! it, is looked up again.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use registry::{NodeEntry, NodeRef, SessionId};
use tokio::{sync::Notify, time::Instant};

use crate::{
    peer::{
        BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Delivery, PeerError, PeerLink, Unsettled, Verdict,
        format::delivery_bytes,
    },
    relay::{
        cluster::Membership,
        offsets::OffsetGuard,
        requests::foreign::{ForeignReply, Guide, LookupQueue, Wants},
        services::Services,
    },
    tasks::locked,
    telemetry::{ReplyPath, Telemetry},
};

/// How long a peer may take for a batch.
const PEER_TIMEOUT: Duration = Duration::from_secs(2);
/// First and last pause between two attempts to deliver a batch.
const PEER_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(160));
/// How long a peer is left alone that cannot be talked to at all: at least as long as it takes
/// until another node may be in its place.
const HOPELESS_PAUSE: Duration = Duration::from_secs(2);
/// How often in a row the verdict on a reply may be one that this version does not know, which
/// takes some seconds. After that the peer counts as not having it.
const UNREAD_MAX: u8 = 32;
/// How often a peer is asked what has become of what it has kept.
const SETTLE_INTERVAL: Duration = Duration::from_millis(200);
/// How many questions go in one call.
const SETTLE_MAX: usize = 4096;
/// Replies that wait for one peer; more are looked up again later.
const PEER_QUEUE_MAX: usize = 16 * 1024;

/// One peer's queue, in the order of reading.
#[derive(Debug, Default)]
pub(super) struct PeerQueue {
    replies: Mutex<VecDeque<ForeignReply>>,
    wake: Notify,
}

impl PeerQueue {
    /// Queues a foreign reply, or hands it back when the queue is full.
    pub(super) fn push(&self, foreign: ForeignReply) -> Option<ForeignReply> {
        let mut replies = locked(&self.replies);
        if replies.len() >= PEER_QUEUE_MAX {
            return Some(foreign);
        }
        replies.push_back(foreign);
        drop(replies);
        self.wake.notify_one();
        None
    }

    /// Takes out everything that waits.
    pub(super) fn take(&self) -> VecDeque<ForeignReply> {
        std::mem::take(&mut *locked(&self.replies))
    }

    fn next_batch(&self) -> Vec<ForeignReply> {
        let mut replies = locked(&self.replies);
        let mut bytes = 0;
        let fits = |foreign: &&ForeignReply| {
            bytes += delivery_bytes(&foreign.reply);
            bytes <= BATCH_BYTES_MAX
        };
        let count = replies.iter().take(BATCH_RECORDS_MAX).take_while(fits).count();
        let count = count.max(1).min(replies.len());
        replies.drain(..count).collect()
    }
}

/// What stays here of a foreign reply while the peer is asked to take it.
struct Kept {
    guard: Option<OffsetGuard>,
    read_at: Instant,
    guide: Guide,
    wants: Option<Wants>,
    unread: u8,
}

/// Foreign replies that only the peer's memory has. Each is removed here for one of two reasons: it
/// is safe, or the peer is dead.
struct Unacknowledged {
    replies: Vec<(ForeignReply, SessionId)>,
    ask_at: Instant,
}

/// What all senders need.
#[derive(Debug)]
pub(super) struct Means {
    pub(super) membership: Arc<Membership>,
    pub(super) link: Arc<dyn PeerLink>,
    pub(super) lookups: Arc<LookupQueue>,
    pub(super) services: Arc<Services>,
    pub(super) telemetry: Arc<Telemetry>,
}

/// The one ordered stream of batches to one run of one peer.
pub(super) struct PeerSender {
    node: NodeRef,
    queue: Arc<PeerQueue>,
    means: Arc<Means>,
    /// Whether the log says already that the peer's verdicts are of an unknown version.
    is_said: AtomicBool,
}

impl PeerSender {
    /// A sender that has sent nothing yet.
    pub(super) fn new(node: NodeRef, queue: Arc<PeerQueue>, means: Arc<Means>) -> Self {
        Self { node, queue, means, is_said: AtomicBool::new(false) }
    }

    /// Forwards until the peer is dead.
    pub(super) async fn run(&self) {
        let mut entrusted = Unacknowledged { replies: Vec::new(), ask_at: Instant::now() };
        let left = self.work(&mut entrusted).await;
        self.means.lookups.put(entrusted.replies.into_iter().map(|(foreign, _)| foreign));
        self.means.lookups.put(left);
    }

    async fn work(&self, entrusted: &mut Unacknowledged) -> Vec<ForeignReply> {
        loop {
            let is_due = !entrusted.replies.is_empty() && entrusted.ask_at <= Instant::now();
            if is_due && self.ask(entrusted).await.is_err() {
                return Vec::new();
            }
            let batch = self.queue.next_batch();
            if batch.is_empty() {
                let patience = match entrusted.replies.is_empty() {
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
                    if entrusted.replies.is_empty() {
                        entrusted.ask_at = Instant::now() + SETTLE_INTERVAL;
                    }
                    entrusted.replies.extend(kept);
                }
                Err(undelivered) => return undelivered,
            }
        }
    }

    /// Sends one batch while the peer lives, and returns what the peer has kept. What the peer does
    /// not take in several attempts is looked up again, because its session may have gone elsewhere
    /// meanwhile.
    async fn send(
        &self,
        replies: Vec<ForeignReply>,
    ) -> Result<Vec<(ForeignReply, SessionId)>, Vec<ForeignReply>> {
        let (batch, kept): (Vec<Delivery>, Vec<Kept>) = replies.into_iter().map(part).unzip();
        let mut pause = PEER_PAUSE.0;
        while let Some(peer) = self.peer() {
            if pause > PEER_PAUSE.1 {
                self.look_up_again(batch.into_iter().zip(kept).map(join));
                return Ok(Vec::new());
            }
            match self.means.link.deliver(&peer, &batch, PEER_TIMEOUT).await {
                Ok(verdicts) => {
                    let answered = batch.into_iter().zip(kept).map(join).zip(verdicts);
                    return Ok(self.act_on(answered, false));
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

    /// The peer cannot be talked to: its replies wait, and then all of them are looked up again,
    /// because some may be another node's by then.
    async fn leave_alone(&self, replies: impl Iterator<Item = ForeignReply>) {
        let replies: Vec<ForeignReply> = replies.collect();
        tokio::time::sleep(HOPELESS_PAUSE).await;
        self.look_up_again(replies.into_iter().chain(self.queue.take()));
    }

    /// Asks what has become of the replies that the peer has kept; an error if the peer is dead.
    async fn ask(&self, entrusted: &mut Unacknowledged) -> Result<(), ()> {
        let peer = self.peer().ok_or(())?;
        let asked = entrusted.replies.len().min(SETTLE_MAX);
        let of_asked = entrusted.replies[..asked].iter();
        let question = |(foreign, session): &(ForeignReply, SessionId)| Unsettled {
            request: foreign.request,
            session: *session,
            item: foreign.reply.item,
        };
        let questions: Vec<Unsettled> = of_asked.map(question).collect();
        match self.means.link.settle(&peer, &questions, PEER_TIMEOUT).await {
            Ok(verdicts) => {
                let rest = entrusted.replies.split_off(asked);
                let asked = std::mem::replace(&mut entrusted.replies, rest);
                let answered = asked.into_iter().map(|(foreign, _)| foreign).zip(verdicts);
                entrusted.replies.extend(self.act_on(answered, true));
            }
            Err(error) => {
                self.failed(&error);
                let replies = std::mem::take(&mut entrusted.replies);
                self.look_up_again(replies.into_iter().map(|(foreign, _)| foreign));
            }
        }
        entrusted.ask_at = Instant::now() + SETTLE_INTERVAL;
        Ok(())
    }

    fn look_up_again(&self, replies: impl Iterator<Item = ForeignReply>) {
        self.means.lookups.put(replies.map(|foreign| ForeignReply { is_early: true, ..foreign }));
    }

    /// The peer, while it lives.
    fn peer(&self) -> Option<NodeEntry> {
        self.means.membership.find(&self.node)
    }

    /// Acts on the peer's verdict on each reply; returns those that the peer has kept.
    fn act_on(
        &self,
        answered: impl Iterator<Item = (ForeignReply, Verdict)>,
        was_kept: bool,
    ) -> Vec<(ForeignReply, SessionId)> {
        let (mut delivered, mut unknown, mut unread) = (0, 0, 0);
        let (mut kept, mut again) = (Vec::new(), Vec::new());
        for (mut foreign, verdict) in answered {
            tracing::trace!(request = %foreign.request, peer = %self.node, ?verdict, "peer answered");
            match verdict {
                Verdict::Delivered => {
                    delivered += 1;
                    foreign.done();
                }
                Verdict::Kept(session) => kept.push((foreign, session)),
                Verdict::Later => again.push(early(foreign)),
                Verdict::Unread if foreign.unread < UNREAD_MAX => {
                    unread += 1;
                    foreign.unread += 1;
                    again.push(early(foreign));
                }
                Verdict::Over if was_kept => {
                    delivered += 1;
                    foreign.done();
                }
                Verdict::Over => {
                    unknown += 1;
                    self.means.services.count_reply(ReplyPath::Unrouted);
                    foreign.done();
                }
                Verdict::Unknown | Verdict::Unread => {
                    unknown += 1;
                    foreign.unread = 0;
                    // If a session waits for it, the registry knows where that is now. If not, the
                    // registry has to say that it is not expected as a result either, once it is
                    // known that this node has denied it.
                    if !foreign.is_denied_by(&self.node) || foreign.wants.is_some() {
                        foreign.guide = Guide::Registry { denied_by: Some(self.node.clone()) };
                        again.push(foreign);
                    } else {
                        self.means.services.count_reply(ReplyPath::Unrouted);
                        foreign.done();
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
        self.means.lookups.put(again);
        kept
    }

    fn failed(&self, error: &PeerError) {
        self.means.telemetry.forwarded(self.node.id.as_str(), "failed", 1);
        tracing::debug!(peer = %self.node, %error, "batch not delivered");
    }
}

/// Has a reply wait a little before it is looked up. This is no denial: the owner may be asked
/// again for the same epoch.
fn early(mut foreign: ForeignReply) -> ForeignReply {
    foreign.is_early = true;
    if let Some(wants) = &mut foreign.wants {
        wants.epoch = None;
    }
    foreign
}

fn part(foreign: ForeignReply) -> (Delivery, Kept) {
    let ForeignReply { request, reply, guard, read_at, guide, wants, unread, .. } = foreign;
    let session = wants.as_ref().map(|wants| wants.session);
    let held_us = held_us(read_at);
    (Delivery { request, session, held_us, reply }, Kept { guard, read_at, guide, wants, unread })
}

fn join((delivery, kept): (Delivery, Kept)) -> ForeignReply {
    let Delivery { request, reply, .. } = delivery;
    let Kept { guard, read_at, guide, wants, unread } = kept;
    let is_early = false;
    ForeignReply { request, reply, guard, read_at, guide, wants, is_early, unread }
}

fn held_us(read_at: Instant) -> u64 {
    u64::try_from(read_at.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use registry::RequestId;

    use super::*;
    use crate::{peer::format::write_deliveries, wire::Reply};

    fn foreign(headers: Vec<(Box<str>, Bytes)>) -> ForeignReply {
        ForeignReply {
            request: RequestId::from_uuid(uuid::Uuid::now_v7()),
            reply: Reply { headers, ..Reply::default() },
            guard: None,
            read_at: Instant::now(),
            guide: Guide::Tag,
            wants: None,
            is_early: false,
            unread: 0,
        }
    }

    /// How many replies are in each batch. No batch is larger than allowed, unless a single reply
    /// is.
    fn batches(replies: usize, headers: &[(Box<str>, Bytes)]) -> Vec<usize> {
        let queue = PeerQueue::default();
        for _ in 0..replies {
            assert!(queue.push(foreign(headers.to_vec())).is_none());
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
        // Each header takes the bytes of its lengths as well.
        let many = vec![("x".into(), Bytes::from_static(b"1")); BATCH_BYTES_MAX / 12];
        assert_eq!(batches(4, &many), [1, 1, 1, 1]);
        // A reply that is larger than a batch goes alone, and small ones go together.
        let larger = [("x".into(), Bytes::from(vec![b'1'; 2 * BATCH_BYTES_MAX]))];
        assert_eq!(batches(2, &larger), [1, 1]);
        assert_eq!(batches(3, &[]), [3]);
        // As many as fit, and not one more.
        let tenth = [("x".into(), Bytes::from(vec![b'1'; BATCH_BYTES_MAX / 10]))];
        assert_eq!(batches(20, &tenth), [9, 9, 2]);
    }
}
