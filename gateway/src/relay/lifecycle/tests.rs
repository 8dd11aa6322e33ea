//! Sessions that begin while their node is about to stop.

use futures_util::FutureExt;

use crate::{
    error::CloseCode,
    relay::bed::{self, Ground},
};

#[tokio::test]
async fn who_comes_while_a_node_drains_has_their_turn_at_once() {
    let relay = bed::relay(Ground::default());
    relay.gate.drain();
    // Nobody is there whose turn it could be.
    relay.lifecycle.close_connections(1000).await;
    for is_reliable in [false, true] {
        // The handshake was over a moment before.
        let (session, connection) = relay.lifecycle.start(is_reliable);
        let closing = std::future::poll_fn(|cx| session.on(connection).poll_closing(cx));
        let code = closing.now_or_never().map(|closing| closing.code);
        assert_eq!(code, Some(CloseCode::Draining), "{is_reliable}");
    }
}
