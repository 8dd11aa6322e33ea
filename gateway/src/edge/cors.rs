//! What answers tell browsers about who may read them (CORS, as the Fetch standard has it). Who may is
//! decided in `origin`.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::{Answer, has_token};

/// How long a browser may remember a preflight's answer, in seconds.
const PREFLIGHT_MAX_AGE: u32 = 600;
/// What pages may use in their calls.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";
/// Which headers of an answer pages may read, apart from those that they always may: all, since
/// pages send no credentials. Browsers that do not know the star know the names of our own.
const EXPOSED: &str = "roundtrip-request-id, roundtrip-guid, roundtrip-node, server-timing, \
                       retry-after, location, preference-applied, *";
/// What a preflight's answer depends on.
const PREFLIGHT_VARY: &str =
    "origin, access-control-request-method, access-control-request-headers";

const PRIVATE_NETWORK_ASKED: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const PRIVATE_NETWORK_ALLOWED: HeaderName =
    HeaderName::from_static("access-control-allow-private-network");

/// The answer to a preflight of a page that may call.
pub(super) fn preflight(request: &HeaderMap) -> Answer {
    let mut answer = Response::new(Vec::new());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    let methods = HeaderValue::from_static(METHODS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    for wanted in request.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.append(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    // The page is on a public network, this node on a private one: whoever lists an origin means it.
    if request.get(PRIVATE_NETWORK_ASKED).is_some_and(|asked| asked == "true") {
        headers.insert(PRIVATE_NETWORK_ALLOWED, HeaderValue::from_static("true"));
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE.into());
    headers.insert(header::VARY, HeaderValue::from_static(PREFLIGHT_VARY));
    answer
}

/// Lets the page that has called, if it is one that may, read the answer; and tells caches that
/// another page, or none, might have got another one.
pub(super) fn sign(answer: &mut HeaderMap, page: Option<HeaderValue>) {
    if !has_token(answer, &header::VARY, "origin") {
        answer.append(header::VARY, HeaderValue::from_static("origin"));
    }
    if let Some(page) = page {
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, page);
        let exposed = HeaderValue::from_static(EXPOSED);
        answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preflight_says_what_may_come_and_what_it_depends_on() {
        let page = HeaderValue::from_static("https://a.example");
        let mut request = HeaderMap::new();
        let mut answer = preflight(&request);
        sign(answer.headers_mut(), Some(page.clone()));
        assert_eq!(answer.status(), 204);
        assert_eq!(answer.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], page);
        assert_eq!(answer.headers()[header::ACCESS_CONTROL_ALLOW_METHODS], METHODS);
        let vary: Vec<&HeaderValue> = answer.headers().get_all(header::VARY).iter().collect();
        assert_eq!(vary, [PREFLIGHT_VARY]);
        assert!(!answer.headers().contains_key(header::ACCESS_CONTROL_ALLOW_HEADERS));
        assert!(!answer.headers().contains_key(PRIVATE_NETWORK_ALLOWED));

        let wanted = HeaderValue::from_static("content-type, x-tenant");
        request.insert(header::ACCESS_CONTROL_REQUEST_HEADERS, wanted.clone());
        request.insert(PRIVATE_NETWORK_ASKED, HeaderValue::from_static("true"));
        let answer = preflight(&request);
        assert_eq!(answer.headers()[header::ACCESS_CONTROL_ALLOW_HEADERS], wanted);
        assert_eq!(answer.headers()[PRIVATE_NETWORK_ALLOWED], "true");
    }

    #[test]
    fn an_answer_says_that_it_depends_on_the_origin() {
        let mut answer = HeaderMap::new();
        answer.insert(header::VARY, HeaderValue::from_static("accept"));
        sign(&mut answer, None);
        let vary: Vec<&HeaderValue> = answer.get_all(header::VARY).iter().collect();
        assert_eq!(vary, ["accept", "origin"]);
        assert!(!answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
        assert!(!answer.contains_key(header::ACCESS_CONTROL_EXPOSE_HEADERS));
    }
}
