//! The socket of a connection, between the kernel and the HTTP library. It does what RFC 9112 leaves
//! to whoever owns the socket: a client that closes its writing half still gets its answer, one that
//! is still sending does not lose it to a reset, one that is slow to ask or to read is not waited for
//! for ever, and what was no request is answered in the words of the listener.

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

/// How long a request's head may take to arrive, from the connection or its first byte on.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// How long a connection may be kept without a request: longer than proxies keep theirs, which
/// would otherwise send a request into a connection that is being closed.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// How long one is listened to that is only told that there is no place.
const REFUSED_MAX: Duration = Duration::from_secs(1);
/// How long a client may leave an answer unread.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);
/// What no head has in it, anywhere. The library says no to it, at once as a line ends, and what it
/// says is the listener's to put into words.
const NO_HEAD: &[u8] = b"\0\r\n\r\n";

/// A socket that counts against its listener for as long as this lives.
#[derive(Debug)]
pub(super) struct Transport {
    stream: TcpStream,
    exchange: Arc<Exchange>,
    /// How the listener answers what is no request; `None` once it has.
    voice: Option<Arc<Voice>>,
    stop: CancellationToken,
    /// Whether the client has closed its writing half.
    ended: bool,
    /// What has come of the next request.
    head: Head,
    /// Whether no request has been answered yet: to connect is to begin one.
    is_first: bool,
    /// What is wrong with the head, where the library is not to find it out by itself.
    flaw: Option<Flaw>,
    /// What it still has to be given for that.
    no_head: &'static [u8],
    half_close: Option<HalfClose>,
    stall: Option<Pin<Box<Sleep>>>,
    /// The answer to what was no request, as far as it is not written yet.
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

    /// Has the library refuse the head.
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

    /// The client has sent this. Whether the library is to see it.
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
                half_close.poll(&self.stream, cx).map(Err)
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

    /// Nothing has come. What is awaited has to come in time.
    fn poll_late(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.exchange.phase() != Phase::Idle || self.flaw.is_some() {
            return Poll::Pending;
        }
        let max = match self.is_first || self.head.has_begun() {
            _ if self.place.is_refusal() => REFUSED_MAX,
            true => HEAD_MAX,
            false => IDLE_MAX,
        };
        ready!(self.head.timer(max).poll(cx));
        if self.is_within_head() {
            self.refuse(Flaw::Late, buf);
        } else {
            tracing::debug!("connection closed: no request came");
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the HTTP library is about to answer what was no request: nobody else has an answer on
    /// the way, and it writes no body.
    fn is_verdict(&self, bytes: &[u8]) -> bool {
        self.exchange.phase() == Phase::Idle
            && (bytes.starts_with(b"HTTP/1.1 4") || bytes.starts_with(b"HTTP/1.0 4"))
            && bytes.ends_with(b"\r\n\r\n")
    }

    /// Takes the library's answer, and puts the listener's in its place.
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

    /// A write that does not get on ends the connection. Upgraded ones have heartbeats of their own.
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

    /// Reads on to the end of what the client still sends, if it does.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.linger.is_none() {
            match poll_discard(&mut self.stream, cx) {
                Poll::Ready(false) => return Poll::Ready(()),
                // One that has sent nothing more has read the answer, or will.
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
            // Its head is over: what waits for an answer holds no memory for it.
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
            // A WebSocket, too, holds no memory for what asked for it.
            this.head = Head::default();
        }
        if is_answered {
            this.is_first = false;
            this.half_close = None;
            if this.ended {
                // The library was not told of the end, and has to ask again.
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
