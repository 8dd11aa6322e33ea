//! What RFC 9110 and RFC 9112 demand of every server, and what the HTTP library leaves to its users.
//! Looks at a request's head; knows no route.

use std::borrow::Cow;

use http::{
    HeaderValue, Method, Request, StatusCode, Version,
    header::{self, HeaderMap},
};

use super::super::authority::Authority;

/// The methods that the server knows; a resource may allow fewer.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
const KNOWN: [Method; 8] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    // Known, but allowed nowhere.
    Method::TRACE,
];

/// Why a request is refused before any route sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unmet {
    pub(super) status: StatusCode,
    pub(super) message: Cow<'static, str>,
    pub(super) allow: Option<&'static str>,
}

impl Unmet {
    pub(super) const fn new(status: StatusCode, message: &'static str) -> Self {
        Self { status, message: Cow::Borrowed(message), allow: None }
    }

    pub(super) const fn bad(message: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    fn allowing(self, methods: &'static str) -> Self {
        Self { allow: Some(methods), ..self }
    }
}

/// Checks a request's head. From here on `Host` is the host that the request is for, whatever the
/// form of its target.
///
/// # Errors
/// The answer that HTTP asks for.
pub(super) fn check<B>(request: &mut Request<B>) -> Result<(), Unmet> {
    host(request.headers(), request.version())?;
    if let Some(authority) = target(request)? {
        // RFC 9112, section 3.2.2: the target counts, and `Host` beside it does not.
        request.headers_mut().insert(header::HOST, authority);
    }
    transfer_coding(request.headers())?;
    expectation(request.headers(), request.version())?;
    method(request)
}

/// RFC 9112, section 3.2: one `Host`, and a good one. HTTP/1.0 may go without.
fn host(headers: &HeaderMap, version: Version) -> Result<(), Unmet> {
    let mut given = headers.get_all(header::HOST).iter();
    let host = match (given.next(), given.next()) {
        (Some(host), None) => host,
        (None, _) if version < Version::HTTP_11 => return Ok(()),
        (None, _) => return Err(Unmet::bad("a request of HTTP/1.1 names its Host")),
        (Some(_), Some(_)) => return Err(Unmet::bad("a request names one Host, not several")),
    };
    let is_good = host.to_str().is_ok_and(|host| Authority::parse(host).is_some());
    if is_good { Ok(()) } else { Err(Unmet::bad("Host is host or host:port")) }
}

/// The host of a target in absolute form. RFC 9112, section 3.2: four forms, of which one belongs to
/// CONNECT and one to OPTIONS.
fn target<B>(request: &Request<B>) -> Result<Option<HeaderValue>, Unmet> {
    let (uri, method) = (request.uri(), request.method());
    if method == Method::CONNECT {
        return Ok(None);
    }
    match (uri.scheme_str(), uri.authority()) {
        (None, None) if uri.path().starts_with('/') => Ok(None),
        (None, None) if uri.path() == "*" && method == Method::OPTIONS => Ok(None),
        (Some(scheme), Some(authority))
            if ["http", "https"].iter().any(|web| scheme.eq_ignore_ascii_case(web))
                && Authority::parse(authority.as_str()).is_some() =>
        {
            let host = HeaderValue::from_str(authority.as_str());
            host.map(Some).map_err(|_| Unmet::bad("the target's host is no host"))
        }
        _ => Err(Unmet::bad("the target is a path, or an http URL with a host and no user")),
    }
}

/// RFC 9112, section 6.1: bodies come in chunks or in one piece. (The library takes any list that
/// ends with `chunked`, and has refused those that do not.)
fn transfer_coding(headers: &HeaderMap) -> Result<(), Unmet> {
    let values = headers.get_all(header::TRANSFER_ENCODING).iter();
    let mut chunked = 0;
    for coding in values.flat_map(|value| value.as_bytes().split(|&byte| byte == b',')) {
        if !coding.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            let message = "of the transfer codings, only chunked is implemented";
            return Err(Unmet::new(StatusCode::NOT_IMPLEMENTED, message));
        }
        chunked += 1;
    }
    if chunked > 1 { Err(Unmet::bad("a body is chunked once")) } else { Ok(()) }
}

/// RFC 9110, section 10.1.1. The library sends the 100.
fn expectation(headers: &HeaderMap, version: Version) -> Result<(), Unmet> {
    let mut expected = headers.get_all(header::EXPECT).iter();
    let is_met = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if version < Version::HTTP_11 || expected.all(is_met) {
        Ok(())
    } else {
        Err(Unmet::new(StatusCode::EXPECTATION_FAILED, "of expectations, 100-continue is met"))
    }
}

/// RFC 9110, section 9.1: methods that no resource has, and the one question about the server.
fn method<B>(request: &Request<B>) -> Result<(), Unmet> {
    let method = request.method();
    if request.uri().path() == "*" {
        return Err(Unmet::new(StatusCode::NO_CONTENT, "").allowing(METHODS));
    }
    if method == Method::CONNECT {
        let message = "this is no proxy";
        return Err(Unmet::new(StatusCode::METHOD_NOT_ALLOWED, message).allowing(METHODS));
    }
    if KNOWN.contains(method) {
        return Ok(());
    }
    let message = "this method is not implemented; methods are written in capitals";
    Err(Unmet::new(StatusCode::NOT_IMPLEMENTED, message).allowing(METHODS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: (&str, &str) = ("host", "gw.example");

    fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn status(mut request: Request<()>) -> u16 {
        check(&mut request).err().map_or(0, |unmet| unmet.status.as_u16())
    }

    #[test]
    fn one_good_host_is_named() {
        for host in ["gw.example", "gw.example:8080", "[::1]:80", "gw.example:"] {
            assert_eq!(status(request("GET", "/", &[("host", host)])), 0, "{host}");
        }
        for host in ["", "a b", "u@a", "a:b", "a/b", "a,b c"] {
            assert_eq!(status(request("GET", "/", &[("host", host)])), 400, "{host}");
        }
        assert_eq!(status(request("GET", "/", &[])), 400);
        assert_eq!(status(request("GET", "/", &[HOST, HOST])), 400);
        let mut old = request("GET", "/", &[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(status(old), 0);
        let mut old = request("GET", "/", &[HOST, HOST]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(status(old), 400);
    }

    #[test]
    fn a_target_in_absolute_form_names_the_host() {
        let mut absolute = request("GET", "HTTP://Other.example:81/ws?a=b", &[HOST]);
        assert_eq!(check(&mut absolute), Ok(()));
        assert_eq!(absolute.headers()["host"], "Other.example:81");
        assert_eq!(absolute.uri().path(), "/ws");
        assert_eq!(status(request("GET", "http://other.example/", &[])), 400, "no Host beside it");
        for bad in ["ftp://a/", "http://u@a/", "gw.example:80", "gw.example", "*"] {
            assert_eq!(status(request("GET", bad, &[HOST])), 400, "{bad}");
        }
    }

    #[test]
    fn the_server_says_what_it_can_do() {
        let options = check(&mut request("OPTIONS", "*", &[HOST])).unwrap_err();
        assert_eq!((options.status.as_u16(), options.allow), (204, Some(METHODS)));
        let connect = check(&mut request("CONNECT", "gw.example:80", &[HOST])).unwrap_err();
        assert_eq!((connect.status.as_u16(), connect.allow), (405, Some(METHODS)));
        for unknown in ["BREW", "get", "PROPFIND"] {
            let unmet = check(&mut request(unknown, "/", &[HOST])).unwrap_err();
            assert_eq!((unmet.status.as_u16(), unmet.allow), (501, Some(METHODS)), "{unknown}");
        }
    }

    #[test]
    fn bodies_are_chunked_or_whole() {
        let with = |codings: &[&str]| {
            let headers: Vec<_> = codings.iter().map(|c| ("transfer-encoding", *c)).collect();
            status(request("POST", "/", &[&[HOST], &*headers].concat()))
        };
        assert_eq!(with(&["chunked"]), 0);
        assert_eq!(with(&[" Chunked "]), 0);
        assert_eq!(with(&["gzip, chunked"]), 501);
        assert_eq!(with(&["gzip", "chunked"]), 501);
        assert_eq!(with(&["chunked;a=b"]), 501);
        assert_eq!(with(&["chunked, chunked"]), 400);
        assert_eq!(with(&["chunked", "chunked"]), 400);
    }

    #[test]
    fn only_one_expectation_is_met() {
        let with = |expect| status(request("POST", "/", &[HOST, ("expect", expect)]));
        assert_eq!((with("100-Continue"), with("200-ok"), with("100-continue, x")), (0, 417, 417));
        let mut old = request("POST", "/", &[HOST, ("expect", "x")]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(status(old), 0);
    }
}
