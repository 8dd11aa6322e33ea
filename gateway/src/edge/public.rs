//! The routes that clients reach.

use std::sync::Arc;

use http::HeaderValue;
use warp::{Filter, Reply, reply::Response};

use super::{Edge, problem, rest, server::Routes, ws};
use crate::{
    error::{ErrorCode, Failure},
    relay::Relay,
};

/// Everything under the public listener. Never anything internal.
pub fn routes(edge: &Arc<Edge>) -> Routes {
    let node = node(&edge.relay);
    ws::route(edge)
        .or(rest::route(edge))
        .unify()
        .or(warp::any().map(|| {
            let failure = Failure::new(ErrorCode::NotFound, "no such path; see /ws and /v1");
            problem(&failure, None).into_response()
        }))
        .unify()
        .map(move |mut answer: Response| {
            answer.headers_mut().insert("roundtrip-node", node.clone());
            answer
        })
        .boxed()
}

/// This node, as each answer names it.
pub fn node(relay: &Relay) -> HeaderValue {
    HeaderValue::from_str(relay.node().id.as_str()).expect("a node id fits a header")
}
