//! The state of a connection's exchange of requests and answers: the routes write it, and the
//! socket reads it. Holds state only; what follows from it is decided in `transport`.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::Notify;
use warp::{Reply, reply::Response};

/// What is going on on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Waits for a request's head.
    Idle,
    /// A request has begun; its body has not ended.
    Reading,
    /// As before, and the client will send no more: whether that cuts the body short is not known
    /// yet, because the routes may not have read all of what has come.
    Ending,
    /// The client has closed within the body.
    CutShort,
    /// A whole request waits for its answer.
    Waiting,
    /// An answer is on its way to the socket.
    Answered,
    /// The connection is no longer HTTP.
    Upgraded,
}

/// One connection's state. Its socket and its routes run in one task; only [`Exchange::evict`] comes
/// from another one.
#[derive(Debug)]
pub(super) struct Exchange {
    phase: AtomicU8,
    /// Whether the client may get interim answers, which HTTP/1.0 does not have.
    takes_interim: AtomicBool,
    /// Whether the client may still be sending bytes that nobody will read.
    lingers: AtomicBool,
    evicted: Notify,
}

impl Exchange {
    /// The state of a connection that was just accepted.
    pub(super) fn new() -> Self {
        Self {
            phase: AtomicU8::new(Phase::Idle as u8),
            takes_interim: AtomicBool::new(false),
            lingers: AtomicBool::new(false),
            evicted: Notify::new(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Reading,
            2 => Phase::Ending,
            3 => Phase::CutShort,
            4 => Phase::Waiting,
            5 => Phase::Answered,
            _ => Phase::Upgraded,
        }
    }

    fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// A request's head has come.
    pub(super) fn begun(&self, version: http::Version) {
        self.takes_interim.store(version >= http::Version::HTTP_11, Ordering::Relaxed);
        self.set(Phase::Reading);
    }

    /// The client will send no more, in the middle of a request.
    pub(super) fn ended(&self) {
        if self.phase() == Phase::Reading {
            self.set(Phase::Ending);
        }
    }

    /// The request's body has been read to its end.
    fn body_read(&self) {
        if self.is_reading() {
            self.set(Phase::Waiting);
        }
    }

    /// The routes have read what there is of the body, and wait for more.
    fn body_awaited(&self) {
        if self.phase() == Phase::Ending {
            self.set(Phase::CutShort);
        }
    }

    /// Whether a request's body has not been read to its end.
    fn is_reading(&self) -> bool {
        matches!(self.phase(), Phase::Reading | Phase::Ending | Phase::CutShort)
    }

    /// An answer is about to be written. Returns whether the request's body was read to its end: if
    /// not, no other request can follow.
    pub(super) fn answered(&self, is_upgrade: bool) -> bool {
        let is_read = !self.is_reading();
        if !is_read {
            self.linger();
        }
        self.set(if is_upgrade { Phase::Upgraded } else { Phase::Answered });
        is_read
    }

    /// An answer that comes bit by bit, to a request that was read to its end: what is written before
    /// its end ends no exchange.
    pub(super) fn told_at_its_end(self: &Arc<Self>, answer: Response) -> Response {
        let (head, body) = answer.into_parts();
        let exchange = Arc::clone(self);
        let end = futures_util::stream::poll_fn(move |_| {
            exchange.answered(false);
            Poll::Ready(None)
        });
        let mut answer = warp::reply::stream(body.into_data_stream().chain(end)).into_response();
        (*answer.status_mut(), *answer.headers_mut()) = (head.status, head.headers);
        answer
    }

    /// Everything that was to be written has been written.
    pub(super) fn flushed(&self) -> bool {
        let is_answer = self.phase() == Phase::Answered;
        if is_answer {
            self.set(Phase::Idle);
        }
        is_answer
    }

    pub(super) fn takes_interim(&self) -> bool {
        self.takes_interim.load(Ordering::Relaxed)
    }

    /// The client may still be sending, so the connection must not be closed at once: the client
    /// could lose the answer.
    pub(super) fn linger(&self) {
        self.lingers.store(true, Ordering::Relaxed);
    }

    pub(super) fn lingers(&self) -> bool {
        self.lingers.load(Ordering::Relaxed)
    }

    /// Ends the connection, if no request is on it.
    pub(super) fn evict(&self) -> bool {
        let is_idle = self.phase() == Phase::Idle;
        if is_idle {
            self.evicted.notify_one();
        }
        is_idle
    }

    /// Ready when another connection needs the place. Cancel safe.
    pub(super) async fn evicted(&self) {
        loop {
            self.evicted.notified().await;
            // A request may have come in between.
            if self.phase() == Phase::Idle {
                return;
            }
        }
    }
}

/// A request's body that tells when it has been read to its end, or as far as it has come.
#[derive(Debug)]
pub(super) struct Watched {
    body: Incoming,
    exchange: Arc<Exchange>,
}

impl Watched {
    pub(super) fn new(body: Incoming, exchange: &Arc<Exchange>) -> Self {
        if body.is_end_stream() {
            exchange.body_read();
        }
        Self { body, exchange: Arc::clone(exchange) }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let before = self.exchange.phase();
        match &polled {
            Poll::Ready(None) => self.exchange.body_read(),
            Poll::Ready(Some(Ok(_))) if self.body.is_end_stream() => self.exchange.body_read(),
            // What follows a body that cannot be read is no request.
            Poll::Ready(Some(_)) => {}
            Poll::Pending => self.exchange.body_awaited(),
        }
        if before == Phase::Ending && self.exchange.phase() != before {
            // The socket kept the end to itself until now.
            cx.waker().wake_by_ref();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
