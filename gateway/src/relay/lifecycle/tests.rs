//! Sessions that begin while their node is about to stop; tokens that have had their time.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use registry::{MemoryRegistry, SessionTable};

use crate::{
    error::CloseCode,
    relay::{
        bed::{self, Ground},
        session::Token,
    },
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

#[tokio::test(start_paused = true)]
async fn a_former_token_is_of_no_use_once_the_next_one_has_been_heard_of() {
    let registry = MemoryRegistry::new();
    let ground = Ground { registry: Arc::new(registry.clone()), ..Ground::default() };
    let relay = bed::relay(ground);
    let (session, _) = relay.lifecycle.start(true);
    let first = session.token();
    let goes_on = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let resumed = relay.resumption.resume(&first, 0, || true).await.unwrap();
        let (session, connection) = resumed.expect("a good token");
        tokio::time::sleep(Duration::from_secs(1)).await;
        (session, connection)
    };
    let (session, connection) = tokio::select! {
        () = relay.run_checkpoints() => panic!("it ends with the node"),
        resumed = goes_on => resumed,
    };
    let second = session.token();
    let opens = async |token: &Token| {
        let tried = registry.try_token(&session.id(), &token.hash()).await.unwrap();
        tried.is_some()
    };
    assert!(opens(&first).await && opens(&second).await, "the welcome may be lost");

    let mut heard = pin!(relay.lifecycle.heard(&session, connection));
    assert_eq!(heard.as_mut().now_or_never(), None, "not before the registry has it");
    tokio::select! {
        () = relay.run_checkpoints() => panic!("it ends with the node"),
        () = heard => {}
    }
    assert!(!opens(&first).await && opens(&second).await);
}
