//! A connection between a client and a node: what the WebSocket edge does, without the socket.

use std::sync::Arc;

use gateway::{
    error::CloseCode,
    relay::{
        Relay, Session,
        session::{ConnectionId, Duty},
        token::Token,
    },
    wire::ClientFrame,
};
use registry::SessionId;
use tokio::sync::mpsc::{Receiver, Sender};

use crate::{node::Node, world::World};

/// What a node sends.
pub(crate) enum ToClient {
    Welcome {
        session: SessionId,
        token: Token,
        resumed: bool,
    },
    Frame(String),
    /// Whoever answers has every frame up to this number.
    Ping(u64),
    Close(CloseCode),
}

/// What a client sends.
pub(crate) enum ToNode {
    Text(String),
    Pong(u64),
    /// It closes, and will not come back.
    Bye,
}

/// What a client comes with.
pub(crate) struct Wish {
    pub(crate) is_reliable: bool,
    pub(crate) resume: Option<(Token, u64)>,
}

/// Its end, however it comes, leaves the session to wait for its client.
struct Connection {
    relay: Arc<Relay>,
    session: Arc<Session>,
    id: ConnectionId,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.relay.detach(&self.session, self.id);
    }
}

/// Serves one connection.
pub(crate) async fn serve(
    world: Arc<World>,
    node: Arc<Node>,
    wish: Wish,
    to_client: Sender<ToClient>,
    mut from_client: Receiver<ToNode>,
) {
    let relay = Arc::clone(&node.parts.relay);
    node.life.awake().await;
    let resumed = match &wish.resume {
        Some((token, last_seq)) => {
            let is_wanted = || !to_client.is_closed();
            match node.handover.resume(token, *last_seq, is_wanted).await {
                Ok(resumed) => resumed,
                Err(_) => return drop(to_client.send(ToClient::Close(CloseCode::Internal)).await),
            }
        }
        None => None,
    };
    let is_resumed = resumed.is_some();
    let (session, id) = resumed.unwrap_or_else(|| relay.start_session(wish.is_reliable));
    let connection = Connection { relay, session, id };
    let Connection { relay, session, .. } = &connection;
    let welcome =
        ToClient::Welcome { session: session.id(), token: session.token(), resumed: is_resumed };
    if to_client.send(welcome).await.is_err() {
        return;
    }
    let mut is_heard = false;
    loop {
        node.life.awake().await;
        tokio::select! {
            biased;
            () = node.life.asleep() => {}
            message = from_client.recv() => match message {
                None => return,
                Some(message) => {
                    if !std::mem::replace(&mut is_heard, true) && is_resumed {
                        relay.heard(session, id).await;
                    }
                    if on_message(relay, session, id, message) {
                        return;
                    }
                }
            },
            duty = std::future::poll_fn(|cx| session.poll_duty(id, cx)) => match duty {
                Duty::Close(code) => return drop(to_client.send(ToClient::Close(code)).await),
                Duty::Write(frame) => {
                    if to_client.send(ToClient::Frame(frame.text())).await.is_err() {
                        return;
                    }
                    if world.chance(20) {
                        world.sleep(0, 30).await;
                    }
                    session.flushed(id);
                    if !session.is_reliable() && world.chance(30) {
                        let ping = ToClient::Ping(session.written().0);
                        if to_client.send(ping).await.is_err() {
                            return;
                        }
                    }
                }
            },
        }
    }
}

/// Whether the connection is over.
fn on_message(
    relay: &Arc<Relay>,
    session: &Arc<Session>,
    id: ConnectionId,
    message: ToNode,
) -> bool {
    match message {
        ToNode::Text(text) => match ClientFrame::parse(&text).expect("clients send good frames") {
            ClientFrame::Request(frame) => relay.request(session, &frame, || Ok(())),
            ClientFrame::Ack(seq) => {
                assert!(session.has_sent(seq), "a client acknowledged {seq}, which was not sent");
                relay.confirm(session, seq);
            }
            ClientFrame::Cancel(_) | ClientFrame::Ping(_) => {}
        },
        ToNode::Pong(seq) => {
            if !session.is_reliable() {
                relay.confirm(session, seq);
            }
        }
        ToNode::Bye => {
            relay.end_session_of(session, id);
            return true;
        }
    }
    false
}
