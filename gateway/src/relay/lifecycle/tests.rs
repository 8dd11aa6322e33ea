//! Sessions that begin while their node is about to stop; tokens that have had their time; what
//! another node is left.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use registry::{MemoryRegistry, SessionTable};

use super::Owner;
use crate::{
    error::CloseCode,
    relay::{
        bed::{self, Ground},
        session::Token,
    },
    wire::{ClientFrame, ClientId},
};

#[tokio::test]
async fn who_comes_while_a_node_drains_has_their_turn_at_once() {
    let relay = bed::relay(Ground::default());
    relay.gate.drain();
    // No session is there that could have its turn.
    relay.lifecycle.close_connections(1000).await;
    for is_reliable in [false, true] {
        // Its handshake was over a moment before.
        let (session, connection) = relay.lifecycle.start(is_reliable);
        let closing = std::future::poll_fn(|cx| session.on(connection).poll_closing(cx));
        let code = closing.now_or_never().map(|closing| closing.code);
        assert_eq!(code, Some(CloseCode::Draining), "{is_reliable}");
    }
}

/// Another thread may give a session its turn while a request is being looked at.
#[tokio::test]
async fn a_request_that_meets_its_sessions_turn_counts_as_never_sent() {
    let relay = bed::relay(Ground::default());
    let text = r#"{"service":"echo","id":1}"#;
    let Ok(ClientFrame::Request(frame)) = ClientFrame::parse(text) else { unreachable!() };
    let (session, _) = relay.lifecycle.start(true);
    relay.requests.submit(&session, &frame, || {
        session.drain();
        Ok(())
    });
    let left = session.ownership().hand_over(true).unwrap();
    // A refusal would follow the client to its next node, and be the end of what it asks there.
    assert!(left.in_flight.is_empty() && left.frames.is_empty(), "{left:?}");
    assert!(relay.completion.pending.is_empty());
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

/// Its reply may be lost with this node, and is read again then.
#[tokio::test(start_paused = true)]
async fn who_goes_on_with_a_request_that_has_just_been_answered_has_what_was_left_of_its_time() {
    let relay = bed::relay(Ground::default());
    let (session, _) = relay.lifecycle.start(true);
    let text = r#"{"service":"echo","id":1,"timeout_ms":20000}"#;
    let Ok(ClientFrame::Request(frame)) = ClientFrame::parse(text) else { unreachable!() };
    relay.requests.submit(&session, &frame, || Ok(()));
    let left_ms = || {
        let whole = relay.lifecycle.whole(&session).unwrap();
        let [(request, detail, _)] = &whole.requests[..] else {
            panic!("one request is in flight")
        };
        // By which a reader of the reply finds the session.
        let route = relay.lifecycle.route(&session, *request, detail);
        assert_eq!((route.session, route.client_id.as_deref()), (Some(session.id()), Some("1")));
        detail.left_ms
    };
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(left_ms(), 15_000);
    let request = session.requests().get(&ClientId::from_json("1").unwrap()).unwrap();
    drop(relay.completion.pending.take(request));
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(left_ms(), 10_000);
}
