//! Hands the parts of streamed replies to whoever waits for them.
//!
//! What a record means, and in which order parts go, is decided in [`super::stream`]. Here they are
//! given to a session or to an HTTP call; and a stream ends whose client reads too slowly, so that it
//! holds up nobody else.

use std::{sync::Arc, time::Duration};

use registry::RequestId;
use tokio::time::Instant;

use super::{
    Completion, Reception,
    following::Following,
    pending::{Early, Entry, Waiter},
    stream::{GAP_PATIENCE, Role, Stream, Wait},
};
use crate::{
    error::{ErrorCode, Failure},
    relay::{
        checkpoints::format::RequestDetail,
        offsets::OffsetGuard,
        session::{Pushed, ReadPart, Session},
    },
    wire::{Frame, Item},
};

/// From how much of what may wait on the records of a stream are not read on, in percent.
const CROWDED: usize = 50;
/// Until how much is left.
const ROOMY: usize = 25;
/// How long the others on a partition wait for the reader of one stream that makes no progress.
const STILL_MAX: Duration = Duration::from_millis(500);
/// How long they wait for one that reads, but slowly; or that has lost its connection.
const SLOW_MAX: Duration = Duration::from_secs(2);

/// Whether more records of a stream may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// They may.
    Free,
    /// Its client has to read first.
    Crowded,
    /// Nothing waits for them (any more).
    Over,
}

/// Streamed replies, as those see them that hand on their parts.
#[derive(Clone, Copy, Debug)]
pub struct Streams<'c>(&'c Completion);

impl Completion {
    /// The streamed replies of the requests that wait here.
    pub fn streams(&self) -> Streams<'_> {
        Streams(self)
    }
}

impl Streams<'_> {
    /// The requests that wait.
    pub(super) fn completion(&self) -> &Completion {
        self.0
    }

    /// Takes a record of a streamed reply. Returns whether the request ends with it.
    pub(super) fn take(
        self,
        request: RequestId,
        entry: &mut Entry,
        role: Role,
        early: Early,
        following: &mut Following,
    ) -> bool {
        let now = Instant::now();
        let new = || self.stream(0, None, GAP_PATIENCE);
        let stream = entry.stream.get_or_insert_with(new);
        if let Err(failure) = stream.take(role, early, now) {
            following.end = Some(Err(failure));
            return true;
        }
        self.hand_on(request, entry, following)
    }

    /// A streamed reply that goes on after so many parts; `last` is where the last one was read, if its
    /// service numbers none.
    pub(in crate::relay) fn stream(
        self,
        parts: u32,
        last: Option<(i32, i64)>,
        gap_patience: Duration,
    ) -> Box<Stream> {
        Box::new(Stream::new(parts, last, gap_patience, self.0.stream_bytes_max))
    }

    /// Hands on the parts that can be. Returns whether the request ends.
    pub(super) fn hand_on(
        self,
        request: RequestId,
        entry: &mut Entry,
        following: &mut Following,
    ) -> bool {
        let is_held_up = entry.waits_for_receipt();
        let Entry { stream: Some(stream), waiter, service, .. } = entry else { return false };
        let now = Instant::now();
        if !is_held_up {
            while let Some(part) = stream.next(now) {
                service.metrics.parts.inc();
                if let Err((limit, guard)) = waiter.hand_on(request, part, following) {
                    following.refused = guard;
                    following.end = Some(Err(self.too_slow(limit)));
                    return true;
                }
            }
            if let Some(end) = stream.take_end() {
                following.end = Some(Ok(end));
                return true;
            }
        }
        let idle = now + service.stream_idle_timeout;
        let mut deadline = idle.min(entry.started + service.timeout_max());
        if let Some(gives_up_at) = stream.gives_up_at() {
            deadline = deadline.min(gives_up_at);
        }
        entry.deadline = deadline;
        false
    }

    /// Does what follows. `entry` is what was taken out of the table, if the request ends.
    pub(super) fn follow(self, request: RequestId, entry: Option<Entry>, following: Following) {
        let Following { pushed, end, refused } = following;
        for (session, pushed) in pushed {
            self.0.after_push(&session, pushed);
        }
        match entry.zip(end) {
            Some((entry, Ok(early))) => self.0.answer(request, entry, early),
            Some((entry, Err(failure))) => {
                self.0.fail(request, entry, failure, refused);
            }
            None => {}
        }
    }

    /// Ends a request whose reply has begun and does not go on.
    pub(super) fn timed_out(self, request: RequestId, mut entry: Entry) {
        let mut following = Following::default();
        // What waits for the receipt waits no longer.
        entry.waiter.had_receipt();
        if !self.hand_on(request, &mut entry, &mut following) {
            let idle = entry.service.stream_idle_timeout;
            let stream = entry.stream.as_ref();
            let parts = stream.map_or(0, |stream| stream.parts());
            let missing = stream.and_then(|stream| stream.missing());
            let failure = missing.unwrap_or_else(|| {
                let message = match entry.started.elapsed() < entry.service.timeout_max() {
                    true => format!("no part within {} ms after {parts}", idle.as_millis()),
                    false => format!(
                        "the stream was not complete within {} ms (timeout_max); {parts} parts came",
                        entry.service.timeout_max().as_millis()
                    ),
                };
                Failure::new(ErrorCode::Timeout, message).recorded(true)
            });
            following.end = Some(Err(failure));
        }
        self.follow(request, Some(entry), following);
    }

    /// Why a stream ends whose client reads too slowly; counted.
    fn too_slow(self, limit: &'static str) -> Failure {
        self.0.telemetry.limit_hit(limit);
        let message = format!("{limit}: parts come faster than they are read");
        Failure::new(ErrorCode::Overloaded, message).recorded(true)
    }

    /// Whether more records of this request's reply may be read, or this part of it. If they have waited
    /// for its client for too long, the request ends.
    pub(in crate::relay) fn room(self, request: RequestId, part: Option<u32>) -> Room {
        let mut room = Room::Over;
        let entry = self.0.pending.take_if(request, |entry| {
            room = entry.room(part);
            room == Room::Over
        });
        if let Some(entry) = entry {
            let failure = self.too_slow("stream_bytes_max");
            self.0.fail(request, entry, failure, None);
        }
        room
    }

    /// Whether this record is owed to a client, and only this node's memory has it.
    pub(in crate::relay) fn keeps(
        self,
        request: RequestId,
        item: &Item,
        session: Option<&Session>,
    ) -> bool {
        let waits = |entry: &mut Entry| {
            let is_it =
                |early: &Early| item.source.is_some() && early.reply.item.source == item.source;
            entry.early.as_ref().is_some_and(is_it)
                || entry.stream.as_ref().is_some_and(|stream| stream.keeps(item))
        };
        self.0.pending.look(request, waits) == Some(true)
            || session.is_some_and(|session| session.mailbox().is_unsafe(request, item))
    }

    /// Parts of streamed replies have come to the client of a session: their offsets may be committed
    /// once its checkpoint says so, because whoever goes on with the session begins behind them.
    pub(super) fn parts_read(self, session: &Arc<Session>, parts: Vec<ReadPart>) {
        let mut parts = parts.into_iter().peekable();
        while let Some(ReadPart { request, mut index, guard }) = parts.next() {
            let mut guards: Vec<OffsetGuard> = guard.into_iter().collect();
            while let Some(next) = parts.next_if(|next| next.request == request) {
                index = next.index;
                guards.extend(next.guard);
            }
            let detail = self.0.pending.look(request, |entry| {
                entry.stream.as_mut()?.has_read(index);
                entry.detail()
            });
            // Of a request that has ended, the end may be read again when this node is gone.
            let ended = || {
                let (id, known) = session.requests().of(request)?;
                let parts = Some(index + 1);
                Some(RequestDetail { parts, ..RequestDetail::ended(id, &known) })
            };
            match detail.flatten().or_else(ended) {
                Some(detail) if session.is_durable() => {
                    let then = Box::new(move || guards.into_iter().for_each(OffsetGuard::done));
                    self.0.checkpoints.parts_read(session, request, &detail, then);
                }
                _ => guards.into_iter().for_each(OffsetGuard::done),
            }
        }
    }
}

impl Waiter {
    /// Gives a part to whoever waits, or says which limit leaves no room for it.
    fn hand_on(
        &self,
        request: RequestId,
        part: Early,
        following: &mut Following,
    ) -> Result<(), (&'static str, Option<OffsetGuard>)> {
        match self {
            Self::Session { session, id, .. } => {
                let frame = Frame::Part { id: id.clone(), request, reply: part.reply };
                match session.push(frame, None, part.guard) {
                    Pushed::Queued => {}
                    Pushed::NoRoom(limit, _, guard) => return Err((limit, guard)),
                    pushed => following.pushed.push((Arc::clone(session), pushed)),
                }
                Ok(())
            }
            // A stream is not kept: its request has ended before.
            Self::Stored(_) => Ok(()),
            Self::Call(caller) | Self::Deletion(caller) => {
                caller.push(part.reply).map_err(|_| ("stream_bytes_max", None))
            }
        }
    }

    fn load(&self) -> usize {
        match self {
            Self::Session { session, .. } => session.stream_load(),
            Self::Call(caller) | Self::Deletion(caller) => caller.load(),
            Self::Stored(_) => 0,
        }
    }
}

impl Entry {
    /// What became of a record of a streamed reply that was taken.
    pub(super) fn reception(&self, part: Option<u32>) -> Reception {
        let kept = self.durable_session().map(|session| session.id());
        let is_far_ahead = self.stream.as_ref().is_some_and(|stream| stream.is_far_ahead(part));
        match (is_far_ahead || self.waiter.load() >= CROWDED, kept) {
            (true, kept) => Reception::Crowded(kept),
            (false, Some(session)) => Reception::Kept(session),
            (false, None) => Reception::Delivered,
        }
    }

    fn room(&mut self, part: Option<u32>) -> Room {
        let (load, now) = (self.waiter.load(), Instant::now());
        let is_away =
            matches!(&self.waiter, Waiter::Session { session, .. } if !session.is_attached());
        let Some(stream) = &mut self.stream else { return Room::Free };
        let limit = if stream.wait.is_some() { ROOMY } else { CROWDED };
        if load < limit {
            stream.wait = None;
            return if stream.is_far_ahead(part) { Room::Crowded } else { Room::Free };
        }
        let wait = stream.wait.get_or_insert(Wait { since: now, load, still_since: now });
        if load < wait.load {
            (wait.load, wait.still_since) = (load, now);
        }
        let is_still = !is_away && now - wait.still_since >= STILL_MAX;
        if is_still || now - wait.since >= SLOW_MAX { Room::Over } else { Room::Crowded }
    }
}
