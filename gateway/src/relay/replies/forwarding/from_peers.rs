//! What peers ask: to deliver what they have read, and what has become of it.

use std::time::Duration;

use registry::{RequestId, SessionId};

use super::Forwarding;
use crate::{peer::Verdict, relay::requests::Delivery, telemetry::Way, wire::Reply};

impl Forwarding {
    /// A reply that another node has read and forwarded.
    pub fn deliver_forwarded(
        &self,
        request: RequestId,
        session: Option<SessionId>,
        mut reply: Reply,
        took: Duration,
    ) -> Verdict {
        let delivery = self.completion.deliver(
            request,
            |_| Way::Forwarded,
            Some(took),
            |_| None,
            |service| {
                reply.headers.retain(|(name, _)| service.passes_to_client(name));
                reply
            },
        );
        match delivery {
            Delivery::Delivered => Verdict::Delivered,
            Delivery::Kept(session) => Verdict::Kept(session),
            Delivery::Unknown => self.whereabouts(request, session),
        }
    }

    /// What a peer is told of a reply that it has forwarded and that no request waits for.
    pub fn whereabouts(&self, request: RequestId, session: Option<SessionId>) -> Verdict {
        let Some(session) = session else { return Verdict::Unknown };
        if self.sessions.is_expected(session) {
            return Verdict::Later;
        }
        // The session has left and come back since the reply was taken: so it is wanted again.
        if self.completion.pending.look(request, |_| ()).is_some() {
            return Verdict::Later;
        }
        match self.sessions.get(session) {
            Some(session) if session.mailbox().is_unsafe(request) => Verdict::Kept(session.id()),
            Some(session) if session.is_held() => Verdict::Over,
            // It has ended here, and the registry says still that this node holds it: denied, whoever
            // has the reply would park it there, and so bring the session back to life with a part of
            // what it was owed.
            _ if self.checkpoints.is_end_unwritten(session) => Verdict::Later,
            _ => Verdict::Unknown,
        }
    }
}
