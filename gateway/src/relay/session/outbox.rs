//! The frames that a session owes its client, in order, beginning with the oldest that the client
//! is not known to have.

use std::{
    collections::VecDeque,
    ops::{Range, RangeInclusive},
};

use registry::RequestId;
use tokio::time::Instant;

use super::terms::{NextFrame, ReadPart, Unparked};
use crate::{
    relay::offsets::OffsetGuard,
    wire::{ClientId, Frame},
};

/// How many written frames are kept for a resume if the client acknowledges none: older ones are
/// dropped, and a client that lacks them is not resumed.
pub(in crate::relay) const KEPT_FRAMES_MAX: usize = 512;
/// The same in bytes.
pub(in crate::relay) const KEPT_BYTES_MAX: usize = 256 * 1024;

pub(super) mod backing;

/// A frame that a client is not known to have.
#[derive(Debug)]
pub(super) struct Owed {
    /// Its number; 0 if it has none, in which case only this connection gets it.
    pub(super) seq: u64,
    frame: Frame,
    /// The request that it ends, by the client's id, until that is free again.
    ends: Option<ClientId>,
    /// Keeps the reply's offset from being committed.
    pub(super) guard: Option<OffsetGuard>,
    since: Instant,
    backing: Backing,
}

/// Whether the mailbox has a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backing {
    None,
    OnItsWay,
    Parked,
}

/// What follows when a client has frames.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    /// Requests that end with them, by the client's ids.
    pub(super) ends: Vec<ClientId>,
    /// Requests whose receipt was among them.
    pub(super) receipts: Vec<RequestId>,
    /// Parts of streamed replies among them.
    pub(super) parts: Vec<ReadPart>,
    /// The last one that is in the mailbox, or being written there; 0 if there is none.
    pub(super) trim: u64,
}

/// All owed frames: first those that the connection has taken, then those that wait for it.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Whether the client acknowledges frames: until then, taken ones count against the limit.
    is_acknowledged: bool,
    /// The number of the last frame that was queued.
    seq: u64,
    /// The number of the last frame that is not kept any more.
    confirmed: u64,
    owed: VecDeque<Owed>,
    taken: usize,
    /// How many of the taken ones have left for the network.
    written: usize,
    taken_bytes: usize,
    waiting_bytes: usize,
    /// How much of both is parts of streamed replies.
    taken_part_bytes: usize,
    waiting_part_bytes: usize,
    /// How many bytes were there when the client came back, beyond the limit of an outbox.
    backlog_bytes: usize,
    /// The numbers of the frames that the client lacked when it came back.
    backlog: Range<u64>,
}

impl Outbox {
    /// Nothing, for a client that has every frame up to this number.
    pub(super) fn new(is_acknowledged: bool, last_seq: u64) -> Self {
        Self {
            is_acknowledged,
            seq: last_seq,
            confirmed: last_seq,
            owed: VecDeque::new(),
            taken: 0,
            written: 0,
            taken_bytes: 0,
            waiting_bytes: 0,
            taken_part_bytes: 0,
            waiting_part_bytes: 0,
            backlog_bytes: 0,
            backlog: 0..0,
        }
    }

    /// The numbers after which a client may go on: from the last frame that is not kept any more to
    /// the last one that was queued.
    pub(super) fn resumable(&self) -> RangeInclusive<u64> {
        self.confirmed..=self.seq
    }

    /// How many bytes would wait with a frame of this weight, if that is too much. If none is
    /// unread, one frame always fits. Parts of streamed replies have a limit of their own.
    pub(super) fn overflow(&self, weight: usize, bytes_max: usize) -> Option<usize> {
        let taken = self.taken_bytes - self.taken_part_bytes;
        let taken = if self.is_acknowledged { taken } else { 0 };
        let unread = taken + self.waiting_bytes - self.waiting_part_bytes;
        let fits = unread == 0 || unread + weight <= bytes_max.saturating_add(self.backlog_bytes);
        (!fits).then_some(unread + weight)
    }

    /// Queues a frame, with the next number if it is of a kind that has numbers.
    pub(super) fn push(
        &mut self,
        frame: Frame,
        ends: Option<ClientId>,
        guard: Option<OffsetGuard>,
    ) {
        self.seq += u64::from(frame.is_numbered());
        let seq = if frame.is_numbered() { self.seq } else { 0 };
        self.waiting_bytes += frame.weight();
        self.waiting_part_bytes += part_weight(&frame);
        let (since, backing) = (Instant::now(), Backing::None);
        self.owed.push_back(Owed { seq, frame, ends, guard, since, backing });
    }

    /// Queues a frame that a former owner has left. It has to be in the mailbox: it may have been
    /// there, and the new owner's checkpoint begins without it.
    pub(super) fn adopt(&mut self, frame: Frame, ends: Option<ClientId>) {
        self.push(frame, ends, None);
        let adopted = self.owed.back_mut().expect("it has just been pushed");
        adopted.backing = Backing::OnItsWay;
    }

    /// The next frame that waits.
    pub(super) fn take(&mut self) -> Option<NextFrame> {
        let next = self.owed.get(self.taken)?;
        let is_last_missed = !self.is_acknowledged
            && self.backlog.contains(&next.seq)
            && next.seq + 1 == self.backlog.end;
        let (seq, frame, weight) = (next.seq, next.frame.clone(), next.frame.weight());
        self.taken += 1;
        let part_weight = part_weight(&frame);
        self.waiting_bytes -= weight;
        self.taken_bytes += weight;
        self.waiting_part_bytes -= part_weight;
        self.taken_part_bytes += part_weight;
        if self.taken == self.owed.len() && !self.is_acknowledged {
            self.backlog_bytes = 0;
        }
        Some(NextFrame { seq, frame, is_last_missed })
    }

    /// All frames that were taken have left for the network. `free` gets the requests that are over
    /// with them, by the client's ids: none if the client acknowledges frames.
    pub(super) fn flushed(&mut self, mut free: impl FnMut(ClientId)) {
        if !self.is_acknowledged {
            let new = self.owed.range_mut(self.written..self.taken);
            new.filter_map(|owed| owed.ends.take()).for_each(&mut free);
        }
        self.written = self.taken;
        // Nobody acknowledges a frame without a number, so it is dropped now.
        while self.written > 0 && self.owed.front().is_some_and(|owed| owed.seq == 0) {
            self.drop_front().into_iter().for_each(Owed::release);
        }
        if !self.is_acknowledged {
            let is_kept =
                |kept: &Self| kept.written <= KEPT_FRAMES_MAX && kept.taken_bytes <= KEPT_BYTES_MAX;
            while self.written > 0 && !is_kept(self) {
                self.drop_front().into_iter().for_each(Owed::release);
            }
            self.shrink();
        }
    }

    /// Whether all that is owed has left for the network.
    pub(super) fn is_written(&self) -> bool {
        self.written == self.owed.len()
    }

    /// The number of the last frame that has left for the network, and how many frames up to it are
    /// kept.
    pub(super) fn last_written(&self) -> (u64, usize) {
        (self.last_of(self.written), self.written)
    }

    /// The number of the last frame that the connection has taken.
    pub(super) fn last_taken(&self) -> u64 {
        self.last_of(self.taken)
    }

    /// Whether the number is that of a frame which was not there yet when the client came back.
    pub(super) fn is_new(&self, seq: u64) -> bool {
        seq >= self.backlog.end
    }

    fn last_of(&self, count: usize) -> u64 {
        let mut numbers = self.owed.range(..count).rev().map(|owed| owed.seq);
        numbers.find(|seq| *seq > 0).unwrap_or(self.confirmed)
    }

    /// The client has every frame up to this number.
    pub(super) fn confirm(&mut self, seq: u64) -> Dropped {
        let mut dropped = Dropped::default();
        // A frame without a number goes with those that were taken before it. One that waits stays.
        let is_over = |owed: &Owed, taken| owed.seq <= seq && (owed.seq > 0 || taken > 0);
        while self.owed.front().is_some_and(|owed| is_over(owed, self.taken)) {
            let Some(mut owed) = self.drop_front() else { break };
            if owed.backing != Backing::None {
                dropped.trim = dropped.trim.max(owed.seq);
            }
            match owed.frame.part() {
                Some((request, index)) => {
                    let guard = owed.guard.take();
                    dropped.parts.push(ReadPart { request, index, guard });
                }
                None => owed.guard.take().into_iter().for_each(OffsetGuard::done),
            }
            dropped.receipts.extend(owed.frame.receipt().map(|(request, _)| request));
            dropped.ends.extend(owed.ends);
        }
        self.shrink();
        dropped
    }

    /// All frames after this number wait again, but for those of the former connection alone.
    pub(super) fn rewind(&mut self, last_seq: u64) {
        self.owed.retain(|owed| owed.seq > 0);
        self.taken = self.owed.partition_point(|owed| owed.seq <= last_seq);
        self.written = self.taken;
        let weight = |owed: &Owed| owed.frame.weight();
        self.taken_bytes = self.owed.range(..self.taken).map(weight).sum();
        self.waiting_bytes = self.owed.range(self.taken..).map(weight).sum();
        let part_weight = |owed: &Owed| part_weight(&owed.frame);
        self.taken_part_bytes = self.owed.range(..self.taken).map(part_weight).sum();
        self.waiting_part_bytes = self.owed.range(self.taken..).map(part_weight).sum();
        self.backlog_bytes = self.taken_bytes + self.waiting_bytes;
        self.backlog = last_seq.saturating_add(1)..self.seq.saturating_add(1);
    }

    /// Whether the client has been told that this request was refused, without knowing it when it
    /// came back. A client that acknowledges frames knows it once it has acknowledged. For any
    /// other client, everything that was sent counts as known, as it does for answers: the client
    /// may have read it, and would wait for an answer.
    pub(super) fn refuses(&self, id: &ClientId) -> bool {
        let known = if self.is_acknowledged { 0 } else { self.taken };
        let is_old = |owed: &&Owed| owed.seq < self.backlog.end;
        let backlog = self.owed.range(known..).take_while(is_old);
        let mut unread = backlog.filter(|owed| self.backlog.contains(&owed.seq));
        unread.any(|owed| owed.frame.refuses() == Some(id))
    }

    /// Takes everything out, and how many frames of it had left for the network.
    pub(super) fn drain(&mut self) -> (VecDeque<Owed>, usize) {
        let written = self.written;
        (self.taken, self.written, self.taken_bytes, self.waiting_bytes) = (0, 0, 0, 0);
        (self.taken_part_bytes, self.waiting_part_bytes) = (0, 0);
        (std::mem::take(&mut self.owed), written)
    }

    /// Takes out the oldest frame, because the client has it or will never get it.
    fn drop_front(&mut self) -> Option<Owed> {
        let owed = self.owed.pop_front()?;
        let (weight, part_weight) = (owed.frame.weight(), part_weight(&owed.frame));
        match self.taken {
            0 => {
                self.waiting_bytes -= weight;
                self.waiting_part_bytes -= part_weight;
            }
            _ => {
                self.taken -= 1;
                self.taken_bytes -= weight;
                self.taken_part_bytes -= part_weight;
            }
        }
        self.written = self.written.saturating_sub(1);
        self.confirmed = self.confirmed.max(owed.seq);
        Some(owed)
    }

    /// Gives memory back when nothing is queued.
    fn shrink(&mut self) {
        if self.owed.is_empty() {
            self.backlog_bytes = 0;
            self.owed.shrink_to_fit();
        }
    }
}

/// The weight of a frame, if it is a part of a streamed reply.
fn part_weight(frame: &Frame) -> usize {
    if frame.part().is_some() { frame.weight() } else { 0 }
}

impl Owed {
    /// Nothing has to be kept for it any more.
    fn release(self) {
        self.guard.into_iter().for_each(OffsetGuard::done);
    }

    /// Whether it must not be lost with this node: an answer, or a part of one.
    fn is_of_an_answer(&self) -> bool {
        self.ends.is_some() || self.frame.part().is_some()
    }

    /// The frame as the mailbox or the next owner gets it.
    pub(super) fn copy(&self) -> Unparked {
        let request = self.ends.as_ref().and_then(|_| self.frame.ends());
        Unparked { seq: self.seq, request, frame: self.frame.clone() }
    }

    /// The frame and its guard, if it has one.
    pub(super) fn held(self) -> Option<(Frame, OffsetGuard)> {
        Some((self.frame, self.guard?))
    }
}

#[cfg(test)]
impl Outbox {
    /// Checks the sums, and lists the numbers of the kept frames.
    pub(super) fn checked(&self) -> Vec<u64> {
        let weight = |owed: &Owed| owed.frame.weight();
        let taken: usize = self.owed.range(..self.taken).map(weight).sum();
        let waiting: usize = self.owed.range(self.taken..).map(weight).sum();
        assert_eq!((self.taken_bytes, self.waiting_bytes), (taken, waiting));
        assert!(self.written <= self.taken);
        self.owed.iter().map(|owed| owed.seq).filter(|seq| *seq > 0).collect()
    }

    pub(super) fn holds_no_memory(&self) -> bool {
        (self.taken_bytes, self.waiting_bytes, self.owed.capacity()) == (0, 0, 0)
    }
}
