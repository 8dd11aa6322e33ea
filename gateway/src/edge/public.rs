//! What clients reach: the routes, and the answers where there is no route.

use std::sync::Arc;

use http::HeaderValue;
use warp::{Filter, Reply};

use super::{
    Edge, problem, rest,
    server::{Routes, Voice},
    ws,
};
use crate::error::{ErrorCode, Failure};

/// Everything under the public listener. Never anything internal.
pub fn routes(edge: &Arc<Edge>) -> Routes {
    ws::route(edge)
        .or(rest::route(edge))
        .unify()
        .or(rest::views::route(edge))
        .unify()
        .or(warp::any().map(|| {
            let failure = Failure::new(ErrorCode::NotFound, "no such path; see /ws and /v1");
            problem(&failure, None).into_response()
        }))
        .unify()
        .boxed()
}

/// The answers of the public listener to what reaches no route.
pub fn voice(edge: &Edge) -> Voice {
    let node = edge.relay.node.id.as_str();
    Voice::Problems {
        node: HeaderValue::from_str(node).expect("a node id fits a header"),
        origins: Arc::clone(&edge.origins),
        refusals: edge.relay.telemetry.http_refusals.clone(),
    }
}
