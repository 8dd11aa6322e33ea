//! Which web pages may call: the same rule for WebSocket handshakes and for REST (CORS, as the
//! Fetch standard describes it).

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::Answer;
use crate::error::{ErrorCode, Failure};

/// How long a browser may remember a preflight's answer, in seconds.
const PREFLIGHT_MAX_AGE: u32 = 600;
/// What pages may read of an answer beside the headers that they always may.
const EXPOSED: &str = "roundtrip-request-id, roundtrip-node, server-timing, retry-after";

/// The configured origins.
#[derive(Debug)]
pub struct Origins {
    allowed: Vec<String>,
    any: bool,
}

impl Origins {
    /// `None` allows only a page's own origin; `*` allows all.
    pub fn new(allowed: Option<&[String]>) -> Self {
        let allowed: Vec<String> = allowed.unwrap_or_default().to_vec();
        Self { any: allowed.iter().any(|origin| origin == "*"), allowed }
    }

    /// Whether a call may come: it names no origin, an allowed one, or the host it calls.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default();
        let same_host = || {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            authority.is_some_and(|of_origin| {
                host.is_some_and(|host| host.eq_ignore_ascii_case(of_origin))
            })
        };
        let listed = || self.allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin));
        if self.any || listed() || same_host() {
            return Ok(());
        }
        Err(Failure::new(ErrorCode::Forbidden, "this origin may not call; see allowed_origins"))
    }

    /// The answer to a preflight from an allowed origin.
    pub fn preflight(request: &HeaderMap) -> Answer {
        let mut answer = Response::new(Vec::new());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        let headers = answer.headers_mut();
        let methods = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        if let Some(wanted) = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE.into());
        Self::allow(request, headers);
        answer
    }

    /// Lets the page that asked read the answer.
    pub fn allow(request: &HeaderMap, answer: &mut HeaderMap) {
        if let Some(origin) = request.get(header::ORIGIN) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            let exposed = HeaderValue::from_static(EXPOSED);
            answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
            answer.append(header::VARY, HeaderValue::from_static("origin"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(origin: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("gw.example:8080"));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        }
        headers
    }

    #[test]
    fn no_origin_and_the_own_host_are_always_allowed() {
        for origins in [Origins::new(None), Origins::new(Some(&["https://a.example".into()]))] {
            assert!(origins.check(&call(None)).is_ok());
            assert!(origins.check(&call(Some("http://gw.example:8080"))).is_ok());
            assert!(origins.check(&call(Some("http://evil.example"))).is_err());
            assert!(origins.check(&call(Some("null"))).is_err());
        }
    }

    #[test]
    fn listed_origins_are_allowed_and_a_star_allows_all() {
        let listed = Origins::new(Some(&["https://a.example".into()]));
        assert!(listed.check(&call(Some("https://a.example"))).is_ok());
        assert!(listed.check(&call(Some("https://a.example.evil"))).is_err());
        assert!(Origins::new(Some(&["*".into()])).check(&call(Some("https://b.example"))).is_ok());
    }
}
