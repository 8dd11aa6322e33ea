//! One WebSocket connection: begins a session or goes on with one, reads its client's frames,
//! writes what its session is owed, and keeps its heartbeat. One task for each connection.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::frame::coding::CloseCode as FrameCode},
};

use super::{
    super::{Edge, Rate},
    listening::Listening,
    socket::{Event, Socket},
};
use crate::{
    config::SessionConfig,
    error::{CloseCode, ErrorCode, Failure},
    relay::{
        Relay, Session,
        lifecycle::resume::Undecided,
        session::{ConnectionId, Token},
    },
    wire::{BadFrame, ClientFrame, ClientId, Frame, Welcome},
};

/// What a client asks for when it connects.
#[derive(Debug, Default)]
pub struct Wish {
    /// Whether it acknowledges frames. A session that is resumed keeps what it had.
    pub is_reliable: bool,
    /// The session's token (`None` if the client's is malformed), and the number of the last frame
    /// that the client has.
    pub resume: Option<(Option<Token>, u64)>,
}

/// A socket that counts against the limit for as long as this lives.
#[derive(Debug)]
pub(super) struct Place {
    relay: Arc<Relay>,
    is_dismissed: bool,
}

/// A connection of a session. When it is dropped, also by a panic, the session waits for its
/// client.
#[derive(Debug)]
struct Connection {
    relay: Arc<Relay>,
    session: Arc<Session>,
    id: ConnectionId,
    resumed: bool,
    times: SessionConfig,
    rate: Rate,
}

/// What follows from a message.
enum Next {
    Nothing,
    /// The client has read its welcome.
    Heard,
    Close(CloseCode),
}

impl Place {
    /// Counts one socket more, even beyond the limit.
    pub(super) fn take(relay: &Arc<Relay>) -> Self {
        relay.gate.connection_opened();
        relay.telemetry.connections.inc();
        Self { relay: Arc::clone(relay), is_dismissed: false }
    }

    /// Nothing is served on the socket any more, so a node that stops need not wait for it.
    fn dismiss(&mut self) {
        if !std::mem::replace(&mut self.is_dismissed, true) {
            self.relay.gate.connection_dismissed();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.dismiss();
        self.relay.gate.connection_closed();
        self.relay.telemetry.connections.dec();
    }
}

/// Serves a connection from its first frame to its end.
pub(super) async fn serve<S>(
    edge: &Edge,
    wish: Wish,
    rate: Rate,
    mut place: Place,
    stream: WebSocketStream<Listening<S>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let relay = &edge.relay;
    let mut socket = Socket::new(stream, &edge.session);
    let resumed = match wish.resume {
        Some((Some(token), last_seq)) => {
            edge.relay.resumption.resume(&token, last_seq, || socket.is_open()).await
        }
        Some((None, _)) => {
            relay.lifecycle.refused_token();
            Ok(None)
        }
        None => Ok(None),
    };
    let (session, id, resumed) = match resumed {
        Ok(Some((session, id))) => (session, id, true),
        Ok(None) => {
            let (session, id) = relay.lifecycle.start(wish.is_reliable);
            (session, id, false)
        }
        Err(error) => {
            tracing::debug!(%error, "session not resumed");
            let code = match error {
                Undecided::Registry(_) | Undecided::Claimed => CloseCode::Internal,
                Undecided::Draining => CloseCode::Draining,
            };
            place.dismiss();
            return socket.say_goodbye(relay, code).await;
        }
    };
    socket.serve(id);
    let (relay, times) = (Arc::clone(relay), edge.session.clone());
    let connection = Connection { relay, session, id, resumed, times, rate };
    let close = connection.run(&mut socket).await;
    let relay = Arc::clone(&connection.relay);
    match close {
        Some(code) => {
            tracing::debug!(session = %connection.session.id(), code = code.number(), "closing");
            connection.leave(!code.invites_back());
            place.dismiss();
            socket.say_goodbye(&relay, code).await;
        }
        None => connection.leave(socket.is_over),
    }
    drop(place);
}

impl Connection {
    /// Serves the connection until its end. Returns why this node ends it, if it does.
    async fn run<S>(&self, socket: &mut Socket<S>) -> Option<CloseCode>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        socket.start(Message::text(self.welcome())).ok()?;
        if self.resumed {
            // The pong to this ping shows that the client has its new token.
            socket.ping(&self.session);
        }
        let mut is_heard = !self.resumed;
        loop {
            let event = std::future::poll_fn(|cx| socket.poll_event(&self.session, cx)).await;
            let close = match event {
                Event::Message(message) => match self.on_message(message, socket) {
                    Next::Nothing => None,
                    Next::Heard => {
                        if !std::mem::replace(&mut is_heard, true) {
                            self.relay.lifecycle.heard(&self.session, self.id).await;
                        }
                        None
                    }
                    Next::Close(code) => Some(code),
                },
                Event::Close(code) => Some(code),
                Event::Beat => self.on_beat(socket),
                Event::Gone => return None,
            };
            if close.is_some() {
                return close;
            }
        }
    }

    /// The connection is over; its session ends too, or waits for its client.
    fn leave(self, is_over: bool) {
        if is_over {
            self.relay.lifecycle.end(&self.session, self.id);
        }
    }

    fn welcome(&self) -> String {
        Welcome {
            session: self.session.id(),
            resume: &self.session.token().to_text(),
            resumed: self.resumed,
            reliable: self.session.is_reliable(),
            resume_window_ms: self.times.resume_window.as_millis(),
            node: self.relay.node.id.as_str(),
            ping_interval_ms: self.times.ping_interval.as_millis(),
            max_message_bytes: self.relay.requests.limits().message_bytes_max,
            max_in_flight: self.relay.requests.limits().in_flight_per_connection_max,
        }
        .render()
    }

    fn on_message<S>(&self, message: Message, socket: &mut Socket<S>) -> Next {
        match message {
            Message::Text(text) => self.on_text(text.as_str(), socket),
            Message::Binary(bytes) => match std::str::from_utf8(&bytes) {
                Ok(text) => self.on_text(text, socket),
                Err(_) => {
                    self.tell_bad(BadFrame {
                        id: None,
                        message: "a binary message is UTF-8 JSON too".into(),
                    });
                    Next::Nothing
                }
            },
            Message::Pong(payload) => match socket.pong(&payload) {
                Some(seq) => {
                    if !self.session.is_reliable() {
                        // Everything that was written before the ping has arrived too.
                        self.relay.completion.confirm_on(&self.session, self.id, seq);
                    }
                    Next::Heard
                }
                // A pong that belongs to no ping of ours: the client lives, but this does not say
                // what it has read.
                None => Next::Nothing,
            },
            // The end of the stream follows.
            Message::Close(frame) => {
                socket.is_over = frame.is_some_and(|frame| frame.code == FrameCode::Normal);
                Next::Nothing
            }
            // The library answers it.
            Message::Ping(_) | Message::Frame(_) => Next::Nothing,
        }
    }

    fn on_text<S>(&self, text: &str, socket: &mut Socket<S>) -> Next {
        match ClientFrame::parse(text) {
            Ok(ClientFrame::Request(frame)) => {
                self.relay.requests.submit(&self.session, &frame, || self.rate.take(&self.relay));
            }
            Ok(ClientFrame::Cancel(id)) => self.on_cancel(id),
            Ok(ClientFrame::Ping(id)) => {
                self.relay.completion.owe(&self.session, Frame::Pong { id }, None, None);
            }
            Ok(ClientFrame::Ack(seq)) => {
                if !self.session.has_sent(seq) {
                    let last = self.session.last_sent();
                    socket.explain(format!("ack of {seq}; the last frame is {last}"));
                    return Next::Close(CloseCode::ContractViolation);
                }
                let is_of_this_connection = self.session.on(self.id).is_first_sent(seq);
                self.relay.completion.confirm_on(&self.session, self.id, seq);
                if is_of_this_connection {
                    return Next::Heard;
                }
            }
            Err(bad) => self.tell_bad(bad),
        }
        Next::Nothing
    }

    fn on_cancel(&self, id: ClientId) {
        // In flight but no longer pending: the answer is on its way, and cannot be cancelled.
        match self.session.requests().get(&id) {
            Some(request) => {
                self.relay.completion.cancel(request);
            }
            None => {
                let failure =
                    Failure::new(ErrorCode::NotFound, "no request is in flight by this id");
                self.tell(Some(id), failure);
            }
        }
    }

    fn tell_bad(&self, BadFrame { id, message }: BadFrame) {
        // Only the error `duplicate` may name a request in flight without being its end.
        let in_flight = id.as_ref().is_some_and(|id| self.session.requests().get(id).is_some());
        let code = if in_flight { ErrorCode::Duplicate } else { ErrorCode::BadRequest };
        self.tell(id, Failure::new(code, message));
    }

    fn tell(&self, id: Option<ClientId>, failure: Failure) {
        let frame = Frame::Error { id, request: None, failure, reply: None };
        self.relay.completion.owe(&self.session, frame, None, None);
    }

    fn on_beat<S>(&self, socket: &mut Socket<S>) -> Option<CloseCode>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let is_alive = socket.still_waits() || (!socket.is_pinged() && socket.ping(&self.session));
        (!is_alive).then_some(CloseCode::HeartbeatLost)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.relay.lifecycle.detach(&self.session, self.id);
    }
}
