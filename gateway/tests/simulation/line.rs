//! A connection between a client and a node: the gateway's own connection code at one end, a real
//! WebSocket at the other, and between them a line that is slow now and then, and breaks.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use gateway::edge::{Rate, ws};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex, split},
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

use crate::{node::Node, world::World};

/// Bytes that are on their way at each end of a line, in each direction, before it is full.
const PIPE_BYTES: usize = 2048;
/// How long a client waits until what it writes has left.
const PATIENCE: Duration = Duration::from_secs(2);

/// A client's end of a connection.
pub(crate) struct Line {
    socket: WebSocketStream<DuplexStream>,
    /// Whether the node is to hear at once that the client has gone.
    closes_in_order: Arc<AtomicBool>,
}

/// What a client meets.
pub(crate) enum Met {
    Frame(String),
    /// The node has closed, with a code.
    Closed(u16),
    Broken,
    /// Something that needs no answer.
    Nothing,
}

impl Line {
    /// Connects to a node, as after a handshake. When the client has gone without a word, the node
    /// notices within a moment, or a few seconds.
    pub(crate) async fn connect(world: &Arc<World>, node: &Arc<Node>, wish: ws::Wish) -> Self {
        let (client, client_side) = duplex(PIPE_BYTES);
        let (node_side, served) = duplex(PIPE_BYTES);
        let of_node = Arc::clone(node);
        // Between the handshake and the connection that it starts, anything may happen.
        let starts_after = world.ms(0, if world.chance(10) { 200 } else { 5 });
        node.spawn(async move {
            sleep(starts_after).await;
            of_node.while_awake(serve(&of_node, wish, served)).await;
        });
        let (from_client, to_client) = split(client_side);
        let (from_node, to_node) = split(node_side);
        let notices_after = world.ms(0, if world.chance(20) { 4000 } else { 50 });
        let (here, there) = (Arc::clone(world), Arc::clone(world));
        let closes_in_order = Arc::new(AtomicBool::new(false));
        let in_order = Arc::clone(&closes_in_order);
        world.spawn(async move {
            let (from, mut to) = (pin!(from_client), pin!(to_node));
            carry(&here, from, to.as_mut()).await;
            if !in_order.load(Ordering::Relaxed) {
                sleep(notices_after).await;
            }
            hang_up(to).await;
        });
        world.spawn(async move {
            let (from, mut to) = (pin!(from_node), pin!(to_client));
            carry(&there, from, to.as_mut()).await;
            hang_up(to).await;
        });
        let socket = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        Self { socket, closes_in_order }
    }

    /// Hangs up so that the node hears of it at once, or, where it sleeps, when it wakes up.
    pub(crate) fn hang_up(self) {
        self.closes_in_order.store(true, Ordering::Relaxed);
    }

    /// The next thing from the node. Cancel safe.
    pub(crate) async fn next(&mut self) -> Met {
        match self.socket.next().await {
            Some(Ok(Message::Text(text))) => Met::Frame(text.to_string()),
            Some(Ok(Message::Close(Some(frame)))) => Met::Closed(frame.code.into()),
            Some(Ok(_)) => Met::Nothing,
            Some(Err(_)) | None => Met::Broken,
        }
    }

    /// Says something; false when it does not leave in time.
    pub(crate) async fn send(&mut self, message: Message) -> bool {
        matches!(timeout(PATIENCE, self.socket.send(message)).await, Ok(Ok(())))
    }

    pub(crate) async fn say(&mut self, text: &str) -> bool {
        self.send(Message::text(text)).await
    }

    /// Closes for good, and waits for the node's close frame. Returns whether it came.
    pub(crate) async fn close(mut self) -> bool {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        if !self.send(Message::Close(Some(frame))).await {
            return false;
        }
        let answered = async {
            loop {
                match self.next().await {
                    Met::Closed(code) => return code == 1000,
                    Met::Broken => return false,
                    Met::Frame(_) | Met::Nothing => {}
                }
            }
        };
        timeout(PATIENCE, answered).await.unwrap_or(false)
    }
}

async fn serve(node: &Node, wish: ws::Wish, stream: DuplexStream) {
    ws::serve(&node.edge, wish, Rate::unlimited(), stream).await;
}

/// Carries bytes one way until either end has gone.
async fn carry(
    world: &World,
    mut from: Pin<&mut impl AsyncRead>,
    mut to: Pin<&mut impl AsyncWrite>,
) {
    let mut bytes = [0; PIPE_BYTES];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if world.chance(15) {
            world.sleep(0, 30).await;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// Ends one direction: the other end reads what is left, and then the end.
async fn hang_up(mut to: Pin<&mut impl AsyncWrite>) {
    if to.shutdown().await.is_err() {
        tracing::trace!("it has gone too");
    }
}
