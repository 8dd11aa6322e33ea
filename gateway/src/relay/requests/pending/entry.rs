//! One waiting request: who waits, until when, and what is known of the record.

use std::sync::Arc;

use registry::{RequestId, Route, SessionId};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    error::Failure,
    relay::{
        checkpoints::format::{RequestDetail, millis},
        requests::{
            caller::Caller,
            recording::{Record, Recording},
            stream::{Early, Stream},
        },
        results,
        services::Service,
        session::{Digest, InFlight, NotBegun, Session},
    },
    telemetry::Edge,
    wire::ClientId,
};

/// Told whether a request is recorded.
pub type Accepted = oneshot::Sender<Result<(), Failure>>;

/// Who waits.
#[derive(Debug)]
pub enum Waiter {
    /// A session, which knows the request under an id of its own.
    Session {
        /// The session.
        session: Arc<Session>,
        /// The client's id.
        id: ClientId,
        /// The request's fingerprint, by which a repeated one is recognised.
        digest: Digest,
        /// Whether it is to be told when the broker has recorded the request.
        receipt: bool,
    },
    /// An HTTP call.
    Call(Caller),
    /// An HTTP call that deletes a message: it waits for the broker, and for no reply.
    Deletion(Caller),
    /// Nobody: the registry keeps the result. With the caller, until it is told that the request is
    /// recorded.
    Stored(Option<Accepted>),
}

impl Waiter {
    /// Through which edge the request came.
    pub const fn edge(&self) -> Edge {
        match self {
            Self::Session { .. } => Edge::Ws,
            Self::Call(_) | Self::Deletion(_) | Self::Stored(_) => Edge::Rest,
        }
    }

    /// Whether it is an HTTP call.
    pub const fn is_call(&self) -> bool {
        matches!(self, Self::Call(_) | Self::Deletion(_))
    }

    /// Whether it waits for a reply, which may come by another node.
    pub const fn wants_reply(&self) -> bool {
        !matches!(self, Self::Deletion(_))
    }

    /// Whether somebody is waiting to be told that the broker has recorded the request.
    pub const fn wants_receipt(&self) -> bool {
        matches!(self, Self::Session { receipt: true, .. })
    }

    /// Whether it is this session that waits.
    pub fn is_of(&self, session: &Arc<Session>) -> bool {
        matches!(self, Self::Session { session: waiting, .. } if Arc::ptr_eq(waiting, session))
    }

    /// The client wants a receipt.
    pub fn want_receipt(&mut self) {
        if let Self::Session { receipt, .. } = self {
            *receipt = true;
        }
    }

    /// The broker has recorded the request: a caller that waits for that alone is told.
    pub fn tell_accepted(&mut self) {
        if let Self::Stored(accepted) = self
            && let Some(accepted) = accepted.take()
            && accepted.send(Ok(())).is_err()
        {
            tracing::debug!("the caller is gone");
        }
    }

    /// The client has its receipt.
    pub fn had_receipt(&mut self) {
        if let Self::Session { receipt, .. } = self {
            *receipt = false;
        }
    }
}

impl Entry {
    /// The session that waits, if it must survive this node.
    pub fn durable_session(&self) -> Option<&Arc<Session>> {
        match &self.waiter {
            Waiter::Session { session, .. } => Some(session).filter(|session| session.is_durable()),
            Waiter::Call(_) | Waiter::Deletion(_) | Waiter::Stored(_) => None,
        }
    }

    /// As what it waits, if its reply is safe only when the registry has it: until then its offset is
    /// kept back.
    pub fn holder(&self, request: RequestId) -> Option<SessionId> {
        match &self.waiter {
            Waiter::Stored(_) => Some(results::holder(request)),
            _ => self.durable_session().map(|session| session.id()),
        }
    }

    /// The session that waits, if one does, has it in flight from now on.
    ///
    /// # Errors
    /// Why nothing begins there.
    pub fn begin(&self, request: RequestId) -> Result<(), NotBegun> {
        let Waiter::Session { session, id, digest, .. } = &self.waiter else { return Ok(()) };
        let in_flight = InFlight {
            request,
            digest: *digest,
            service: Arc::clone(&self.service.name),
            deadline: self.deadline,
            has_ended: false,
            is_unconfirmed: false,
        };
        session.requests().begin(id.clone(), in_flight)
    }

    /// Whether this record is its own. Its session may have left, and come back, with what it waits for:
    /// that has an entry of its own then, and its client asks again for what was not produced.
    pub(in crate::relay::requests) fn has(&self, record: &Record) -> bool {
        Arc::ptr_eq(&record.route, &self.route)
    }

    /// Whether its client has to see the receipt before anything of the reply.
    pub fn waits_for_receipt(&self) -> bool {
        self.waiter.wants_receipt() && !self.recording.is_confirmed()
    }

    /// What has come of the reply, and its client has not.
    pub fn take_early(&mut self) -> Vec<Early> {
        let mut early: Vec<Early> = self.early.take().into_iter().collect();
        early.extend(self.stream.iter_mut().flat_map(|stream| stream.drain()));
        early
    }

    /// What the session's next owner has to know; `None` for an HTTP call.
    pub fn detail(&self) -> Option<RequestDetail> {
        let Waiter::Session { id, digest, receipt, .. } = &self.waiter else { return None };
        let position = match self.recording {
            Recording::Confirmed { position, .. } => Some((position.partition, position.offset)),
            Recording::Waiting | Recording::Unconfirmed => None,
        };
        let now = Instant::now();
        Some(RequestDetail {
            id: id.clone(),
            digest: digest.0,
            service: (&*self.service.name).into(),
            age_ms: millis(now.saturating_duration_since(self.started)),
            left_ms: millis(self.deadline.saturating_duration_since(now)),
            receipt: *receipt,
            position,
            parts: self.stream.as_ref().map(|stream| stream.read()),
            last_part: self.stream.as_ref().and_then(|stream| stream.last()),
        })
    }
}

/// One waiting request.
#[derive(Debug)]
pub struct Entry {
    /// The service that answers.
    pub service: Arc<Service>,
    /// Who waits.
    pub waiter: Waiter,
    /// When it was submitted.
    pub started: Instant,
    /// When it ends by itself.
    pub deadline: Instant,
    /// The owned partition on which its reply is expected.
    pub partition: Option<i32>,
    /// What is known of its record.
    pub recording: Recording,
    /// The reply, when it has to wait for the receipt.
    pub early: Option<Early>,
    /// The parts of its reply, once one has come.
    pub stream: Option<Box<Stream>>,
    /// Its route in the registry.
    pub route: Arc<Route>,
}
