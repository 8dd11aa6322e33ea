//! One WebSocket connection: reads its client's frames, writes what its session is owed, watches
//! its heart.
//!
//! One task per connection and one future that drives both directions, so that a client which does
//! not read cannot keep the connection from noticing anything else.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
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

use super::super::Rate;
use crate::{
    config::SessionConfig,
    error::{CloseCode, ErrorCode, Failure},
    relay::{
        Relay, Session,
        session::{Duty, Queued},
    },
    wire::{BadFrame, ClientFrame, ClientId, Frame, Welcome},
};

/// How long a client may take to read the reason for which it is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to close its end after that.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Frames written before reading gets its turn.
const WRITES_MAX: usize = 64;

/// A connection of a session. Dropping it, also half-way through a panic, ends the session.
#[derive(Debug)]
pub(super) struct Connection {
    relay: Arc<Relay>,
    session: Arc<Session>,
    times: SessionConfig,
    rate: Rate,
}

/// What a connection meets.
enum Event {
    Message(Message),
    /// The gateway wants to close.
    Close(CloseCode),
    /// The client has closed, or the network has.
    Gone,
    /// The heartbeat's time has come.
    Beat,
}

/// The socket and what is on its way through it.
struct Socket<S> {
    stream: WebSocketStream<S>,
    /// Written, but perhaps not to the network yet.
    unflushed: bool,
    /// What the unflushed frames end.
    ends: Vec<ClientId>,
    beat: Pin<Box<Sleep>>,
    /// A ping is out since then.
    pinged: Option<Instant>,
}

impl Connection {
    /// Starts a session for a connection that is about to come.
    pub(super) fn start(relay: &Arc<Relay>, times: &SessionConfig, rate: Rate) -> Self {
        let session = relay.start_session();
        relay.telemetry().connections.inc();
        Self { relay: Arc::clone(relay), session, times: times.clone(), rate }
    }

    /// Serves the connection until its end.
    pub(super) async fn run<S>(self, stream: WebSocketStream<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut socket = Socket {
            stream,
            unflushed: false,
            ends: Vec::new(),
            beat: Box::pin(tokio::time::sleep(self.times.ping_interval)),
            pinged: None,
        };
        if socket.start(Message::text(self.welcome())).is_err() {
            return;
        }
        loop {
            let event = std::future::poll_fn(|cx| socket.poll_event(&self.session, cx)).await;
            let close = match event {
                Event::Message(message) => self.on_message(message, &mut socket),
                Event::Close(code) => Some(code),
                Event::Beat => self.on_beat(&mut socket),
                Event::Gone => return,
            };
            if let Some(code) = close {
                return self.close(socket, code).await;
            }
        }
    }

    fn welcome(&self) -> String {
        Welcome {
            session: self.session.id(),
            node: self.relay.node().id.as_str(),
            ping_interval_ms: self.times.ping_interval.as_millis(),
            max_message_bytes: self.relay.limits().message_bytes_max,
            max_in_flight: self.relay.limits().in_flight_per_connection_max,
        }
        .render()
    }

    fn on_message<S>(&self, message: Message, socket: &mut Socket<S>) -> Option<CloseCode> {
        match message {
            Message::Text(text) => self.on_text(text.as_str()),
            Message::Binary(bytes) => match std::str::from_utf8(&bytes) {
                Ok(text) => self.on_text(text),
                Err(_) => {
                    self.tell_bad(BadFrame {
                        id: None,
                        message: "a binary message is UTF-8 JSON too".into(),
                    });
                    None
                }
            },
            Message::Pong(_) => {
                socket.pong(self.times.ping_interval);
                None
            }
            // Answered by the library; the end of the stream follows a close.
            Message::Ping(_) | Message::Close(_) | Message::Frame(_) => None,
        }
    }

    fn on_text(&self, text: &str) -> Option<CloseCode> {
        match ClientFrame::parse(text) {
            Ok(ClientFrame::Request(frame)) => {
                self.relay.request(&self.session, &frame, || self.rate.take(&self.relay));
            }
            Ok(ClientFrame::Cancel(id)) => self.on_cancel(id),
            Ok(ClientFrame::Ping(id)) => {
                self.session.push(Frame::Pong { id }, None);
            }
            Ok(ClientFrame::Ack(seq)) => {
                if seq > self.session.last_seq() {
                    return Some(CloseCode::ContractViolation);
                }
            }
            Err(bad) => self.tell_bad(bad),
        }
        None
    }

    fn on_cancel(&self, id: ClientId) {
        // In flight but not pending: its answer is on its way and stands.
        match self.session.request(&id) {
            Some(request) => {
                self.relay.cancel(request);
            }
            None => {
                let failure =
                    Failure::new(ErrorCode::NotFound, "no request is in flight by this id");
                self.tell(Some(id), failure);
            }
        }
    }

    fn tell_bad(&self, BadFrame { id, message }: BadFrame) {
        // Only `duplicate` may name a request in flight without ending it.
        let in_flight = id.as_ref().is_some_and(|id| self.session.request(id).is_some());
        let code = if in_flight { ErrorCode::Duplicate } else { ErrorCode::BadRequest };
        self.tell(id, Failure::new(code, message));
    }

    fn tell(&self, id: Option<ClientId>, failure: Failure) {
        self.session.push(Frame::Error { id, request: None, failure, reply: None }, None);
    }

    fn on_beat<S>(&self, socket: &mut Socket<S>) -> Option<CloseCode>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if socket.pinged.is_some() {
            return Some(CloseCode::HeartbeatLost);
        }
        socket.ping(self.times.pong_timeout)
    }

    /// Says why, and gives the client time to read it: closing at once would let the network drop
    /// what is not read yet.
    async fn close<S>(&self, mut socket: Socket<S>, code: CloseCode)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        tracing::debug!(session = %self.session.id(), code = code.number(), "closing");
        self.relay.telemetry().closed(code.number());
        match code {
            CloseCode::SlowConsumer => self.relay.telemetry().limit_hit("outbox_bytes_max"),
            CloseCode::TooLarge => self.relay.telemetry().limit_hit("frame_bytes_max"),
            _ => {}
        }
        let frame =
            CloseFrame { code: code.number().into(), reason: Utf8Bytes::from(code.reason()) };
        // What the session is owed is given up from here on, not only after the good-bye.
        self.relay.end_session(&self.session);
        let said = tokio::time::timeout(CLOSE_TIMEOUT, socket.stream.close(Some(frame))).await;
        if matches!(said, Ok(Ok(()))) {
            let lingered = tokio::time::timeout(LINGER_TIMEOUT, socket.linger()).await;
            tracing::trace!(in_time = lingered.is_ok(), "client's end");
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.relay.end_session(&self.session);
        self.relay.telemetry().connections.dec();
    }
}

impl<S> Socket<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Drives everything that can go on; ready with what the connection has to decide.
    fn poll_event(&mut self, session: &Session, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(event) = self.poll_write(session, cx) {
            return Poll::Ready(event);
        }
        match Pin::new(&mut self.stream).poll_next(cx) {
            Poll::Ready(Some(Ok(message))) => return Poll::Ready(Event::Message(message)),
            Poll::Ready(Some(Err(error))) => {
                return Poll::Ready(close_code(&error).map_or(Event::Gone, Event::Close));
            }
            Poll::Ready(None) => return Poll::Ready(Event::Gone),
            Poll::Pending => {}
        }
        self.beat.as_mut().poll(cx).map(|()| Event::Beat)
    }

    /// Writes what the session is owed, as far as the network takes it.
    fn poll_write(&mut self, session: &Session, cx: &mut Context<'_>) -> Option<Event> {
        for turn in 0.. {
            match Pin::new(&mut self.stream).poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Some(Event::Gone),
                Poll::Pending => match session.poll_closing(cx) {
                    Poll::Ready(code) => return Some(Event::Close(code)),
                    Poll::Pending => return None,
                },
            }
            if turn == WRITES_MAX {
                cx.waker().wake_by_ref();
                break;
            }
            match session.poll_duty(cx) {
                Poll::Ready(Duty::Write(Queued { seq, frame, ends })) => {
                    self.ends.extend(ends);
                    if self.start(Message::text(frame.render(seq))).is_err() {
                        return Some(Event::Gone);
                    }
                }
                Poll::Ready(Duty::Close(code)) => return Some(Event::Close(code)),
                Poll::Pending => break,
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.unflushed = false;
                    session.written(std::mem::take(&mut self.ends));
                }
                Poll::Ready(Err(_)) => return Some(Event::Gone),
                Poll::Pending => {}
            }
        }
        None
    }

    fn start(&mut self, message: Message) -> Result<(), SocketError> {
        self.unflushed = true;
        Pin::new(&mut self.stream).start_send(message)
    }

    /// Asks for a sign of life. Behind what the client does not read, it waits like all else, and
    /// the client is lost after the same time.
    fn ping(&mut self, pong_timeout: Duration) -> Option<CloseCode> {
        let now = Instant::now();
        self.pinged = Some(now);
        self.beat.as_mut().reset(now + pong_timeout);
        self.start(Message::Ping(bytes::Bytes::new())).err().map(|_| CloseCode::HeartbeatLost)
    }
}

impl<S> Socket<S> {
    fn pong(&mut self, ping_interval: Duration) {
        if let Some(pinged) = self.pinged.take() {
            self.beat.as_mut().reset(pinged + ping_interval);
        }
    }
}

impl<S> Socket<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Reads on to the end of what the client still sends, unseen. The protocol is over by now, so
    /// the bytes are read past it.
    async fn linger(&mut self) {
        let io = self.stream.get_mut();
        if io.shutdown().await.is_err() {
            return;
        }
        let mut unseen = vec![0; 1024];
        while io.read(&mut unseen).await.is_ok_and(|read| read > 0) {}
    }
}

/// The close code for what went wrong with reading; none when the network itself is gone.
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
