//! Answers peers: takes the replies that they have read, and says what has become of earlier ones.

use std::time::Duration;

use registry::{RequestId, SessionId};

use super::Forwarding;
use crate::{
    peer::Verdict,
    relay::{
        requests::{Reception, parts::Room},
        results::{self, Progress},
    },
    telemetry::ReplyPath,
    wire::{Item, Reply},
};

impl Forwarding {
    /// A reply that another node has read and forwarded.
    pub fn deliver_forwarded(
        &self,
        request: RequestId,
        session: Option<SessionId>,
        mut reply: Reply,
        took: Duration,
    ) -> Verdict {
        let item = reply.item;
        // The peer keeps it until its client has read more.
        if self.completion.streams().room(request, item.part) == Room::Crowded {
            return Verdict::Later;
        }
        let reception = self.completion.deliver(
            request,
            |_| ReplyPath::Forwarded,
            Some(took),
            |_| None,
            |service| {
                reply.headers.retain(|(name, _)| service.passes_to_client(name));
                reply
            },
        );
        match reception {
            Reception::Delivered => Verdict::Delivered,
            Reception::Kept(session) | Reception::Crowded(Some(session)) => Verdict::Kept(session),
            Reception::Crowded(None) => Verdict::Delivered,
            Reception::Over => Verdict::Over,
            Reception::Unknown => self.whereabouts(request, session, &item),
        }
    }

    /// The verdict on a forwarded reply for which no request waits here, or no more.
    pub fn whereabouts(
        &self,
        request: RequestId,
        session: Option<SessionId>,
        item: &Item,
    ) -> Verdict {
        match self.completion.results.progress(request, session) {
            Some(Progress::Unwritten) => return Verdict::Kept(results::holder(request)),
            Some(Progress::Written) => return Verdict::Over,
            None => {}
        }
        let Some(session) = session else { return Verdict::Unknown };
        if self.sessions.is_expected(session) {
            return Verdict::Later;
        }
        let held = self.sessions.get(session);
        if self.completion.streams().keeps(request, item, held.as_deref()) {
            return Verdict::Kept(session);
        }
        // The session has left and come back since the reply was taken, so the reply is wanted
        // again; unless it is a part that its client has, or the mailbox.
        let wanted = self.completion.pending.look(request, |entry| {
            entry.stream.as_ref().is_none_or(|stream| !stream.has_had(item))
        });
        match wanted {
            Some(true) => return Verdict::Later,
            Some(false) => return Verdict::Over,
            None => {}
        }
        match held {
            Some(session) if session.is_held() => Verdict::Over,
            // The session has ended here, but the registry still says that this node owns it. If
            // the reply were denied, the peer would park it, and so bring the session back to life
            // with a part of what it was owed.
            _ if self.checkpoints.is_end_unwritten(session) => Verdict::Later,
            _ => Verdict::Unknown,
        }
    }
}
