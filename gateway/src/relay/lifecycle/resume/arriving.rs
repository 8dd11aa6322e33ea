//! How a session arrives at this node: it goes on here, and its requests wait here.

use std::{collections::HashMap, sync::Arc, time::Duration};

use registry::{Progress, RequestId, Route, SessionId};
use tokio::time::Instant;

use super::Resumption;
use crate::{
    bus::Position,
    error::{ErrorCode, Failure},
    relay::{
        checkpoints::{Snapshot, format::RequestDetail},
        lifecycle::attached,
        requests::{
            pending::{Entry, Waiter},
            recording::Recording,
        },
        session::{Beginning, ConnectionId, Digest, InFlight, Session, Unparked},
    },
    telemetry::Resume,
    wire::Frame,
};

/// How long a part of a streamed reply may be missing once its session has moved: whoever reads it next
/// may have to find out first that a node is dead.
const PART_PATIENCE: Duration = Duration::from_secs(10);

impl Resumption {
    /// Goes on with a session that this node holds.
    pub(super) fn resume_here(
        &self,
        id: SessionId,
        beginning: Beginning,
    ) -> Option<(Arc<Session>, ConnectionId)> {
        let session = self.sessions.get(id)?;
        let last_seq = beginning.last_seq;
        let connection = session.ownership().resume(last_seq, beginning)?;
        if !session.is_reliable() {
            self.completion.confirm(&session, last_seq);
        }
        self.checkpoints.rewrite(&session);
        attached(&self.requests.gate, &session);
        self.telemetry.resumed(Resume::Here);
        Some((session, connection))
    }

    /// Goes on with a session that another node has owned.
    pub(super) fn adopt(
        &self,
        id: SessionId,
        is_reliable: bool,
        beginning: Beginning,
        snapshot: Snapshot,
    ) -> Arc<Session> {
        let last_seq = beginning.last_seq;
        let session = Arc::new(Session::new(id, is_reliable, self.limits, beginning));
        let Snapshot { frames, mut requests, replies } = snapshot;
        let has = |left: &Unparked| left.seq > 0 && left.seq <= last_seq;
        let over: Vec<_> =
            frames.iter().filter(|left| has(left)).filter_map(|left| left.request).collect();
        // A receipt that is in the mailbox, or that the client has, is not owed as well. It may have been
        // written before its node could write that the broker has recorded the request.
        let receipts: HashMap<RequestId, _> =
            frames.iter().filter_map(|left| left.frame.receipt()).collect();
        for (request, detail, progress) in &mut requests {
            if let Some(position) = receipts.get(request) {
                (detail.receipt, detail.position) = (false, Some(*position));
                if *progress == Progress::Submitted {
                    *progress = Progress::Recorded;
                }
            }
        }
        requests.retain(|(request, ..)| !over.contains(request));
        // Parts that are in the mailbox count, too.
        let parts: HashMap<RequestId, u32> =
            frames.iter().filter_map(|left| left.frame.part()).collect();
        for (request, detail, _) in &mut requests {
            if let Some(last) = parts.get(request) {
                detail.parts = detail.parts.max(Some(last + 1));
            }
        }
        // In the order in which they were submitted, so that their receipts come in that order.
        requests.sort_unstable_by_key(|(request, ..)| *request);
        let now = Instant::now();
        for (request, detail, progress) in &requests {
            let in_flight = InFlight {
                request: *request,
                digest: Digest(detail.digest),
                service: (&*detail.service).into(),
                deadline: now + Duration::from_millis(detail.left_ms),
                has_ended: *progress == Progress::Ended,
                is_unconfirmed: *progress == Progress::Submitted,
            };
            session.requests().adopt(detail.id.clone(), in_flight);
        }
        for mut left in frames.into_iter().filter(|left| !has(left)) {
            let ends = left.request.and_then(|request| requests.iter().find(|r| r.0 == request));
            if let Some((_, detail, _)) = ends
                && let Some(service) = self.requests.services.get(&detail.service)
            {
                left.frame.keep_headers(|name| service.passes_to_client(name));
            }
            session.ownership().adopt(left.frame, ends.map(|(_, detail, _)| detail.id.clone()));
        }
        // This node may have owned it before, without having heard that it lost it.
        if let Some(former) = self.sessions.get(id) {
            self.leaving.give_up(&former);
        }
        self.sessions.add(&session);
        for (request, detail, progress) in requests {
            if progress != Progress::Ended {
                self.wait_again(&session, request, &detail);
            }
        }
        for (request, reply) in replies {
            self.completion.foreign.send(request, reply, None);
        }
        self.checkpoints.rewrite(&session);
        attached(&self.requests.gate, &session);
        session
    }

    /// A request of an adopted session waits here from now on, for what is left of its time.
    fn wait_again(&self, session: &Arc<Session>, request: RequestId, detail: &RequestDetail) {
        let (id, digest) = (detail.id.clone(), Digest(detail.digest));
        let Some(service) = self.requests.services.get(&detail.service) else {
            let failure = Failure::new(ErrorCode::Unavailable, "this node has no such service");
            let failure = failure.recorded(true);
            let (id, request) = (Some(detail.id.clone()), Some(request));
            let frame = Frame::Error { id: id.clone(), request, failure, reply: None };
            return self.completion.owe(session, frame, id, None);
        };
        // Only by this node's clock: the time that has passed, and the time that is left, were in
        // the snapshot.
        let now = Instant::now();
        let started = now.checked_sub(Duration::from_millis(detail.age_ms)).unwrap_or(now);
        let left = Duration::from_millis(detail.left_ms);
        let position = detail.position.map(|(partition, offset)| Position { partition, offset });
        let route = Arc::new(Route {
            node: self.node.clone(),
            session: Some(session.id()),
            client_id: Some(detail.id.as_json().into()),
            deadline_ms: self.requests.deadline_ms(left.max(service.timeout_max())),
            may_be_part: service.may_be_part(),
        });
        let recording = match position {
            Some(position) => Recording::Confirmed { at: now, position },
            None => Recording::Unconfirmed,
        };
        let entry = Entry {
            service: Arc::clone(service),
            // A receipt that is still owed for what is recorded comes below; what is not confirmed
            // gets one if its client sends it again, and its reply waits for none.
            waiter: Waiter::Session { session: Arc::clone(session), id, digest, receipt: false },
            started,
            deadline: now + left,
            partition: None,
            recording,
            early: None,
            stream: detail.parts.map(|parts| {
                self.completion.streams().stream(parts, detail.last_part, PART_PATIENCE)
            }),
            route: Arc::clone(&route),
        };
        if let (true, Some(Position { partition, offset })) = (detail.receipt, position) {
            let (id, topic) = (detail.id.clone(), Arc::clone(&service.topic));
            let is_deletable = service.is_deletable();
            self.completion.owe(
                session,
                Frame::Receipt { id, request, topic, partition, offset, is_deletable },
                None,
                None,
            );
        }
        // What is left here of the time when this node owned the session before.
        let former = self.completion.take_quietly(request, |_| true);
        for early in former.into_iter().flat_map(|mut entry| entry.take_early()) {
            self.completion.foreign.send(request, early.reply, early.guard);
        }
        service.metrics.in_flight.inc();
        self.completion.pending.insert(request, entry);
        self.completion.routes.put(request, route, true);
    }
}
