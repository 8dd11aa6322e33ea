//! The routes that clients reach.

use std::sync::Arc;

use http::HeaderValue;
use warp::{Filter, Reply, reply::Response};

use super::{Edge, problem, rest, server::Routes, ws};
use crate::error::{ErrorCode, Failure};

/// Everything under the public listener. Never anything internal.
pub fn routes(edge: &Arc<Edge>) -> Routes {
    let node = HeaderValue::from_str(edge.relay.node().id.as_str());
    let node = node.expect("a node id fits a header");
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
