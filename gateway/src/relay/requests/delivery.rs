//! What becomes of a reply for a request that may wait here.

use std::time::Duration;

use registry::RequestId;

use super::{
    Completion,
    following::{Following, Reception},
    outcome::not_kept,
    parts::Streams,
    pending::{Early, Entry, Waiter},
    stream::Role,
};
use crate::{
    relay::{offsets::OffsetGuard, services::Service},
    telemetry::ReplyPath,
    wire::{Item, Reply},
};

impl Completion {
    /// Handles a reply for a request that may wait here. `read` is called only if it does, with the
    /// service that was asked. `forward` is the time that the reply took from another node. `guard`
    /// is called if the reply's offset must be kept back.
    pub(in crate::relay) fn deliver(
        &self,
        request: RequestId,
        path: impl FnOnce(&Entry) -> ReplyPath,
        forward: Option<Duration>,
        guard: impl FnOnce(&Reply) -> Option<OffsetGuard>,
        read: impl FnOnce(&Service) -> Reply,
    ) -> Reception {
        let mut following = Following::default();
        let mut reception = Reception::Unknown;
        let mut item = None;
        let entry = self.pending.take_if(request, |entry| {
            let reply = read(&entry.service);
            let parts = entry.stream.as_ref().map(|stream| stream.parts());
            let role = Role::of(&reply, entry.service.dialect, parts);
            let is_repeated = match &entry.stream {
                Some(stream) => stream.has_seen(role, &reply.item),
                // A second reply that comes before the receipt counts as late.
                None => entry.early.is_some(),
            };
            if is_repeated {
                item = Some(reply.item);
                return false;
            }
            entry.service.metrics.replied(path(entry));
            let part = reply.item.part;
            let durable = entry.holder(request);
            reception = durable.map_or(Reception::Delivered, Reception::Kept);
            let guard = durable.and_then(|_| guard(&reply));
            let early = Early { reply, forward, guard };
            if role != Role::Whole && matches!(entry.waiter, Waiter::Stored(_)) {
                following.end = Some(Ok(Early { reply: not_kept(early.reply.item), ..early }));
                return true;
            }
            if role != Role::Whole || entry.stream.is_some() {
                let ends = self.streams().take(request, entry, role, early, &mut following);
                reception = entry.reception(part);
                return ends;
            }
            // The client gets the receipt before the reply.
            match entry.waits_for_receipt() {
                true => entry.early = Some(early),
                false => following.end = Some(Ok(early)),
            }
            following.end.is_some()
        });
        self.streams().follow(request, entry, following);
        match (reception, item) {
            // It came before. It must not be forgotten while nobody else has it.
            (Reception::Unknown, Some(item)) => self.streams().repeated(request, &item),
            (Reception::Unknown, None) => self.streams().late(request),
            (reception, _) => reception,
        }
    }
}

impl Streams<'_> {
    /// What became of a reply that came before.
    fn repeated(self, request: RequestId, item: &Item) -> Reception {
        let session =
            self.completion().pending.look(request, |entry| entry.durable_session().cloned());
        match session.flatten() {
            Some(session) if self.keeps(request, item, Some(&session)) => Reception::Unknown,
            _ => Reception::Over,
        }
    }

    /// What becomes of a reply for which nobody waits here (any more).
    fn late(self, request: RequestId) -> Reception {
        let completion = self.completion();
        match completion.over.find(request) {
            Some(None) => Reception::Over,
            // While only this node knows how the request has ended, another one may end it otherwise.
            Some(Some(session)) => match completion.sessions.get(session) {
                Some(session)
                    if session.is_held()
                        && !session.mailbox().is_unsafe(request, &Item::default()) =>
                {
                    Reception::Over
                }
                _ => Reception::Unknown,
            },
            None => Reception::Unknown,
        }
    }
}
