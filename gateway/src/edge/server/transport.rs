//! The socket of a connection, between the kernel and the HTTP library. It does what RFC 9112
//! leaves to the owner of the socket: a client that closes its writing half still gets its answer,
//! a client that is still sending does not lose the answer to a reset, slow clients are given up
//! after a time, and bytes that are no request get an answer of the listener's own.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    exchange::{Exchange, Phase},
    head::Head,
    no_request::Flaw,
    places::Place,
    voice::Voice,
};

mod half_close;
mod linger;
mod verdict;

use half_close::HalfClose;
use linger::{Linger, poll_discard};
use verdict::Verdict;

/// How long a request's head may take to arrive, counted from the connection or from the head's
/// first byte.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// How long a connection may be kept without a request: longer than proxies keep theirs, which
/// would otherwise send a request into a connection that is being closed.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// How long a client is read from that only learns that there is no place.
const REFUSED_MAX: Duration = Duration::from_secs(1);
/// How long a client may leave an answer unread.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);
/// Bytes that no head may contain. The library refuses them as soon as a line ends, and the
/// listener puts its own answer in the place of the library's.
const NO_HEAD: &[u8] = b"\0\r\n\r\n";

/// A socket that counts against its listener for as long as this lives.
#[derive(Debug)]
pub(super) struct Transport {
    stream: TcpStream,
    exchange: Arc<Exchange>,
    /// Answers for the listener what is no request; `None` once it has.
    voice: Option<Arc<Voice>>,
    stop: CancellationToken,
    /// Whether the client has closed its writing half.
    ended: bool,
    /// The bytes of the next request's head, as far as they have come.
    head: Head,
    /// Whether no request has been answered yet: a connection begins with the wait for a head.
    is_first: bool,
    /// What is wrong with the head, if the library cannot find it out by itself.
    flaw: Option<Flaw>,
    /// The bytes that the library still has to read in order to refuse the head.
    no_head: &'static [u8],
    half_close: Option<HalfClose>,
    stall: Option<Pin<Box<Sleep>>>,
    /// The answer to bytes that were no request, until it is written.
    verdict: Option<Verdict>,
    linger: Option<Linger>,
    place: Place,
}

impl Transport {
    pub(super) fn new(
        stream: TcpStream,
        place: Place,
        exchange: Arc<Exchange>,
        voice: Arc<Voice>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            stream,
            exchange,
            voice: Some(voice),
            stop,
            ended: false,
            head: Head::default(),
            is_first: true,
            flaw: None,
            no_head: &[],
            half_close: None,
            stall: None,
            verdict: None,
            linger: None,
            place,
        }
    }

    /// Whether the client is in the middle of a request's head.
    fn is_within_head(&self) -> bool {
        self.exchange.phase() == Phase::Idle && self.head.has_begun() && !self.head.is_over()
    }

    /// Makes the library refuse the head.
    fn refuse(&mut self, flaw: Flaw, buf: &mut ReadBuf<'_>) {
        self.flaw = Some(flaw);
        self.no_head = NO_HEAD;
        self.put_no_head(buf);
    }

    fn put_no_head(&mut self, buf: &mut ReadBuf<'_>) {
        let (now, later) = self.no_head.split_at(self.no_head.len().min(buf.remaining()));
        buf.put_slice(now);
        self.no_head = later;
    }

    /// Takes bytes that the client has sent. False if the library must not see them.
    fn take(&mut self, new: &[u8]) -> bool {
        if self.exchange.phase() != Phase::Idle {
            return true;
        }
        let has_begun = self.head.has_begun();
        self.head.take(new);
        if self.head.has_begun() && !has_begun && !self.is_first {
            self.head.set_timer(HEAD_MAX);
        }
        !self.head.is_http2()
    }

    /// The client will send no more. The HTTP library would give up what waits for an answer, so it
    /// hears of it only when nothing does: there is no request, its body will never be whole, or the
    /// client is gone for good.
    fn poll_end(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.exchange.phase() {
            Phase::Waiting if self.exchange.takes_interim() => {
                let half_close = self.half_close.get_or_insert_with(HalfClose::new);
                half_close.poll(&self.stream, self.stall.is_some(), cx).map(Err)
            }
            Phase::Reading => {
                // The library may hold all of the body, or none of it: the routes will tell, and a
                // task that is woken lets them read first.
                self.exchange.ended();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            // Woken by the routes, or by the flush.
            Phase::Ending | Phase::Waiting | Phase::Answered => Poll::Pending,
            Phase::Idle | Phase::CutShort | Phase::Upgraded => {
                if self.flaw.is_none() && self.is_within_head() {
                    self.refuse(Flaw::Half, buf);
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Nothing has come. If it is late, the head is refused or the connection ends.
    fn poll_late(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.exchange.phase() != Phase::Idle || self.flaw.is_some() {
            return Poll::Pending;
        }
        ready!(self.poll_timer(cx));
        if self.is_within_head() {
            self.refuse(Flaw::Late, buf);
        } else {
            tracing::debug!("connection closed: no request came");
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when what is awaited is late.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let max = match self.is_first || self.head.has_begun() {
            _ if self.place.is_refusal() => REFUSED_MAX,
            true => HEAD_MAX,
            false => IDLE_MAX,
        };
        self.head.timer(max).poll(cx)
    }

    /// Whether the HTTP library is about to refuse bytes that were no request: no other answer is
    /// on its way, and this one has no body.
    fn is_verdict(&self, bytes: &[u8]) -> bool {
        self.exchange.phase() == Phase::Idle
            && (bytes.starts_with(b"HTTP/1.1 4") || bytes.starts_with(b"HTTP/1.0 4"))
            && bytes.ends_with(b"\r\n\r\n")
    }

    /// Discards the library's answer, and queues the listener's own.
    fn take_verdict(&mut self, bytes: &[u8]) -> bool {
        if self.verdict.is_some() {
            return true;
        }
        if self.voice.is_none() || !self.is_verdict(bytes) {
            return false;
        }
        if let Some(voice) = self.voice.take() {
            self.verdict = Some(Verdict::new(voice, bytes, self.flaw, &self.head));
            self.exchange.linger();
        }
        true
    }

    fn poll_verdict(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.verdict {
            Some(verdict) => verdict.poll(&mut self.stream, &mut self.head, cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Gives up a connection whose writes make no progress. Upgraded ones have heartbeats of their
    /// own.
    fn bounded<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() || self.exchange.phase() == Phase::Upgraded {
            self.stall = None;
            return polled;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(WRITE_STALL_MAX)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads and discards the rest of what the client sends, if it still sends.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.linger.is_none() {
            match poll_discard(&mut self.stream, cx) {
                Poll::Ready(false) => return Poll::Ready(()),
                // A client that has sent nothing more has read the answer, or will.
                Poll::Pending if !self.exchange.lingers() => return Poll::Ready(()),
                Poll::Ready(true) | Poll::Pending => {}
            }
        }
        let new = || Linger::new(self.place.is_refusal(), &self.stop);
        self.linger.get_or_insert_with(new).poll(&mut self.stream, cx)
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.exchange.phase() != Phase::Idle {
            // The head is over: a request that waits for its answer keeps no memory for it.
            this.head = Head::default();
        }
        if !this.no_head.is_empty() {
            this.put_no_head(buf);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        if !this.ended {
            match Pin::new(&mut this.stream).poll_read(cx, buf)? {
                Poll::Ready(()) => {}
                Poll::Pending => return this.poll_late(cx, buf),
            }
        }
        let new = &buf.filled()[before..];
        if !new.is_empty() {
            if !this.take(new) {
                buf.set_filled(before);
                this.refuse(Flaw::Http2, buf);
            }
            return Poll::Ready(Ok(()));
        }
        this.ended = true;
        this.poll_end(cx, buf)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.take_verdict(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.bounded(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let [buf] = bufs
            && this.take_verdict(buf)
        {
            return Poll::Ready(Ok(buf.len()));
        }
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.bounded(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called only when everything that was handed over has been taken.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let is_answered = this.exchange.flushed();
        if is_answered || this.exchange.phase() == Phase::Upgraded {
            // A WebSocket keeps no memory for its handshake's head either.
            this.head = Head::default();
        }
        if is_answered {
            this.is_first = false;
            this.half_close = None;
            // The library reads on only once it is woken: by the next request, when that is late, or,
            // as it was not told of the end, at once.
            if this.ended || this.poll_timer(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        let polled = this.poll_verdict(cx);
        ready!(this.bounded(cx, polled))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            let polled = this.poll_verdict(cx);
            ready!(this.bounded(cx, polled))?;
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        if !this.ended && this.exchange.phase() != Phase::Upgraded {
            ready!(this.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
