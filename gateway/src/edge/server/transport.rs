//! The socket of a connection, between the kernel and the HTTP library. It does what RFC 9112 leaves
//! to whoever owns the socket: a client that closes its writing half still gets its answer, one that
//! is still sending does not lose it to a reset, one that does not read is not waited for for ever,
//! and what was no request is answered in the words of the listener.

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
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{
    exchange::{Exchange, Phase},
    places::Place,
    voice::Voice,
};

/// How long after its half-close a client is left alone. Most answers are there by then.
const HALF_CLOSE_PATIENCE: Duration = Duration::from_secs(2);
/// How long the kernel of a client that has gone may take to say so.
const HALF_CLOSE_PROBE: Duration = Duration::from_millis(300);
/// From one such question to the next.
const HALF_CLOSE_INTERVAL: Duration = Duration::from_secs(10);
/// An interim answer, which every client of HTTP/1.1 has to pass over (RFC 9110, section 15.2). The
/// kernel of one that is gone answers it with a reset: nothing else tells the two apart.
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How long a client may go on sending after its last answer, in all and without a byte.
const LINGER_MAX: Duration = Duration::from_secs(30);
const LINGER_IDLE_MAX: Duration = Duration::from_secs(5);
/// The same where the client was let in only to be told that there is no place.
const REFUSED_LINGER_MAX: Duration = Duration::from_secs(1);
/// Bytes that are thrown away at once.
const DISCARDED_BYTES: usize = 16 * 1024;

/// How long a request's head may take to arrive, from the connection or its first byte on.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// How long a client may leave an answer unread.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);

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
    half_close: Option<HalfClose>,
    stall: Option<Pin<Box<Sleep>>>,
    /// The answer to what was no request, as far as it is not written yet.
    verdict: Option<(Box<[u8]>, usize)>,
    linger: Option<Linger>,
    place: Place,
}

/// A request's head, as far as the socket sees it.
#[derive(Debug, Default)]
struct Head {
    has_begun: bool,
    /// Whether its first line has ended.
    has_line: bool,
    /// When it must have come: set only while it is awaited.
    timer: Option<Pin<Box<Sleep>>>,
}

/// A client that has closed its writing half while it waits for its answer.
#[derive(Debug)]
struct HalfClose {
    timer: Pin<Box<Sleep>>,
    is_asked: bool,
}

/// A client that has its last answer, and may still be sending.
#[derive(Debug)]
struct Linger {
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
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
            // To connect is to begin.
            head: Head { has_begun: true, ..Head::default() },
            half_close: None,
            stall: None,
            verdict: None,
            linger: None,
            place,
        }
    }

    /// The client will send no more. The HTTP library would give up what waits for an answer, so it
    /// hears of it only when nothing does, or when the client is gone for good.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.exchange.phase() {
            Phase::Waiting if self.exchange.takes_interim() => {}
            // Woken by the flush.
            Phase::Waiting | Phase::Answered => return Poll::Pending,
            Phase::Idle | Phase::Reading | Phase::Upgraded => return Poll::Ready(Ok(())),
        }
        let half_close = self.half_close.get_or_insert_with(|| HalfClose {
            timer: Box::pin(sleep(HALF_CLOSE_PATIENCE)),
            is_asked: false,
        });
        loop {
            ready!(half_close.timer.as_mut().poll(cx));
            let wait = if half_close.is_asked {
                if !matches!(self.stream.take_error(), Ok(None)) {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                HALF_CLOSE_INTERVAL
            } else {
                match self.stream.try_write(INTERIM) {
                    Ok(written) if written == INTERIM.len() => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // Half of it would spoil the answer.
                    Ok(_) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Err(error) => return Poll::Ready(Err(error)),
                }
                HALF_CLOSE_PROBE
            };
            half_close.is_asked = !half_close.is_asked;
            half_close.timer.as_mut().reset(Instant::now() + wait);
        }
    }

    /// Nothing has come. A head that has begun has to end in time.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.exchange.phase() != Phase::Idle {
            self.head.timer = None;
            return Poll::Pending;
        }
        if !self.head.has_begun {
            return Poll::Pending;
        }
        let timer = self.head.timer.get_or_insert_with(|| Box::pin(sleep(HEAD_MAX)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
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
            self.verdict = Some((voice.verdict(bytes, self.head.has_line), 0));
            self.exchange.linger();
        }
        true
    }

    fn poll_verdict(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some((bytes, written)) = &mut self.verdict else { return Poll::Ready(Ok(())) };
        while *written < bytes.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &bytes[*written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                more => *written += more,
            }
        }
        Poll::Ready(Ok(()))
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

    /// Reads and throws away what the client is still sending, until it has heard that nobody
    /// listens (RFC 9112, section 9.6): to close at once would reset the connection, and a reset
    /// overtakes the answer.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let lingers = self.exchange.lingers();
        let (max, idle_max) = match self.place.is_refusal() {
            true => (REFUSED_LINGER_MAX, REFUSED_LINGER_MAX),
            false => (LINGER_MAX, LINGER_IDLE_MAX),
        };
        let mut discarded = [0; DISCARDED_BYTES];
        loop {
            let mut bytes = ReadBuf::new(&mut discarded);
            match Pin::new(&mut self.stream).poll_read(cx, &mut bytes) {
                Poll::Ready(Ok(())) if bytes.filled().is_empty() => return Poll::Ready(()),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                // One that has sent nothing more has read the answer, or will.
                Poll::Pending if self.linger.is_none() && !lingers => return Poll::Ready(()),
                Poll::Ready(Ok(())) | Poll::Pending if self.linger.is_none() => {
                    self.linger = Some(Linger {
                        deadline: Instant::now() + max,
                        timer: Box::pin(sleep(idle_max)),
                        stopped: Box::pin(self.stop.clone().cancelled_owned()),
                    });
                }
                Poll::Ready(Ok(())) => {}
                Poll::Pending => break,
            }
            if let Some(linger) = &mut self.linger {
                let idle = Instant::now() + idle_max;
                linger.timer.as_mut().reset(idle.min(linger.deadline));
                if linger.deadline <= Instant::now() {
                    return Poll::Ready(());
                }
            }
        }
        let Some(linger) = &mut self.linger else { return Poll::Ready(()) };
        if linger.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        linger.timer.as_mut().poll(cx)
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if !this.ended {
            match Pin::new(&mut this.stream).poll_read(cx, buf)? {
                Poll::Ready(()) => {}
                Poll::Pending => return this.poll_late(cx),
            }
        }
        let new = &buf.filled()[before..];
        if !new.is_empty() {
            this.head.has_begun = true;
            this.head.has_line = this.head.has_line || new.contains(&b'\n');
            return Poll::Ready(Ok(()));
        }
        this.ended = true;
        this.poll_end(cx)
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
        if this.exchange.flushed() {
            this.head = Head::default();
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
