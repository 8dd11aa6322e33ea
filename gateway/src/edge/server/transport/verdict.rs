//! The answer to bytes that were no request. It replaces the HTTP library's own, which has no body.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::super::{
    head::Head,
    no_request::{Flaw, of_library},
    requirements::Unmet,
    voice::Voice,
};

/// How long the rest of a head is read that is too large. The page that sent it may read the answer
/// only if the head names the page, and browsers put `Origin` after the page's own headers.
const REST_MAX: Duration = Duration::from_secs(1);
/// How many bytes of it are read at once.
const REST_BYTES: usize = 4 * 1024;

#[derive(Debug)]
pub(super) struct Verdict {
    voice: Arc<Voice>,
    unmet: Unmet,
    /// The line with the date, from the library's answer.
    date: Box<[u8]>,
    /// Until when the rest of the head is read; `None` if it need not be read.
    rest: Option<Pin<Box<Sleep>>>,
    /// The text of the answer, once it is known, and how much of it is written.
    text: Option<(Box<[u8]>, usize)>,
}

impl Verdict {
    /// Replaces the library's answer. `flaw` is what only the socket knows.
    pub(super) fn new(voice: Arc<Voice>, library: &[u8], flaw: Option<Flaw>, head: &Head) -> Self {
        let status = library.get(9..12).and_then(|status| StatusCode::from_bytes(status).ok());
        let status = status.unwrap_or(StatusCode::BAD_REQUEST);
        let unmet = flaw.map_or_else(|| of_library(status, head), Flaw::unmet);
        let is_too_large = [StatusCode::URI_TOO_LONG, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE]
            .contains(&unmet.status);
        let lines = library.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
        Self {
            voice,
            unmet,
            date: { lines }.find(|line| line.starts_with(b"date:")).unwrap_or_default().into(),
            rest: is_too_large.then(|| Box::pin(sleep(REST_MAX))),
            text: None,
        }
    }

    /// Writes the answer; ready when all of it is written.
    pub(super) fn poll(
        &mut self,
        stream: &mut TcpStream,
        head: &mut Head,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(timer) = &mut self.rest {
            ready!(poll_rest(stream, head, timer.as_mut(), cx));
            self.rest = None;
        }
        let Self { voice, unmet, date, text, .. } = self;
        let (text, written) = text.get_or_insert_with(|| (voice.verdict(unmet, head, date), 0));
        while *written < text.len() {
            match ready!(Pin::new(&mut *stream).poll_write(cx, &text[*written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                more => *written += more,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Reads a head to its end, but only as far as it is remembered, and as long as there is time.
fn poll_rest(
    stream: &mut TcpStream,
    head: &mut Head,
    timer: Pin<&mut Sleep>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    while !head.is_over() {
        let mut bytes = [0; REST_BYTES];
        let mut bytes = ReadBuf::new(&mut bytes);
        match Pin::new(&mut *stream).poll_read(cx, &mut bytes) {
            Poll::Ready(Ok(())) if !bytes.filled().is_empty() => head.take(bytes.filled()),
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending => return timer.poll(cx),
        }
    }
    Poll::Ready(())
}
