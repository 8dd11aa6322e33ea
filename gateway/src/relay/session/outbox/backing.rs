//! Which of a session's frames have to be in its mailbox, and are.

use registry::RequestId;
use tokio::time::Instant;

use super::{super::terms::Unparked, Backing, Outbox, Owed};
use crate::{
    relay::offsets::OffsetGuard,
    wire::{Frame, Item},
};

impl Outbox {
    /// The frames that the mailbox should have and does not: all of them, or those that are, or end,
    /// an answer and have waited since `before`. They count as being written from now on.
    pub(in crate::relay::session) fn unparked(
        &mut self,
        is_away: bool,
        before: Instant,
    ) -> Vec<Unparked> {
        self.park(|owed| {
            let is_due = is_away || (owed.since <= before && owed.is_of_an_answer());
            is_due && owed.backing == Backing::None
        })
    }

    /// The frames for a mailbox that is written anew: all of them, or those that it had.
    pub(in crate::relay::session) fn mailbox(&mut self, is_away: bool) -> Vec<Unparked> {
        self.park(|owed| is_away || owed.backing != Backing::None)
    }

    fn park(&mut self, is_due: impl Fn(&Owed) -> bool) -> Vec<Unparked> {
        let due = self.owed.iter_mut().filter(|owed| owed.seq > 0 && is_due(owed));
        due.map(|owed| {
            owed.backing = Backing::OnItsWay;
            owed.copy()
        })
        .collect()
    }

    /// The mailbox has these frames: their replies are safe.
    pub(in crate::relay::session) fn parked(&mut self, seqs: &[u64]) {
        for owed in self.owed.iter_mut().filter(|owed| seqs.binary_search(&owed.seq).is_ok()) {
            owed.backing = Backing::Parked;
            owed.guard.take().into_iter().for_each(OffsetGuard::done);
        }
    }

    /// Whether this record's frame, or the end of the request if nobody knows which record is meant,
    /// is owed, and is not known to be in the mailbox.
    pub(in crate::relay::session) fn is_only_here(&self, request: RequestId, item: &Item) -> bool {
        let is_it = |owed: &Owed| match (&owed.frame, item.source) {
            (Frame::Part { request: of, reply, .. }, Some(source)) => {
                *of == request && reply.item.source == Some(source)
            }
            (frame, Some(source)) if frame.ends() == Some(request) => {
                let known = frame.reply().and_then(|reply| reply.item.source);
                known.is_none_or(|known| known == source)
            }
            (frame, _) => frame.ends() == Some(request),
        };
        self.owed.iter().any(|owed| owed.backing != Backing::Parked && is_it(owed))
    }

    /// Whether a reply is owed whose offset must not be committed yet.
    pub(in crate::relay::session) fn keeps_offsets(&self) -> bool {
        self.owed.iter().any(|owed| owed.guard.is_some())
    }

    /// Since when the oldest frame waits that is, or ends, an answer and has not gone to the mailbox.
    pub(in crate::relay::session) fn waits_since(&self) -> Option<Instant> {
        let is_it = |owed: &&Owed| owed.is_of_an_answer() && owed.backing == Backing::None;
        self.owed.iter().find(is_it).map(|owed| owed.since)
    }
}

/// The first part of a request's answer that is owed and that the mailbox neither has nor is about
/// to get; if there is none, and the answer is complete, how many parts it has.
pub(in crate::relay::session) fn first_unparked_part(
    outbox: &Outbox,
    request: RequestId,
) -> Option<u32> {
    let owed = || outbox.owed.iter().filter(|owed| owed.backing == Backing::None);
    let part = |owed: &Owed| owed.frame.part().filter(|(of, _)| *of == request);
    let end = |owed: &Owed| match owed.frame.ends() == Some(request) {
        true => owed.frame.reply().and_then(|reply| reply.item.end),
        false => None,
    };
    let first = owed().find_map(part).map(|(_, index)| index);
    first.or_else(|| owed().find_map(end))
}

/// How many bytes of parts of streamed replies the client is not known to have read.
pub(in crate::relay::session) fn unread_part_bytes(outbox: &Outbox) -> usize {
    let taken = if outbox.is_acknowledged { outbox.taken_part_bytes } else { 0 };
    taken + outbox.waiting_part_bytes
}
