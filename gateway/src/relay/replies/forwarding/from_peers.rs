//! Answers peers: takes the replies that they have read, and says what has become of earlier ones.

use std::time::Duration;

use registry::{RequestId, SessionId};

use super::Forwarding;
use crate::{
    peer::Verdict,
    relay::{
        requests::Reception,
        results::{self, Progress},
    },
    telemetry::ReplyPath,
    wire::Reply,
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
            Reception::Kept(holder) => Verdict::Kept(holder),
            Reception::Unknown => self.whereabouts(request, session),
        }
    }

    /// The verdict on a forwarded reply for which no request waits here.
    pub fn whereabouts(&self, request: RequestId, session: Option<SessionId>) -> Verdict {
        match self.completion.results.progress(request, session) {
            Some(Progress::Unwritten) => return Verdict::Kept(results::holder(request)),
            Some(Progress::Written) => return Verdict::Over,
            None => {}
        }
        let Some(session) = session else { return Verdict::Unknown };
        if self.sessions.is_expected(session) {
            return Verdict::Later;
        }
        // The session has left and come back since the reply was taken, so the reply is wanted
        // again.
        if self.completion.pending.look(request, |_| ()).is_some() {
            return Verdict::Later;
        }
        match self.sessions.get(session) {
            Some(session) if session.mailbox().is_unsafe(request) => Verdict::Kept(session.id()),
            Some(session) if session.is_held() => Verdict::Over,
            // The session has ended here, but the registry still says that this node owns it. If
            // the reply were denied, the peer would park it, and so bring the session back to life
            // with a part of what it was owed.
            _ if self.checkpoints.is_end_unwritten(session) => Verdict::Later,
            _ => Verdict::Unknown,
        }
    }
}
