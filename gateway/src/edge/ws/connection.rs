//! One WebSocket connection: begins a session or goes on with one, reads its client's frames,
//! writes what its session is owed, watches its heart.
//!
//! One task per connection and one future that drives both directions, so that a client which does
//! not read cannot keep the connection from noticing anything else.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
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
        protocol::{CloseFrame, frame::coding::CloseCode as FrameCode},
    },
};

use super::super::{Edge, Rate};
use crate::{
    config::SessionConfig,
    error::{CloseCode, ErrorCode, Failure},
    relay::{
        Relay, Session,
        session::{ConnectionId, Duty},
        token::Token,
    },
    wire::{BadFrame, ClientFrame, ClientId, Frame, Welcome},
};

/// How long a client may take to read the reason for which it is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to close its end after that.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Frames written before reading gets its turn.
const WRITES_MAX: usize = 64;
/// Written frames that nobody has confirmed, at which a ping asks whether they have come.
const UNCONFIRMED_MAX: usize = 64;

/// Messages that are read while a session is on its way here.
const EARLY_MAX: usize = 16;

/// What a client wants to go on with.
#[derive(Debug)]
pub(super) struct Wish {
    /// Whether it acknowledges frames. A session that is resumed is as it was.
    pub(super) is_reliable: bool,
    /// The session's token, none when it is no token at all, and the last frame that has come.
    pub(super) resume: Option<(Option<Token>, u64)>,
}

/// A socket that counts against the limit for as long as this lives.
#[derive(Debug)]
pub(super) struct Place(Arc<Relay>);

/// A connection of a session. Dropping it, also half-way through a panic, leaves the session to wait
/// for its client.
#[derive(Debug)]
struct Connection {
    relay: Arc<Relay>,
    session: Arc<Session>,
    id: ConnectionId,
    resumed: bool,
    times: SessionConfig,
    rate: Rate,
}

impl Place {
    /// Takes one, whether or not there is one left.
    pub(super) fn take(relay: &Arc<Relay>) -> Self {
        relay.connection_opened();
        Self(Arc::clone(relay))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
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
    /// What came before the session was there.
    early: VecDeque<Message>,
    connection: ConnectionId,
    /// Written, but perhaps not to the network yet.
    unflushed: bool,
    beat: Pin<Box<Sleep>>,
    pong_timeout: Duration,
    /// A ping is out.
    pinged: Option<Pinged>,
    /// The client has closed, and said that it will not come back.
    is_over: bool,
}

/// A ping that waits for its pong.
#[derive(Clone, Copy)]
struct Pinged {
    at: Instant,
    /// The last frame that left before it.
    seq: u64,
}

/// Serves a connection from its first frame to its end.
pub(super) async fn serve<S>(
    edge: &Edge,
    wish: Wish,
    rate: Rate,
    place: Place,
    stream: WebSocketStream<S>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let relay = &edge.relay;
    let mut socket = Socket {
        stream,
        early: VecDeque::new(),
        connection: ConnectionId::NONE,
        unflushed: false,
        beat: Box::pin(tokio::time::sleep(edge.session.ping_interval)),
        pong_timeout: edge.session.pong_timeout,
        pinged: None,
        is_over: false,
    };
    let resumed = match wish.resume {
        Some((Some(token), last_seq)) => {
            edge.handover.resume(&token, last_seq, || socket.is_open()).await
        }
        Some((None, _)) => {
            relay.refused_token();
            Ok(None)
        }
        None => Ok(None),
    };
    let (session, id, resumed) = match resumed {
        Ok(Some((session, id))) => (session, id, true),
        Ok(None) => {
            let (session, id) = relay.start_session(wish.is_reliable);
            (session, id, false)
        }
        Err(error) => {
            tracing::debug!(%error, "session not resumed");
            return socket.say_goodbye(relay, CloseCode::Internal).await;
        }
    };
    socket.connection = id;
    let (relay, times) = (Arc::clone(relay), edge.session.clone());
    let connection = Connection { relay, session, id, resumed, times, rate };
    let close = connection.run(&mut socket).await;
    let relay = Arc::clone(&connection.relay);
    match close {
        Some(code) => {
            tracing::debug!(session = %connection.session.id(), code = code.number(), "closing");
            connection.leave(!code.invites_back());
            socket.say_goodbye(&relay, code).await;
        }
        None => connection.leave(socket.is_over),
    }
    drop(place);
}

impl Connection {
    /// Serves the connection until its end; why this node ends it, if it does.
    async fn run<S>(&self, socket: &mut Socket<S>) -> Option<CloseCode>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        socket.start(Message::text(self.welcome())).ok()?;
        if self.resumed {
            // Its pong tells that the client has got its new token.
            socket.ping(&self.session);
        }
        let mut is_heard = !self.resumed;
        loop {
            let event = std::future::poll_fn(|cx| socket.poll_event(&self.session, cx)).await;
            let close = match event {
                Event::Message(message) => {
                    if !std::mem::replace(&mut is_heard, true) {
                        self.relay.heard(&self.session, self.id).await;
                    }
                    self.on_message(message, socket)
                }
                Event::Close(code) => Some(code),
                Event::Beat => self.on_beat(socket),
                Event::Gone => return None,
            };
            if close.is_some() {
                return close;
            }
        }
    }

    /// The connection is over; its session is too, or waits for its client.
    fn leave(self, is_over: bool) {
        if is_over {
            self.relay.end_session_of(&self.session, self.id);
        }
    }

    fn welcome(&self) -> String {
        Welcome {
            session: self.session.id(),
            resume: &self.session.token().to_text(),
            resumed: self.resumed,
            resume_window_ms: self.times.resume_window.as_millis(),
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
                if let Some(seq) = socket.pong(self.times.ping_interval)
                    && !self.session.is_reliable()
                {
                    // Whatever left before the ping has come too.
                    self.relay.confirm(&self.session, seq);
                }
                None
            }
            // The end of the stream follows.
            Message::Close(frame) => {
                socket.is_over = frame.is_some_and(|frame| frame.code == FrameCode::Normal);
                None
            }
            // Answered by the library.
            Message::Ping(_) | Message::Frame(_) => None,
        }
    }

    fn on_text(&self, text: &str) -> Option<CloseCode> {
        match ClientFrame::parse(text) {
            Ok(ClientFrame::Request(frame)) => {
                self.relay.request(&self.session, &frame, || self.rate.take(&self.relay));
            }
            Ok(ClientFrame::Cancel(id)) => self.on_cancel(id),
            Ok(ClientFrame::Ping(id)) => {
                self.relay.owe(&self.session, Frame::Pong { id }, None, None);
            }
            Ok(ClientFrame::Ack(seq)) => {
                if !self.session.has_sent(seq) {
                    return Some(CloseCode::ContractViolation);
                }
                self.relay.confirm(&self.session, seq);
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
        let frame = Frame::Error { id, request: None, failure, reply: None };
        self.relay.owe(&self.session, frame, None, None);
    }

    fn on_beat<S>(&self, socket: &mut Socket<S>) -> Option<CloseCode>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if socket.pinged.is_some() || !socket.ping(&self.session) {
            return Some(CloseCode::HeartbeatLost);
        }
        None
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.relay.detach(&self.session, self.id);
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
        if let Some(message) = self.early.pop_front() {
            return Poll::Ready(Event::Message(message));
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
                Poll::Pending => match session.poll_closing(self.connection, cx) {
                    Poll::Ready(code) => return Some(Event::Close(code)),
                    Poll::Pending => return None,
                },
            }
            if turn == WRITES_MAX {
                cx.waker().wake_by_ref();
                break;
            }
            match session.poll_duty(self.connection, cx) {
                Poll::Ready(Duty::Write(text)) => {
                    if self.start(Message::text(text)).is_err() {
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
                    session.flushed(self.connection);
                    if self.pinged.is_none()
                        && !session.is_reliable()
                        && session.written().1 >= UNCONFIRMED_MAX
                    {
                        self.ping(session);
                    }
                }
                Poll::Ready(Err(_)) => return Some(Event::Gone),
                Poll::Pending => {}
            }
        }
        None
    }

    /// Whether the client is there still, as far as has been heard.
    fn is_open(&mut self) -> bool {
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

    fn start(&mut self, message: Message) -> Result<(), SocketError> {
        self.unflushed = true;
        Pin::new(&mut self.stream).start_send(message)
    }

    /// Asks for a sign of life; false when that cannot be written. Behind what the client does not
    /// read, it waits like all else, and the client is lost after the same time.
    fn ping(&mut self, session: &Session) -> bool {
        let at = Instant::now();
        self.pinged = Some(Pinged { at, seq: session.written().0 });
        self.beat.as_mut().reset(at + self.pong_timeout);
        self.start(Message::Ping(bytes::Bytes::new())).is_ok()
    }

    /// Says why, and gives the client time to read it: closing at once would let the network drop
    /// what is not read yet.
    async fn say_goodbye(&mut self, relay: &Relay, code: CloseCode) {
        relay.telemetry().closed(code.number());
        match code {
            CloseCode::SlowConsumer => relay.telemetry().limit_hit("outbox_bytes_max"),
            CloseCode::TooLarge => relay.telemetry().limit_hit("frame_bytes_max"),
            _ => {}
        }
        let frame =
            CloseFrame { code: code.number().into(), reason: Utf8Bytes::from(code.reason()) };
        let said = tokio::time::timeout(CLOSE_TIMEOUT, self.stream.close(Some(frame))).await;
        if matches!(said, Ok(Ok(()))) {
            let lingered = tokio::time::timeout(LINGER_TIMEOUT, self.linger()).await;
            tracing::trace!(in_time = lingered.is_ok(), "client's end");
        }
    }
}

impl<S> Socket<S> {
    /// The client lives; the last frame that it has for sure.
    fn pong(&mut self, ping_interval: Duration) -> Option<u64> {
        let Pinged { at, seq } = self.pinged.take()?;
        self.beat.as_mut().reset(at + ping_interval);
        Some(seq)
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
