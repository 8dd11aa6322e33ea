//! `/v1/services/…`: the request-response gateway. A call waits here until its reply comes.

use std::{sync::Arc, time::Duration};

use bytes::{Buf, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use registry::RequestId;
use serde::Serialize;
use warp::{Filter, Reply as _, path::FullPath, reply::Response as WarpResponse};

use super::{Answer, Edge, Rate, Refusal, cors, problem, problem_with, refused, server::query};
use crate::{
    error::{ErrorCode, Failure},
    relay::requests::{
        call::WaitingCall, caller::Arrival, pending::Answer as Parked, submission::Submission,
    },
    telemetry::Edge as EdgeKind,
};

mod answers;
mod messages;
mod prefer;
mod results;
mod streams;
pub mod views;

use answers::{answer_of, coded, late, server_timing};
use streams::{Form, gathered, streamed};

const PREFIX: &str = "/v1/services/";
/// The header that names the request an answer is about.
const REQUEST_ID: &str = "roundtrip-request-id";
/// The list of services.
const LIST: &str = "/v1/services";
const METHODS: [Method; 6] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
const ALLOW: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
const LIST_METHODS: [Method; 2] = [Method::GET, Method::HEAD];
const LIST_ALLOW: &str = "GET, HEAD, OPTIONS";
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The routes under `/v1/services` and `/v1/requests`.
pub fn route(
    edge: &Arc<Edge>,
) -> impl Filter<Extract = (WarpResponse,), Error = warp::Rejection> + Clone + use<> {
    services(edge).or(results::route(edge)).unify()
}

fn services(
    edge: &Arc<Edge>,
) -> impl Filter<Extract = (WarpResponse,), Error = warp::Rejection> + Clone + use<> {
    let edge = Arc::clone(edge);
    warp::path!("v1" / "services" / ..)
        .and(warp::path::full())
        .and(query())
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Rate>())
        .and(warp::body::stream())
        .then(move |path: FullPath, query, method, headers, rate, body| {
            let edge = Arc::clone(&edge);
            async move {
                let call = Call { path: path.as_str().to_owned(), query, method, headers };
                edge.answer(&call, &rate, body).await
            }
        })
}

/// One HTTP call, without its body.
struct Call {
    path: String,
    query: Option<String>,
    method: Method,
    headers: HeaderMap,
}

impl Edge {
    async fn answer<B: Buf>(
        &self,
        call: &Call,
        rate: &Rate,
        body: impl Stream<Item = Result<B, warp::Error>> + Send,
    ) -> WarpResponse {
        if let Some(answer) = self.answer_page(call) {
            return answer.into_response();
        }
        let answer = match &*call.path {
            LIST => self.list(call).map(warp::Reply::into_response),
            _ => match self.delete_message(call, rate).await {
                Some(answer) => answer,
                None => self.serve(call, rate, body).await,
            },
        };
        answer.unwrap_or_else(|refusal| refusal.into_response())
    }

    /// What a web page gets that may not call, or that asks first whether it may.
    fn answer_page(&self, call: &Call) -> Option<Answer> {
        if let Err(failure) = self.check_origin(&call.headers) {
            return Some(problem(&failure, None));
        }
        call.is_preflight().then(|| cors::preflight(&call.headers))
    }

    /// The services that the caller may call.
    fn list(&self, call: &Call) -> Result<Answer, Refusal> {
        call.check_method(&LIST_METHODS, LIST_ALLOW)?;
        self.is_open().map_err(|failure| refused(&failure))?;
        #[derive(Serialize)]
        struct Listed<'a> {
            name: &'a str,
        }
        let names = self.relay.requests.services.names();
        let list: Vec<Listed<'_>> = names.iter().map(|name| Listed { name }).collect();
        let list = serde_json::to_vec(&list).expect("plain data in memory can be encoded");
        let mut answer = Response::new(list);
        let media_type = HeaderValue::from_static("application/json");
        answer.headers_mut().insert(header::CONTENT_TYPE, media_type);
        Ok(answer)
    }

    /// Submits a call of a service, and waits for its answer.
    async fn serve<B: Buf>(
        &self,
        call: &Call,
        rate: &Rate,
        body: impl Stream<Item = Result<B, warp::Error>> + Send,
    ) -> Result<WarpResponse, Refusal> {
        call.check_method(&METHODS, ALLOW)?;
        let (service, path) = call.target().map_err(|failure| refused(&failure))?;
        let count =
            |failure| self.relay.requests.services.refused(&service, EdgeKind::Rest, failure);
        self.is_open().map_err(|failure| refused(&count(failure)))?;
        rate.take(&self.relay).map_err(|failure| refused(&count(failure)))?;
        // Before the body has been read: nobody should have to send one in vain.
        self.relay.requests.services.find(&service).map_err(|failure| refused(&count(failure)))?;
        self.check_coding(call, &service).map_err(|failure| coded(&count(failure)))?;
        let Ok(body) = tokio::time::timeout(BODY_TIMEOUT, self.read(call, body)).await else {
            return Err(late(&count(Failure::new(
                ErrorCode::BadRequest,
                format!("the body did not arrive within {BODY_TIMEOUT:?}"),
            ))));
        };
        let body = body.map_err(|failure| refused(&count(failure)))?;
        self.call(call, &service, &path, &body).await
    }

    /// Whether the service learns how its bytes are coded, so that they can go to it as they came.
    fn check_coding(&self, call: &Call, service: &str) -> Result<(), Failure> {
        let is_plain = |value: &HeaderValue| {
            let mut codings = value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
            codings.all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity"))
        };
        let is_known = || {
            self.relay.requests.services.allows_header(service, header::CONTENT_ENCODING.as_str())
        };
        if call.headers.get_all(header::CONTENT_ENCODING).iter().all(is_plain) || is_known() {
            return Ok(());
        }
        let message = "the service would not learn how the body is coded: send it as it is, or let \
                       allowed_headers of the service name content-encoding";
        Err(Failure::new(ErrorCode::BadRequest, message))
    }

    /// Reads the body, up to the length that it may have.
    async fn read<B: Buf>(
        &self,
        call: &Call,
        body: impl Stream<Item = Result<B, warp::Error>> + Send,
    ) -> Result<BytesMut, Failure> {
        let max = self.relay.requests.limits().message_bytes_max;
        let too_large =
            || self.relay.requests.limit_hit("message_bytes_max", max, ErrorCode::TooLarge);
        let announced = call.headers.get(header::CONTENT_LENGTH);
        let announced: Option<u64> =
            announced.and_then(|length| length.to_str().ok()?.parse().ok());
        if let Some(length) = announced.filter(|length| *length > max as u64) {
            return Err(too_large().adding(format_args!("the body has {length} bytes")));
        }
        let (mut bytes, mut body) = (BytesMut::new(), std::pin::pin!(body));
        while let Some(piece) = body.next().await {
            let mut piece = piece.map_err(|error| {
                Failure::new(ErrorCode::BadRequest, format!("body not read: {error}"))
            })?;
            let length = bytes.len() + piece.remaining();
            if length > max {
                return Err(too_large().adding(format_args!("the body has {length} bytes or more")));
            }
            while piece.has_remaining() {
                let chunk = piece.chunk().len();
                bytes.extend_from_slice(piece.chunk());
                piece.advance(chunk);
            }
        }
        Ok(bytes)
    }

    async fn call(
        &self,
        call: &Call,
        service: &str,
        path: &str,
        body: &[u8],
    ) -> Result<WarpResponse, Refusal> {
        let headers: Vec<(&str, &[u8])> =
            call.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let submission = Submission {
            service,
            key: call.headers.get("roundtrip-key").map(HeaderValue::as_bytes),
            payload: body,
            headers: &headers,
            method: call.method.as_str(),
            path: Some(path),
            timeout: call.wait(),
        };
        let services = &self.relay.requests.services;
        // What an event answers is not kept: the preference is not followed there.
        let is_kept = services.get(service).is_none_or(|service| service.respond_on.is_none());
        let mut answer = match is_kept && prefer::responds_async(&call.headers) {
            true => self.respond_async(&submission).await.into_response(),
            false => {
                let parked = self.relay.requests.call(&submission);
                let parked = parked.map_err(|failure| refused(&failure))?;
                self.answered(parked, &call.headers).await
            }
        };
        if services.get(service).is_some_and(|service| service.is_deletable())
            && let Some(guid) = answer.headers().get(REQUEST_ID).cloned()
        {
            answer.headers_mut().insert("roundtrip-guid", guid);
        }
        Ok(answer)
    }

    /// Waits for the answer to what was submitted.
    async fn answered(&self, mut parked: WaitingCall, headers: &HeaderMap) -> WarpResponse {
        let request = parked.request();
        let mut answer = match (parked.next().await, Form::accepted(headers)) {
            (Arrival::Answer(answer), _) => whole(answer, request).into_response(),
            (Arrival::Part(first), Form::Array) => {
                let max = self.relay.requests.limits().stream_bytes_max;
                let answer = gathered(&mut parked, &first, max).await;
                answer.unwrap_or_else(|answer| whole(answer, request)).into_response()
            }
            (Arrival::Part(first), form) => streamed(parked, &first, form),
        };
        name_request(&mut answer, request);
        answer
    }
}

/// Says which request an answer is about.
fn name_request<B>(answer: &mut Response<B>, request: RequestId) {
    let id = HeaderValue::from_str(request.encode(&mut [0; 36])).expect("an id fits a header");
    answer.headers_mut().insert(REQUEST_ID, id);
}

/// The answer to a call whose request has ended with this, if with anything.
fn whole(answer: Option<Parked>, request: RequestId) -> Answer {
    let Some(Parked { outcome, timing }) = answer else {
        tracing::error!(%request, "a waiting call was dropped");
        let failure = Failure::new(ErrorCode::Internal, "the request was lost");
        return problem(&failure.recorded(true), Some(request));
    };
    let mut answer = answer_of(outcome, request);
    if let Some(value) = server_timing(&timing) {
        answer.headers_mut().insert("server-timing", value);
    }
    answer
}

impl Call {
    /// Accepts these methods, and lists them to callers that use another one.
    fn check_method(&self, methods: &[Method], allow: &'static str) -> Result<(), Refusal> {
        if methods.contains(&self.method) {
            return Ok(());
        }
        let mut answer = if self.method == Method::OPTIONS {
            let mut answer = Response::new(Vec::new());
            *answer.status_mut() = StatusCode::NO_CONTENT;
            answer
        } else {
            let failure = Failure::new(ErrorCode::BadRequest, format!("this takes {allow}"));
            problem_with(StatusCode::METHOD_NOT_ALLOWED.as_u16(), &failure, None)
        };
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
        Err(Box::new(answer))
    }

    fn is_preflight(&self) -> bool {
        self.method == Method::OPTIONS
            && self.headers.contains_key(header::ORIGIN)
            && self.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// The service's name, and the path and query that it sees: as they came.
    fn target(&self) -> Result<(String, String), Failure> {
        let rest = self.path.strip_prefix(PREFIX).unwrap_or_default();
        let (name, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let name = percent_decode_str(name)
            .decode_utf8()
            .map_err(|_| Failure::new(ErrorCode::BadRequest, "the service's name is not UTF-8"))?;
        let path = match &self.query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        Ok((name.into_owned(), path))
    }

    /// `Prefer: wait=<seconds>` (RFC 7240). A value that cannot be understood is ignored.
    fn wait(&self) -> Option<Duration> {
        prefer::wait(&self.headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(path: &str, query: Option<&str>, prefer: &'static [&'static str]) -> Call {
        let mut headers = HeaderMap::new();
        for value in prefer {
            headers.append("prefer", HeaderValue::from_static(value));
        }
        Call { path: path.into(), query: query.map(Into::into), method: Method::GET, headers }
    }

    #[test]
    fn path_and_query_go_on_as_they_came() {
        for (path, query, service, rest) in [
            ("/v1/services/orders", None, "orders", ""),
            ("/v1/services/orders/", None, "orders", "/"),
            ("/v1/services/orders/a%2Fb//c", Some("x=%20&y"), "orders", "/a%2Fb//c?x=%20&y"),
            ("/v1/services/my%2Dorders", Some(""), "my-orders", "?"),
        ] {
            let target = call(path, query, &[]).target();
            assert_eq!(target, Ok((service.to_owned(), rest.to_owned())), "{path}");
        }
        assert!(call("/v1/services/%ff", None, &[]).target().is_err());
    }

    async fn body_of(answer: WarpResponse) -> bytes::Bytes {
        http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes()
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_thirty_seconds() {
        let edge = super::super::testing::edge().await;
        edge.relay.gate.open();
        let body = futures_util::stream::pending::<Result<bytes::Bytes, warp::Error>>();
        let begun = tokio::time::Instant::now();
        let call = Call { method: Method::POST, ..call("/v1/services/echo", None, &[]) };
        let answer = edge.answer(&call, &Rate::unlimited(), body).await;
        assert_eq!((answer.status().as_u16(), begun.elapsed().as_secs()), (408, 30));
        let problem: serde_json::Value = serde_json::from_slice(&body_of(answer).await).unwrap();
        assert_eq!(problem["code"], "bad_request");
    }

    #[test]
    fn a_preferred_wait_is_whole_seconds() {
        let wait = |prefer| call("/v1/services/s", None, prefer).wait();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(wait(&["wait=3"]), seconds(3));
        assert_eq!(wait(&["respond-async, Wait = \"7\"; x=y"]), seconds(7));
        assert_eq!(wait(&["handling=lenient", "wait=2"]), seconds(2));
        assert_eq!(wait(&[r#"x="a,b;c", wait=2"#]), seconds(2));
        assert_eq!(wait(&[r#"x="a\", wait=1", wait=2"#]), seconds(2));
        assert_eq!(wait(&[r#"x=1; y="a, wait=1;", wait=2;z"#]), seconds(2));
        assert_eq!(wait(&[r#"wait="1\0""#]), seconds(10));
        assert_eq!(wait(&["wait=2, wait=3", "wait=4"]), seconds(2));
        for quoted in [
            r#"x="a,wait=1""#,
            r#"x="a, wait=1;""#,
            r#"x="a\",wait=1""#,
            r#"x;y="a,wait=1""#,
            r#"x="a,wait=1"#,
            r#"wait="1"#,
            r#"wait=1""#,
            r#"wait="1"2"#,
            r#""wait"=1"#,
        ] {
            let mut call = call("/v1/services/s", None, &[]);
            call.headers.append("prefer", HeaderValue::from_static(quoted));
            assert_eq!(call.wait(), None, "{quoted}");
        }
        for ignored in [&["wait=0"], &["wait=-1"], &["wait=1.5"], &["wait"], &["foo;wait=1"]] {
            assert_eq!(wait(ignored), None, "{ignored:?}");
        }
    }
}
