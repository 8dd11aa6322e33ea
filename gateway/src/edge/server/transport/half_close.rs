//! A client that has closed its writing half while it waits for its answer: finds out whether it is
//! still there.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

/// How long after its half-close a client is left alone. Most answers are there by then.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the kernel of a client that is gone may take to answer with a reset.
const PROBE: Duration = Duration::from_millis(300);
/// The pause between two interim answers.
const INTERVAL: Duration = Duration::from_secs(10);
/// An interim answer, which every client of HTTP/1.1 has to pass over (RFC 9110, section 15.2). The
/// kernel of one that is gone answers it with a reset: nothing else tells the two apart.
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

#[derive(Debug)]
pub(super) struct HalfClose {
    timer: Pin<Box<Sleep>>,
    is_asked: bool,
}

impl HalfClose {
    /// The client has just closed its writing half.
    pub(super) fn new() -> Self {
        Self { timer: Box::pin(sleep(PATIENCE)), is_asked: false }
    }

    /// Sends interim answers now and then, unless an earlier answer is still being written; ready when
    /// the client is gone for good.
    pub(super) fn poll(
        &mut self,
        stream: &TcpStream,
        is_writing: bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Error> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let wait = if self.is_asked {
                if !matches!(stream.take_error(), Ok(None)) {
                    return Poll::Ready(io::ErrorKind::ConnectionReset.into());
                }
                self.is_asked = false;
                INTERVAL
            } else if is_writing {
                PATIENCE
            } else {
                match stream.try_write(INTERIM) {
                    Ok(written) if written == INTERIM.len() => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // An interim answer that is written in part would break the final one.
                    Ok(_) => return Poll::Ready(io::ErrorKind::WriteZero.into()),
                    Err(error) => return Poll::Ready(error),
                }
                self.is_asked = true;
                PROBE
            };
            self.timer.as_mut().reset(Instant::now() + wait);
        }
    }
}
