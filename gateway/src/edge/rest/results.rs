//! `/v1/requests/…`: the responses of calls whose callers do not wait (`Prefer: respond-async`).

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use registry::RequestId;
use serde::Serialize;
use warp::{Filter, Reply as _, path::FullPath, reply::Response as WarpResponse};

use super::{
    super::{Answer, Edge, Rate, Refusal, problem, refused},
    Call, LIST_ALLOW, LIST_METHODS,
    answers::answer_of,
    name_request,
};
use crate::{
    error::{ErrorCode, Failure},
    relay::{
        requests::{outcome::outcome_of, stored::NotAccepted, submission::Submission},
        results::Polled,
    },
};

const PREFIX: &str = "/v1/requests/";
/// How soon a caller should ask again.
const RETRY_AFTER_SECONDS: u64 = 1;

/// The routes under `/v1/requests`.
pub(super) fn route(
    edge: &Arc<Edge>,
) -> impl Filter<Extract = (WarpResponse,), Error = warp::Rejection> + Clone + use<> {
    let edge = Arc::clone(edge);
    warp::path!("v1" / "requests" / ..)
        .and(warp::path::full())
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Rate>())
        .then(move |path: FullPath, method: Method, headers: HeaderMap, rate: Rate| {
            let edge = Arc::clone(&edge);
            async move {
                let call = Call { path: path.as_str().to_owned(), query: None, method, headers };
                edge.answer_poll(&call, &rate).await.into_response()
            }
        })
}

impl Edge {
    /// Submits a call whose caller does not wait for the service.
    pub(super) async fn respond_async(&self, submission: &Submission<'_>) -> Answer {
        match self.relay.requests.accept(submission).await {
            Ok(request) => {
                let mut answer = waiting(request);
                let location = format!("{PREFIX}{request}");
                let location = HeaderValue::from_str(&location).expect("an id fits a header");
                answer.headers_mut().insert(header::LOCATION, location);
                let applied = HeaderValue::from_static("respond-async");
                answer.headers_mut().insert("preference-applied", applied);
                answer
            }
            Err(NotAccepted { failure, request }) => {
                let mut answer = problem(&failure, request);
                if let Some(request) = request {
                    name_request(&mut answer, request);
                }
                answer
            }
        }
    }

    async fn answer_poll(&self, call: &Call, rate: &Rate) -> Answer {
        match self.answer_page(call) {
            Some(answer) => answer,
            None => self.poll(call, rate).await.unwrap_or_else(|refusal| *refusal),
        }
    }

    async fn poll(&self, call: &Call, rate: &Rate) -> Result<Answer, Refusal> {
        call.check_method(&LIST_METHODS, LIST_ALLOW)?;
        self.is_open().map_err(|failure| refused(&failure))?;
        rate.take(&self.relay).map_err(|failure| refused(&failure))?;
        let id = call.path.strip_prefix(PREFIX).unwrap_or_default();
        let request = Some(id).filter(|id| id.len() == 36);
        let request = request.and_then(|id| RequestId::from_header(id.as_bytes()).ok());
        let request = request.ok_or_else(|| {
            refused(&Failure::new(ErrorCode::NotFound, "no such path; a request's id is a UUID"))
        })?;
        let mut answer = match self.relay.completion.results.poll(request).await {
            Polled::Waiting => waiting(request),
            Polled::Ended(frame) => match outcome_of(frame) {
                Some(outcome) => answer_of(outcome, request),
                None => {
                    let message = "the stored response cannot be read";
                    let failure = Failure::new(ErrorCode::Internal, message).recorded(true);
                    problem(&failure, Some(request))
                }
            },
            Polled::None(failure) => problem(&failure, Some(request)),
        };
        name_request(&mut answer, request);
        Ok(answer)
    }
}

/// The answer while a result has not come yet.
fn waiting(request: RequestId) -> Answer {
    #[derive(Serialize)]
    struct Waiting {
        request_id: String,
    }
    let body = Waiting { request_id: request.to_string() };
    let body = serde_json::to_vec(&body).expect("plain data in memory can be encoded");
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::ACCEPTED;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    name_request(&mut answer, request);
    answer
}
