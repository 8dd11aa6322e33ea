//! The routes that clients reach.

use std::sync::Arc;

use warp::{Filter, Reply};

use super::{Edge, problem, rest, server::Routes, ws};
use crate::error::{ErrorCode, Failure};

/// Everything under the public listener. Never anything internal.
pub fn routes(edge: &Arc<Edge>) -> Routes {
    ws::route(edge)
        .or(rest::route(edge))
        .unify()
        .or(warp::any().map(|| {
            let failure = Failure::new(ErrorCode::NotFound, "no such path; see /ws and /v1");
            problem(&failure, None).into_response()
        }))
        .unify()
        .boxed()
}
