//! Requests whose callers do not wait for the reply: the registry keeps the result for them.

use std::sync::Arc;

use registry::RequestId;
use tokio::sync::oneshot;

use super::{
    Requests,
    pending::{Accepted, Waiter},
    submission::Submission,
    submit::draining,
};
use crate::{
    error::{ErrorCode, Failure},
    telemetry::Edge,
};

/// Why a request was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAccepted {
    /// What went wrong.
    pub failure: Failure,
    /// The request's id, if it has got one: where it may be recorded, its result may still come.
    pub request: Option<RequestId>,
}

impl Requests {
    /// Submits a request whose caller comes for its result later, under the id that is returned: the
    /// registry expects the result by then, and the broker has recorded the request. If the call is
    /// dropped before, the request may be carried out all the same.
    ///
    /// # Errors
    /// What kept the request from being recorded.
    pub async fn accept(
        self: &Arc<Self>,
        submission: &Submission<'_>,
    ) -> Result<RequestId, NotAccepted> {
        let refused = |failure| NotAccepted {
            failure: self.services.refused(submission.service, Edge::Rest, failure),
            request: None,
        };
        let (sender, accepted) = oneshot::channel();
        let request = begin(self, submission, sender).await.map_err(refused)?;
        // Its end tells whoever was not told before.
        let told = accepted.await.unwrap_or_else(|_| Err(lost()));
        let failed = |failure| NotAccepted { failure, request: Some(request) };
        told.map(|()| request).map_err(failed)
    }
}

async fn begin(
    requests: &Arc<Requests>,
    submission: &Submission<'_>,
    accepted: Accepted,
) -> Result<RequestId, Failure> {
    let service = requests.admit(submission)?;
    if requests.gate.is_draining() {
        return Err(draining());
    }
    let choice = requests.choose()?;
    let (request, results) = (choice.request, &requests.completion.results);
    results.expect(request, &service.name, service.timeout(submission.timeout)).await?;
    let produced = requests.produce(&service, submission, choice, Waiter::Stored(Some(accepted)));
    produced.inspect_err(|_| results.forget(request))?;
    Ok(request)
}

fn lost() -> Failure {
    Failure::new(ErrorCode::Internal, "the request was lost").recorded(true)
}
