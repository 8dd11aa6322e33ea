//! How a request ends whose caller comes for its result: with what the registry keeps of it.

use registry::RequestId;

use super::{
    outcome::last_frame,
    pending::{Accepted, Outcome},
};
use crate::{
    error::Failure,
    relay::{offsets::OffsetGuard, results::Results},
    wire::ClientId,
};

/// A request has ended whose caller comes for its result. A request that may be recorded, and
/// has no reply, may still get one, on whichever node: until then the registry goes by its time.
pub(super) fn store(
    results: &Results,
    request: RequestId,
    accepted: Option<Accepted>,
    (outcome, failure): (Outcome, Option<Failure>),
    guard: Option<OffsetGuard>,
) {
    let told = match &outcome {
        Outcome::Reply(_) => Ok(()),
        Outcome::Failure(failure) => Err(failure.clone()),
    };
    let may_be_answered = told.as_ref().is_err_and(|failure| failure.recorded);
    if let Some(accepted) = accepted
        && accepted.send(told).is_err()
    {
        tracing::debug!(%request, "the caller is gone");
    }
    if may_be_answered {
        return results.forget(request);
    }
    let frame = last_frame(request, ClientId::from_request(request), outcome, failure);
    results.arrived(request, &frame, guard);
}
