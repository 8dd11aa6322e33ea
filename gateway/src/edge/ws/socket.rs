//! A WebSocket as its connection sees it: one future that drives both directions, so that a client
//! which does not read cannot keep the connection from noticing anything else.
//!
//! Pulls frames from the session. Follows the WebSocket protocol by itself, and leaves all other
//! decisions to the connection.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::{Sink, Stream};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, Sleep},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as SocketError, Message, Utf8Bytes,
        error::{CapacityError, ProtocolError},
        protocol::CloseFrame,
    },
};

use super::{listening::Listening, pings::Pings};
use crate::{
    config::SessionConfig,
    error::CloseCode,
    relay::{
        Relay, Session,
        session::{Closing, ConnectionId, Duty},
    },
};

/// How long a client may take to read the reason for which it is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to close its end after that.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Frames written before reading gets its turn.
const WRITES_MAX: usize = 64;
/// How many written frames nobody has confirmed when a ping asks whether they have come.
const UNCONFIRMED_MAX: usize = 64;

/// Bytes of a close frame's reason (RFC 6455 section 5.5, less the code).
const REASON_BYTES_MAX: usize = 123;

/// Messages that are read while a session is on its way here.
const EARLY_MAX: usize = 16;

/// What a connection has to react to.
#[derive(Debug)]
pub(super) enum Event {
    Message(Message),
    /// The gateway wants to close.
    Close(CloseCode),
    /// The client has closed, or the network has.
    Gone,
    /// It is time to look at the heartbeat.
    Beat,
}

/// The socket and what is on its way through it.
#[derive(Debug)]
pub(super) struct Socket<S> {
    stream: WebSocketStream<Listening<S>>,
    /// Messages that came before the session was there.
    early: VecDeque<Message>,
    /// Which of its session's connections this is, once there is a session.
    connection: ConnectionId,
    /// Written to the socket, but perhaps not to the network yet.
    unflushed: bool,
    beat: Pin<Box<Sleep>>,
    pings: Pings,
    pong_timeout: Duration,
    outbox_bytes_max: usize,
    /// The client has closed, and said that it will not come back.
    pub(super) is_over: bool,
    /// What was wrong, if the close code alone does not say it.
    why: Option<String>,
}

impl<S> Socket<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// A socket that has no session yet.
    pub(super) fn new(stream: WebSocketStream<Listening<S>>, times: &SessionConfig) -> Self {
        Self {
            stream,
            early: VecDeque::new(),
            connection: ConnectionId::NONE,
            unflushed: false,
            beat: Box::pin(tokio::time::sleep(times.ping_interval)),
            pings: Pings::new(times.ping_interval, times.pong_timeout),
            pong_timeout: times.pong_timeout,
            outbox_bytes_max: times.outbox_bytes_max,
            is_over: false,
            why: None,
        }
    }

    /// Serves this connection of its session from now on.
    pub(super) fn serve(&mut self, connection: ConnectionId) {
        self.connection = connection;
    }

    /// Drives everything that can make progress; ready when the connection has to decide something.
    pub(super) fn poll_event(&mut self, session: &Session, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(event) = self.poll_write(session, cx) {
            return Poll::Ready(event);
        }
        if let Some(message) = self.early.pop_front() {
            return Poll::Ready(Event::Message(message));
        }
        match Pin::new(&mut self.stream).poll_next(cx) {
            Poll::Ready(Some(Ok(message))) => return Poll::Ready(Event::Message(message)),
            Poll::Ready(Some(Err(error))) => {
                if let SocketError::Capacity(CapacityError::MessageTooLong { size, max_size }) =
                    error
                {
                    self.explain(format!(
                        "message of {size} bytes or more; frame_bytes_max is {max_size}"
                    ));
                }
                return Poll::Ready(close_code(&error).map_or(Event::Gone, Event::Close));
            }
            Poll::Ready(None) => return Poll::Ready(Event::Gone),
            Poll::Pending => {}
        }
        self.beat.as_mut().poll(cx).map(|()| Event::Beat)
    }

    /// Why the session wants to be closed, if it does.
    fn close(&mut self, closing: Closing) -> Event {
        if let Some(bytes) = closing.waiting_bytes {
            let max = self.outbox_bytes_max;
            self.explain(format!("outbox_bytes_max is {max}; {bytes} bytes wait, read faster"));
        }
        Event::Close(closing.code)
    }

    /// Writes what the session is owed, as far as the network takes it.
    fn poll_write(&mut self, session: &Session, cx: &mut Context<'_>) -> Option<Event> {
        for turn in 0.. {
            match Pin::new(&mut self.stream).poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Some(Event::Gone),
                Poll::Pending => match session.on(self.connection).poll_closing(cx) {
                    Poll::Ready(closing) => return Some(self.close(closing)),
                    Poll::Pending => return None,
                },
            }
            if turn == WRITES_MAX {
                cx.waker().wake_by_ref();
                break;
            }
            match session.on(self.connection).poll_duty(cx) {
                Poll::Ready(Duty::Write(frame)) => {
                    let is_written = self.start(Message::text(frame.text())).is_ok();
                    if !is_written || (frame.is_last_missed() && !self.ping(session)) {
                        return Some(Event::Gone);
                    }
                }
                Poll::Ready(Duty::Close(closing)) => return Some(self.close(closing)),
                Poll::Pending => break,
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.unflushed = false;
                    session.on(self.connection).flushed();
                    let is_unsure = !session.is_reliable() && !self.pings.is_out();
                    if is_unsure && session.written().1 >= UNCONFIRMED_MAX && !self.ping(session) {
                        return Some(Event::Gone);
                    }
                }
                Poll::Ready(Err(_)) => return Some(Event::Gone),
                Poll::Pending => {}
            }
        }
        None
    }

    /// Whether the client still seems to be there.
    pub(super) fn is_open(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        while self.early.len() < EARLY_MAX {
            match Pin::new(&mut self.stream).poll_next(&mut context) {
                Poll::Ready(Some(Ok(Message::Close(_)) | Err(_)) | None) => return false,
                Poll::Ready(Some(Ok(message))) => self.early.push_back(message),
                Poll::Pending => break,
            }
        }
        true
    }

    /// Begins to write a message.
    ///
    /// # Errors
    /// The socket is gone.
    pub(super) fn start(&mut self, message: Message) -> Result<(), SocketError> {
        self.unflushed = true;
        Pin::new(&mut self.stream).start_send(message)
    }

    /// Sends a ping, with which the client proves that it has read what was written before it;
    /// false if the ping cannot be written. If the client does not read, the ping waits like
    /// everything else, and the client counts as lost after the same time.
    pub(super) fn ping(&mut self, session: &Session) -> bool {
        let now = Instant::now();
        if !self.pings.is_out() {
            self.stream.get_mut().take_has_come();
        }
        let Some(payload) = self.pings.begin(now, session.on(self.connection).taken()) else {
            return true;
        };
        self.beat.as_mut().reset(self.pings.due(now));
        self.start(Message::Ping(payload)).is_ok()
    }

    /// Whether a client that owes a pong gets more time because it sends other things; if so, its
    /// time is extended.
    pub(super) fn still_waits(&mut self) -> bool {
        let now = Instant::now();
        let end = self.pings.due_at_last().filter(|end| *end > now);
        let Some(end) = end.filter(|_| self.stream.get_mut().take_has_come()) else { return false };
        self.beat.as_mut().reset(end.min(now + self.pong_timeout));
        true
    }

    /// Sends the reason for the close, and gives the client time to read it: if the connection were
    /// closed at once, the network could drop what is not read yet.
    pub(super) async fn say_goodbye(&mut self, relay: &Relay, code: CloseCode) {
        relay.telemetry.closed(code.number());
        match code {
            CloseCode::SlowConsumer => relay.telemetry.limit_hit("outbox_bytes_max"),
            CloseCode::TooLarge => relay.telemetry.limit_hit("frame_bytes_max"),
            _ => {}
        }
        let why = self.why.take();
        let reason = why.as_deref().unwrap_or_else(|| code.reason());
        // A control frame has no room for more.
        let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
        let frame = CloseFrame { code: code.number().into(), reason: Utf8Bytes::from(reason) };
        let said = tokio::time::timeout(CLOSE_TIMEOUT, self.stream.close(Some(frame))).await;
        if matches!(said, Ok(Ok(()))) {
            let lingered = tokio::time::timeout(LINGER_TIMEOUT, self.linger()).await;
            tracing::trace!(in_time = lingered.is_ok(), "client's end");
        }
    }
}

impl<S> Socket<S> {
    /// Lets the close frame say what was wrong.
    pub(super) fn explain(&mut self, why: String) {
        self.why = Some(why);
    }

    /// Whether a ping waits for its pong.
    pub(super) fn is_pinged(&self) -> bool {
        self.pings.is_out()
    }

    /// A pong has come. Returns the last frame that the client certainly has, if the pong proves
    /// any.
    pub(super) fn pong(&mut self, payload: &[u8]) -> Option<u64> {
        let (at, seq) = self.pings.end(payload)?;
        self.beat.as_mut().reset(self.pings.due(at));
        Some(seq)
    }
}

impl<S> Socket<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Reads and discards the rest of what the client sends. The WebSocket protocol is over by now,
    /// so the bytes are read from the stream below it.
    async fn linger(&mut self) {
        let io = self.stream.get_mut();
        if io.shutdown().await.is_err() {
            return;
        }
        let mut unseen = vec![0; 1024];
        while io.read(&mut unseen).await.is_ok_and(|read| read > 0) {}
    }
}

/// The close code for a failed read; `None` if the network itself is gone.
fn close_code(error: &SocketError) -> Option<CloseCode> {
    match error {
        SocketError::Capacity(CapacityError::MessageTooLong { .. }) => Some(CloseCode::TooLarge),
        SocketError::Utf8(_) => Some(CloseCode::NotUtf8),
        SocketError::Protocol(
            ProtocolError::ResetWithoutClosingHandshake
            | ProtocolError::SendAfterClosing
            | ProtocolError::ReceivedAfterClosing,
        ) => None,
        SocketError::Protocol(_) | SocketError::Capacity(_) => Some(CloseCode::Protocol),
        _ => None,
    }
}
