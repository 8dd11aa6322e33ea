//! `/v1/views/{view}/{key}`: the latest event of a key, or of a state that is waited for.

use std::{sync::Arc, time::Duration};

use http::Method;
use percent_encoding::percent_decode_str;
use warp::{Filter, Reply as _, path::FullPath, reply::Response as WarpResponse};

use super::{Call, answers::event};
use crate::{
    edge::{Edge, Rate, Refusal, refused, server::query},
    error::{ErrorCode, Failure},
    telemetry::Edge as EdgeKind,
};

const PREFIX: &str = "/v1/views/";
const METHODS: [Method; 2] = [Method::GET, Method::HEAD];
const ALLOW: &str = "GET, HEAD, OPTIONS";
/// How many states one call may wait for, and the bytes of each.
const STATES_MAX: usize = 16;
const STATE_BYTES_MAX: usize = 64;

/// The routes under `/v1/views`.
pub fn route(
    edge: &Arc<Edge>,
) -> impl Filter<Extract = (WarpResponse,), Error = warp::Rejection> + Clone + use<> {
    let edge = Arc::clone(edge);
    warp::path!("v1" / "views" / ..)
        .and(warp::path::full())
        .and(query())
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Rate>())
        .then(move |path: FullPath, query, method, headers, rate| {
            let edge = Arc::clone(&edge);
            async move {
                let call = Call { path: path.as_str().to_owned(), query, method, headers };
                edge.answer_view(&call, &rate).await
            }
        })
}

/// What a call asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    view: String,
    key: Vec<u8>,
    /// Empty: whatever there is.
    until: Vec<Box<str>>,
    timeout: Option<Duration>,
}

impl Edge {
    async fn answer_view(&self, call: &Call, rate: &Rate) -> WarpResponse {
        match self.answer_page(call) {
            Some(answer) => answer.into_response(),
            None => self.view(call, rate).await.unwrap_or_else(|refusal| refusal.into_response()),
        }
    }

    async fn view(&self, call: &Call, rate: &Rate) -> Result<WarpResponse, Refusal> {
        call.check_method(&METHODS, ALLOW)?;
        self.is_open().map_err(|failure| refused(&failure))?;
        rate.take(&self.relay).map_err(|failure| refused(&failure))?;
        let asked = Asked::of(call).map_err(|failure| refused(&failure))?;
        let requests = &self.relay.requests;
        let view = requests.views.find(&asked.view).map_err(|failure| refused(&failure))?;
        if asked.until.is_empty() {
            let latest = requests.views.latest(view, &asked.key).await;
            view.waiting.metrics.ended(EdgeKind::Rest, latest.as_ref().map(drop));
            let latest = latest.map(|reply| event(&reply).into_response());
            return latest.map_err(|failure| refused(&failure));
        }
        let waiting = requests.await_state(view, &asked.key, asked.until, asked.timeout);
        let waiting = waiting.map_err(|failure| refused(&failure))?;
        Ok(self.answered(waiting, &call.headers).await)
    }
}

impl Asked {
    fn of(call: &Call) -> Result<Self, Failure> {
        let bad = |message: &str| Failure::new(ErrorCode::BadRequest, message.to_owned());
        let rest = call.path.strip_prefix(PREFIX).unwrap_or_default();
        let (view, key) =
            rest.split_once('/').ok_or_else(|| bad("the path is /v1/views/{view}/{key}"))?;
        let view = percent_decode_str(view).decode_utf8();
        let view = view.map_err(|_| bad("the view's name is not UTF-8"))?.into_owned();
        let key = percent_decode_str(key).collect();
        let (mut until, mut timeout) = (Vec::<Box<str>>::new(), call.wait());
        let query = call.query.as_deref().unwrap_or_default();
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(Into::<String>::into);
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value =
                decoded(&value.replace('+', " ")).map_err(|_| bad("a value is not UTF-8"))?;
            match name {
                "until" => until.extend(value.split(',').map(Into::into)),
                "timeout_ms" => {
                    let ms = value.parse().ok().filter(|ms| *ms > 0);
                    let ms = ms.ok_or_else(|| bad("timeout_ms is a positive integer"))?;
                    timeout = Some(Duration::from_millis(ms));
                }
                _ => {}
            }
        }
        let is_state = |state: &str| (1..=STATE_BYTES_MAX).contains(&state.len());
        if until.len() > STATES_MAX || !until.iter().all(|state| is_state(state)) {
            let message = format!(
                "until is at most {STATES_MAX} states with commas between, of 1 to \
                 {STATE_BYTES_MAX} bytes each"
            );
            return Err(bad(&message));
        }
        Ok(Self { view, key, until, timeout })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn asked(path: &str, query: Option<&str>) -> Result<Asked, Failure> {
        let (path, query) = (path.to_owned(), query.map(Into::into));
        Asked::of(&Call { path, query, method: Method::GET, headers: HeaderMap::new() })
    }

    #[test]
    fn view_key_and_states_are_read() {
        let plain = asked("/v1/views/or%64ers/a%2Fb/%ff", None).unwrap();
        assert_eq!((&*plain.view, &*plain.key), ("orders", b"a/b/\xff".as_slice()));
        assert!(plain.until.is_empty() && plain.timeout.is_none());
        let waits = asked("/v1/views/v/", Some("until=A,B%20C&timeout_ms=7&x&until=D")).unwrap();
        assert_eq!(waits.key, b"");
        assert_eq!(waits.until, ["A".into(), "B C".into(), "D".into()] as [Box<str>; 3]);
        assert_eq!(waits.timeout, Some(Duration::from_millis(7)));
        for (path, query) in [
            ("/v1/views/v", None),
            ("/v1/views/", None),
            ("/v1/views/%ff/k", None),
            ("/v1/views/v/k", Some("until=")),
            ("/v1/views/v/k", Some("until=A,,B")),
            ("/v1/views/v/k", Some("timeout_ms=0")),
            ("/v1/views/v/k", Some("timeout_ms=x")),
        ] {
            let failure = asked(path, query).unwrap_err();
            assert_eq!(failure.code, ErrorCode::BadRequest, "{path} {query:?}");
        }
        let many = format!("until={}", vec!["A"; STATES_MAX + 1].join(","));
        assert!(asked("/v1/views/v/k", Some(&many)).is_err());
    }
}
