//! The checkpoint of a session whose owner is gone.

use std::{collections::HashSet, time::Duration};

use registry::{
    EntryKind, Generation, HeldRequest, Holding, NodeRef, ParkedFrame, Recorded, RegistryError,
    SessionRecord, all,
};
use tokio::time::Instant;

use super::Resumption;
use crate::relay::{
    checkpoints::{
        Snapshot,
        format::{self, Letter, RequestDetail},
    },
    session::{Beginning, Token, Unparked},
};

/// How long it may take until the reply partitions of a dead node have another reader. A request
/// that was in flight there does not end before that: its client may have had its reply already.
const TAKEOVER_TIME: Duration = Duration::from_secs(10);
/// The same, counted from when the node table lost the node, which is hardly before the group
/// notices.
const TAKEOVER_TIME_OF_MISSED: Duration = Duration::from_secs(4);

/// The largest number that a client is believed to have got: the largest whole number that every
/// client can count exactly (RFC 8259, section 6).
const SEQ_MAX: u64 = 1 << 53;

impl Resumption {
    /// Whether the former owner was silent for so long that it counts as dead. If none is named any
    /// more, whoever parked a reply has found it so.
    fn is_missed(&self, node: Option<&NodeRef>) -> bool {
        !self.membership.is_incomplete()
            && node.is_none_or(|node| self.membership.find(node).is_none())
    }

    /// Writes that this node has the session from now on, before it goes on with its copy: so
    /// whoever has an earlier state of it in their memory finds out, whatever becomes of the claims
    /// until then. False when another node has claimed it meanwhile.
    pub(super) async fn takes_the_copy(
        &self,
        is_reliable: bool,
        generation: Option<Generation>,
        beginning: &Beginning,
    ) -> Result<bool, RegistryError> {
        let record = SessionRecord {
            session: beginning.token.session(),
            epoch: beginning.epoch,
            node: self.node.clone(),
            user: None,
            reliable: is_reliable,
            attached: true,
            token: beginning.token.hash(),
            former_token: beginning.former_token.as_ref().map(Token::hash),
            generation,
        };
        let started = Instant::now();
        let recorded = self.registry.record(&[record], self.checkpoints.ttl()).await;
        self.telemetry.registry_call("record", started.elapsed());
        Ok(!all(recorded)?.contains(&Recorded::Superseded))
    }

    /// A session whose owner is gone, as its checkpoint has it. If the session's client acknowledges
    /// nothing and was connected until then, nobody knows what was on the wire.
    pub(super) fn snapshot_of(&self, holding: Holding, last_seq: u64) -> Option<Snapshot> {
        let former = &holding.former;
        // No client has ever been sent so many frames; numbers beyond that would run out.
        if last_seq > SEQ_MAX {
            return None;
        }
        if former.overflowed || (former.attached && !former.reliable) {
            return None;
        }
        // A session whose client acknowledges nothing keeps as much as it can, and has parked all
        // of it.
        let first = holding.mailbox.iter().map(|parked| parked.seq).find(|seq| *seq > 0);
        if !former.reliable && first.is_some_and(|first| first > last_seq.saturating_add(1)) {
            return None;
        }
        // What cannot be read is somebody's request or answer: without it the session cannot go on.
        let unreadable = |kind| self.telemetry.registry_unreadable(kind, 1);
        let request = |held: HeldRequest| {
            let detail = format::decode::<RequestDetail>(&held.detail);
            if detail.is_none() {
                unreadable(EntryKind::Request);
            }
            Some((held.request, detail?.later(held.age), held.progress))
        };
        let mut requests: Vec<_> =
            holding.requests.into_iter().map(request).collect::<Option<_>>()?;
        // The reply may be in the log already, for whoever reads the dead node's partitions next.
        let takeover = match self.is_missed(former.node.as_ref()) {
            true => TAKEOVER_TIME_OF_MISSED,
            false => TAKEOVER_TIME,
        };
        for (_, detail, _) in &mut requests {
            detail.left_ms = detail.left_ms.max(format::millis(takeover));
        }
        // One that was parked by two writes of its owner is there twice.
        let mut numbers = HashSet::new();
        let is_first = |parked: &ParkedFrame| parked.seq == 0 || numbers.insert(parked.seq);
        let (mut frames, mut replies) = (Vec::new(), Vec::new());
        for ParkedFrame { seq, request, frame } in holding.mailbox.into_iter().filter(is_first) {
            match format::decode(&frame) {
                Some(Letter::Frame(frame)) => frames.push(Unparked { seq, request, frame }),
                Some(Letter::Reply(request, reply)) => replies.push((request, reply)),
                None => {
                    unreadable(EntryKind::Frame);
                    return None;
                }
            }
        }
        Some(Snapshot { frames, requests, replies })
    }
}
