//! A client that has its last answer may still be sending, so its bytes are read and discarded for
//! a while (RFC 9112, section 9.6). If the connection were closed at once, it would be reset, and
//! the client could lose the answer to the reset.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How long a client may go on sending after its last answer, in all and without a byte.
const MAX: Duration = Duration::from_secs(30);
const IDLE_MAX: Duration = Duration::from_secs(5);
/// The same for a client that only learns that there is no place.
const REFUSED_MAX: Duration = Duration::from_secs(1);
/// How many bytes are discarded at once.
const DISCARDED_BYTES: usize = 16 * 1024;

/// Until when the client is read from.
#[derive(Debug)]
pub(super) struct Linger {
    deadline: Instant,
    idle_max: Duration,
    timer: Pin<Box<Sleep>>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Linger {
    /// Begins now, and ends at the latest when the node stops.
    pub(super) fn new(is_refusal: bool, stop: &CancellationToken) -> Self {
        let (max, idle_max) = if is_refusal { (REFUSED_MAX, REFUSED_MAX) } else { (MAX, IDLE_MAX) };
        Self {
            deadline: Instant::now() + max,
            idle_max,
            timer: Box::pin(sleep(idle_max)),
            stopped: Box::pin(stop.clone().cancelled_owned()),
        }
    }

    /// Discards what comes; ready when the client is done or its time is over.
    pub(super) fn poll(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match poll_discard(stream, cx) {
                Poll::Ready(true) => {
                    let now = Instant::now();
                    self.timer.as_mut().reset(self.deadline.min(now + self.idle_max));
                    if self.deadline <= now {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(false) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        if self.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        self.timer.as_mut().poll(cx)
    }
}

/// Discards what has come; false if nothing more will come.
pub(super) fn poll_discard(stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<bool> {
    let mut discarded = [0; DISCARDED_BYTES];
    let mut bytes = ReadBuf::new(&mut discarded);
    let polled = Pin::new(stream).poll_read(cx, &mut bytes);
    polled.map(|read| read.is_ok() && !bytes.filled().is_empty())
}
