//! A streamed reply on its way to its client: parts, and an end that says how many there are.
//!
//! Owns the order of the parts. Records of one reply may be read by several nodes and come in any
//! order, some twice: a part that is early waits here for those before it, a repeated one is dropped,
//! and one that never comes ends the request. Decides only; who gets a part, and what becomes of a
//! request that ends, is elsewhere.

use std::{collections::BTreeMap, fmt, time::Duration};

use tokio::time::Instant;

use crate::{
    config::Dialect,
    error::{ErrorCode, Failure},
    relay::offsets::OffsetGuard,
    wire::{Frame, Item, Reply},
};

/// How long a part may be missing of which a later one has come.
pub const GAP_PATIENCE: Duration = Duration::from_secs(2);
/// How far ahead of the next part another one may be before it waits in Kafka.
const AHEAD_MAX: u32 = 2048;
/// How many parts may wait for an earlier one, and in bytes: more than that there are only where it never
/// comes.
const EARLY_MAX: usize = 4096;
const EARLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a reply is to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// All of the answer.
    Whole,
    /// The part with this number.
    Part(u32),
    /// The next part: its service numbers none.
    NextPart,
    /// The next part, and the last one.
    LastPart,
    /// What comes after so many parts.
    End(u32),
    /// The part with this number, after which there are so many.
    PartAndEnd(u32, u32),
    /// What ends an answer of which no more is said.
    Close,
}

impl Role {
    /// What a record means. `parts` is how many parts the request has had, if any.
    pub fn of(reply: &Reply, dialect: Dialect, parts: Option<u32>) -> Self {
        let Item { part, end, is_disposed, .. } = reply.item;
        let has_begun = parts.is_some();
        match (part, end) {
            _ if reply.is_error() && has_begun => Self::Close,
            _ if reply.is_error() => Self::Whole,
            (Some(part), Some(end)) => Self::PartAndEnd(part, end),
            (Some(part), None) => Self::Part(part),
            (None, Some(0)) if !has_begun => Self::Whole,
            (None, Some(end)) => Self::End(end),
            (None, None) if is_disposed && !has_begun => Self::Whole,
            (None, None) if is_disposed && reply.payload.is_empty() => Self::Close,
            (None, None) if is_disposed => Self::LastPart,
            (None, None) if dialect == Dialect::Nest => Self::NextPart,
            (None, None) if has_begun => Self::Close,
            (None, None) => Self::Whole,
        }
    }
}

/// A reply, or a part of one, that came before the receipt, or another part, which its client has to see
/// first.
#[derive(Debug, Default)]
pub struct Early {
    /// The reply itself.
    pub reply: Reply,
    /// How long it took from another node.
    pub forward: Option<Duration>,
    /// Keeps the reply's offset from being committed.
    pub guard: Option<OffsetGuard>,
}

/// The parts of one reply that have come.
#[derive(Debug)]
pub struct Stream {
    /// How many parts have been handed on, so the number of the next one.
    next: u32,
    /// Parts that came before an earlier one, or before they may be handed on.
    early: BTreeMap<u32, Early>,
    early_bytes: usize,
    /// How many parts there are, and what ends them.
    end: Option<(u32, Option<Early>)>,
    /// Where the last part without a number was read: they come in order.
    last: Option<(i32, i64)>,
    /// How many parts the client is known to have.
    read: u32,
    /// Since when a part has been missing.
    gap_since: Option<Instant>,
    gap_patience: Duration,
    /// How many bytes may wait for an earlier part before later ones wait in Kafka: all of them are handed
    /// on at once when it comes.
    ahead_bytes_max: usize,
    /// The wait for its reader, while that is too slow.
    pub(super) wait: Option<Wait>,
}

/// The wait for the slow reader of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    pub(super) since: Instant,
    /// How much there was to read at last, and since when it has not become less.
    pub(super) load: usize,
    pub(super) still_since: Instant,
}

impl Stream {
    /// Goes on after `next` parts, for a client that reads so many bytes at once.
    pub(super) fn new(
        next: u32,
        last: Option<(i32, i64)>,
        gap_patience: Duration,
        bytes_max: usize,
    ) -> Self {
        Self {
            next,
            early: BTreeMap::new(),
            early_bytes: 0,
            end: None,
            last,
            read: next,
            gap_since: None,
            gap_patience,
            ahead_bytes_max: bytes_max / 4,
            wait: None,
        }
    }

    /// How many parts have been handed on.
    pub fn parts(&self) -> u32 {
        self.next
    }

    /// How many parts the client is known to have.
    pub fn read(&self) -> u32 {
        self.read
    }

    /// The client has this part, and all before it.
    pub fn has_read(&mut self, index: u32) {
        self.read = self.read.max(index + 1);
    }

    /// Where the last part without a number was read.
    pub fn last(&self) -> Option<(i32, i64)> {
        self.last
    }

    /// When the request ends because a part is missing.
    pub fn gives_up_at(&self) -> Option<Instant> {
        self.gap_since.map(|since| since + self.gap_patience)
    }

    /// Whether this part should wait in Kafka until those before it have come.
    pub fn is_far_ahead(&self, part: Option<u32>) -> bool {
        let Some(ahead) = part.and_then(|index| index.checked_sub(self.next)) else { return false };
        ahead >= AHEAD_MAX || (ahead > 0 && self.early_bytes >= self.ahead_bytes_max)
    }

    /// Whether this record has come before.
    pub fn has_seen(&self, role: Role, item: &Item) -> bool {
        match role {
            Role::Part(index) | Role::PartAndEnd(index, _) => {
                index < self.next || self.early.contains_key(&index)
            }
            Role::NextPart | Role::LastPart => self.has_had(item) || self.keeps(item),
            Role::End(end) => self.end.as_ref().is_some_and(|(known, _)| *known == end),
            Role::Close | Role::Whole => self.end.is_some(),
        }
    }

    /// Whether this record waits here.
    pub fn keeps(&self, item: &Item) -> bool {
        let is_it = |early: &Early| item.source.is_some() && early.reply.item.source == item.source;
        self.early.values().any(is_it)
            || self.end.as_ref().is_some_and(|(_, end)| end.as_ref().is_some_and(is_it))
    }

    /// Whether this record has been handed on, as far as can be told.
    pub fn has_had(&self, item: &Item) -> bool {
        match (item.part, item.source, self.last) {
            (Some(part), ..) => part < self.next,
            (None, Some((partition, offset)), Some((of, last))) if item.end.is_none() => {
                partition == of && offset <= last
            }
            _ => false,
        }
    }

    /// Takes a record that has not been seen; its parts can be taken with [`Stream::next`].
    ///
    /// # Errors
    /// Why the answer cannot be completed.
    pub fn take(&mut self, role: Role, early: Early, now: Instant) -> Result<(), Failure> {
        let next = self.early.last_key_value().map_or(self.next, |(last, _)| last + 1);
        let taken = match role {
            Role::Part(index) => self.take_part(index, early),
            Role::NextPart | Role::LastPart => {
                self.last = early.reply.item.source.or(self.last);
                let taken = self.take_part(next, early);
                match role {
                    Role::LastPart => taken.and_then(|()| self.set_end(next + 1, None)),
                    _ => taken,
                }
            }
            Role::PartAndEnd(index, end) => {
                self.take_part(index, early).and_then(|()| self.set_end(end, None))
            }
            Role::End(end) => self.set_end(end, Some(early)),
            Role::Close | Role::Whole => self.set_end(next, Some(early)),
        };
        self.look_for_gap(now);
        taken
    }

    fn take_part(&mut self, index: u32, early: Early) -> Result<(), Failure> {
        self.early_bytes += weight(&early);
        self.early.insert(index, early);
        if let Some((end, _)) = self.end.as_ref().filter(|(end, _)| index >= *end) {
            return Err(broken(format_args!("part {index} came of {end} parts")));
        }
        if self.early.len() > EARLY_MAX || self.early_bytes > EARLY_BYTES_MAX {
            let (next, waiting) = (self.next, self.early.len());
            return Err(broken(format_args!(
                "part {next} is missing; {waiting} later ones have come"
            )));
        }
        Ok(())
    }

    fn set_end(&mut self, end: u32, early: Option<Early>) -> Result<(), Failure> {
        let known = self.early.last_key_value().map_or(self.next, |(last, _)| last + 1);
        let before = self.end.as_ref().map(|(before, _)| *before);
        if before.is_none() || early.is_some() {
            self.end = Some((end, early));
        }
        match before.filter(|before| *before != end) {
            Some(before) => Err(broken(format_args!("it has {before} parts, and {end}"))),
            None if known > end => Err(broken(format_args!("{known} parts came of {end}"))),
            None => Ok(()),
        }
    }

    fn look_for_gap(&mut self, now: Instant) {
        let is_missing = match self.early.first_key_value() {
            Some((first, _)) => *first > self.next,
            None => self.end.as_ref().is_some_and(|(end, _)| *end > self.next),
        };
        self.gap_since = is_missing.then(|| self.gap_since.unwrap_or(now));
    }

    /// The next part that can be handed on, with its number in its item.
    pub fn next(&mut self, now: Instant) -> Option<Early> {
        let mut part = self.early.remove(&self.next)?;
        self.early_bytes -= weight(&part);
        part.reply.item.part = Some(self.next);
        self.next += 1;
        // Another one may be missing from now on.
        self.gap_since = None;
        self.look_for_gap(now);
        Some(part)
    }

    /// What ends the reply, if all its parts have been handed on.
    pub fn take_end(&mut self) -> Option<Early> {
        let (end, _) = self.end.as_ref().filter(|(end, _)| *end == self.next)?;
        let end = *end;
        let early = self.end.take().and_then(|(_, early)| early);
        let mut early = early.unwrap_or_default();
        early.reply.item.end = Some(end);
        Some(early)
    }

    /// Takes out everything that has come and was not handed on.
    pub fn drain(&mut self) -> Vec<Early> {
        let end = self.end.take().and_then(|(_, end)| end);
        self.early_bytes = 0;
        std::mem::take(&mut self.early).into_values().chain(end).collect()
    }

    /// Why a request ends whose next part has been missing for too long.
    pub fn missing(&self) -> Option<Failure> {
        self.gap_since?;
        let next = self.next;
        let later = match (self.early.first_key_value(), &self.end) {
            (Some((first, _)), _) => format!("part {first} has come"),
            (None, Some((end, _))) => format!("there are {end}"),
            (None, None) => return None,
        };
        Some(broken(format_args!("part {next} is missing; {later}")))
    }
}

/// What a part is counted with while it waits.
fn weight(early: &Early) -> usize {
    Frame::ENVELOPE_BYTES + early.reply.bytes()
}

fn broken(what: fmt::Arguments<'_>) -> Failure {
    let message = format!("the service's stream is broken: {what}");
    Failure::new(ErrorCode::ServiceError, message).recorded(true)
}

#[cfg(test)]
mod tests;
