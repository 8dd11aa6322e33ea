//! Which web pages may call: the same rule for WebSocket handshakes and for REST. Origins are those of
//! RFC 6454. What browsers are told of it is in `cors`.

use std::{collections::HashSet, sync::Mutex};

use http::{HeaderMap, HeaderValue, header};

use super::authority::Authority;
use crate::{
    config::{self, PublicConfig},
    error::{ErrorCode, Failure},
    tasks::locked,
};

/// How many refused origins are remembered, so that each is logged once; further ones are only
/// counted.
const REFUSED_MAX: usize = 100;
/// Bytes of an origin that are logged.
const LOGGED_BYTES_MAX: usize = 200;

/// The configured origins.
#[derive(Debug)]
pub struct Origins {
    allowed: Vec<Origin>,
    any: bool,
    loopback: bool,
    refused: Mutex<HashSet<(Foreign, Box<str>)>>,
}

/// Why the call of a page is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Foreign {
    /// It could be listed, but is not.
    Unlisted,
    /// `null`: the page has no origin that could be listed.
    Opaque,
    /// What the header says is no origin.
    Malformed,
    /// There are several origins: nobody knows which page is calling.
    Several,
}

impl Foreign {
    /// What the caller is told.
    const fn message(self) -> &'static str {
        match self {
            Self::Unlisted => "this origin may not call: public.allowed_origins does not have it",
            Self::Opaque => "a page that has no origin of its own (null) may not call",
            Self::Malformed => "this is no origin: that is scheme://host[:port], without a path",
            Self::Several => "a request has one Origin, not several",
        }
    }

    /// What the operator may do about it.
    const fn advice(self) -> &'static str {
        match self {
            Self::Unlisted => "public.allowed_origins (dev: --allow-origin) lets its origin in",
            Self::Opaque => {
                "it is a file, in a sandboxed frame, or redirected here, and has no origin that could \
                 be listed: serve it from a host of its own; public.allowed_origins lets it in only \
                 with \"*\", which lets in every page there is"
            }
            Self::Malformed => {
                "no browser says this of a page that is served from a host: whatever sends it should \
                 send scheme://host[:port] without a path, or no Origin at all; \
                 public.allowed_origins lets it in only with \"*\""
            }
            Self::Several => {
                "a client or a proxy adds an Origin to the one that is there, and no option lets \
                 that in: have it send one"
            }
        }
    }
}

/// Scheme, host and port.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    scheme: Box<str>,
    authority: Authority,
}

impl Origin {
    /// `None` for `null`, which every page without an origin of its own sends, and for anything
    /// that no browser sends.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase().into();
        Some(Self { scheme, authority: Authority::parse(authority)? })
    }

    fn usual_port(&self) -> Option<u16> {
        match &*self.scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        }
    }

    /// Whether both name the same host and port; the port may be this one's default.
    fn is_at(&self, authority: &Authority) -> bool {
        let usual = self.usual_port();
        self.authority.has_host_of(authority)
            && self.authority.port_or(usual) == authority.port_or(usual)
    }

    fn is_same(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.is_at(&other.authority)
    }
}

impl Origins {
    /// No list allows only a page's own origin; `*` allows all.
    pub fn new(config: &PublicConfig) -> Self {
        let allowed = config.allowed_origins.as_deref().unwrap_or_default();
        Self {
            any: allowed.iter().any(|origin| origin == "*"),
            allowed: allowed.iter().filter_map(|origin| Origin::parse(origin)).collect(),
            loopback: config.loopback_origins,
            refused: Mutex::default(),
        }
    }

    /// Checks whether a call may come: it names no origin, an allowed one, or the host that it
    /// calls.
    ///
    /// # Errors
    /// `forbidden`. The first refusal of an origin is logged, with what would allow it.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let Err(why) = self.judge(headers) else { return Ok(()) };
        let given: Vec<_> = headers.get_all(header::ORIGIN).iter().collect();
        let given: Vec<_> =
            given.iter().map(|origin| String::from_utf8_lossy(origin.as_bytes())).collect();
        self.log(why, &given.join(", "));
        Err(Failure::new(ErrorCode::Forbidden, why.message()))
    }

    /// The origin of the calling page, if it is allowed.
    pub fn page<'h>(&self, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
        self.judge(headers).ok().flatten()
    }

    /// The origin of whoever calls and may, if it says any.
    fn judge<'h>(&self, headers: &'h HeaderMap) -> Result<Option<&'h HeaderValue>, Foreign> {
        let mut given = headers.get_all(header::ORIGIN).iter();
        let Some(first) = given.next() else { return Ok(None) };
        if given.next().is_some() {
            return Err(Foreign::Several);
        }
        let text = first.to_str().unwrap_or_default();
        if self.any || self.allows(text, headers) {
            return Ok(Some(first));
        }
        let may_be_listed = || Origin::parse(text).is_some() && config::origin(text).is_ok();
        Err(match text {
            "null" => Foreign::Opaque,
            _ if may_be_listed() => Foreign::Unlisted,
            _ => Foreign::Malformed,
        })
    }

    fn allows(&self, text: &str, headers: &HeaderMap) -> bool {
        let Some(origin) = Origin::parse(text) else { return false };
        let host = || Authority::parse(headers.get(header::HOST)?.to_str().ok()?);
        let is_web = origin.usual_port().is_some();
        self.allowed.iter().any(|allowed| allowed.is_same(&origin))
            || is_web && self.loopback && origin.authority.is_loopback()
            || is_web && host().is_some_and(|host| origin.is_at(&host))
    }

    fn log(&self, why: Foreign, origin: &str) {
        let end = origin.floor_char_boundary(LOGGED_BYTES_MAX);
        let origin = &origin[..end];
        let mut refused = locked(&self.refused);
        if refused.len() < REFUSED_MAX && refused.insert((why, origin.into())) {
            drop(refused);
            tracing::warn!(?origin, "a web page was refused: {}", why.advice());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(allowed: Option<&[&str]>, loopback_origins: bool) -> Origins {
        let listen = ([127, 0, 0, 1], 0).into();
        let allowed = allowed.map(|list| list.iter().map(|&origin| origin.into()).collect());
        Origins::new(&PublicConfig { listen, allowed_origins: allowed, loopback_origins })
    }

    fn is_let_in(origins: &Origins, host: &'static str, given: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(host));
        for origin in given {
            headers.append(header::ORIGIN, HeaderValue::from_static(origin));
        }
        origins.check(&headers).is_ok()
    }

    #[test]
    fn no_origin_and_the_own_host_are_always_allowed() {
        for origins in [origins(None, false), origins(Some(&["https://a.example"]), false)] {
            assert!(is_let_in(&origins, "gw.example:8080", &[]));
            assert!(is_let_in(&origins, "gw.example:8080", &["http://gw.example:8080"]));
            assert!(!is_let_in(&origins, "gw.example:8080", &["http://gw.example"]));
            assert!(!is_let_in(&origins, "gw.example:8080", &["http://evil.example"]));
            for none in ["null", "", "gw.example:8080", "ftp://gw.example:8080", "http://"] {
                assert!(!is_let_in(&origins, "gw.example:8080", &[none]), "{none}");
            }
        }
    }

    #[test]
    fn a_port_that_goes_without_saying_may_be_said() {
        let own = origins(None, false);
        for (host, origin) in [
            ("gw.example", "http://gw.example"),
            ("gw.example", "http://gw.example:80"),
            ("gw.example", "https://gw.example:443"),
            ("gw.example:80", "http://gw.example"),
            ("gw.example:443", "https://gw.example"),
            ("GW.example", "http://gw.EXAMPLE"),
            ("[0::1]:8080", "http://[::1]:8080"),
            ("[::1]", "HTTP://[::1]:80"),
        ] {
            assert!(is_let_in(&own, host, &[origin]), "{origin} at {host}");
        }
        for (host, origin) in [
            ("gw.example", "http://gw.example:443"),
            ("gw.example:443", "http://gw.example"),
            ("gw.example:8080", "https://gw.example"),
            ("[::1]:1", "http://[::1]:2"),
        ] {
            assert!(!is_let_in(&own, host, &[origin]), "{origin} at {host}");
        }
        let listed = origins(Some(&["https://a.example", "http://b.example:81"]), false);
        for origin in ["https://a.example:443", "HTTPS://A.example", "http://b.example:81"] {
            assert!(is_let_in(&listed, "gw.example", &[origin]), "{origin}");
        }
        for origin in ["http://a.example", "https://a.example:80", "http://b.example"] {
            assert!(!is_let_in(&listed, "gw.example", &[origin]), "{origin}");
        }
    }

    #[test]
    fn listed_origins_are_allowed_and_a_star_allows_all() {
        let listed = origins(Some(&["https://a.example", "capacitor://localhost"]), false);
        assert!(is_let_in(&listed, "gw.example", &["https://a.example"]));
        assert!(is_let_in(&listed, "gw.example", &["capacitor://localhost"]));
        assert!(!is_let_in(&listed, "gw.example", &["https://a.example.evil"]));
        let any = origins(Some(&["*"]), false);
        for origin in ["https://b.example", "null", "file://"] {
            assert!(is_let_in(&any, "gw.example", &[origin]), "{origin}");
        }
    }

    #[test]
    fn of_several_origins_none_counts() {
        for origins in [origins(Some(&["https://a.example"]), false), origins(Some(&["*"]), false)]
        {
            let twice = ["https://a.example", "https://a.example"];
            assert!(!is_let_in(&origins, "gw.example", &twice));
            assert!(!is_let_in(&origins, "gw.example", &["http://gw.example", "null"]));
        }
        let listed = origins(Some(&["https://a.example"]), false);
        assert!(!is_let_in(&listed, "gw.example", &["https://a.example https://b.example"]));
    }

    #[test]
    fn what_is_advised_would_help() {
        let own = origins(None, false);
        let why = |origins: &Origins, given: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for origin in given {
                headers.append(header::ORIGIN, HeaderValue::from_static(origin));
            }
            origins.judge(&headers).err()
        };
        for (given, expected) in [
            ("https://b.example:81", Foreign::Unlisted),
            ("capacitor://localhost", Foreign::Unlisted),
            ("chrome-extension://abcdef", Foreign::Unlisted),
            ("null", Foreign::Opaque),
            ("", Foreign::Malformed),
            ("*", Foreign::Malformed),
            ("b.example", Foreign::Malformed),
            ("https://b.example/", Foreign::Malformed),
            ("https://b.example https://c.example", Foreign::Malformed),
            ("file://", Foreign::Malformed),
        ] {
            assert_eq!(why(&own, &[given]), Some(expected), "{given}");
            let listing = if expected == Foreign::Unlisted { given } else { "*" };
            assert_eq!(expected.advice().contains("\"*\""), listing == "*");
            assert_eq!(why(&origins(Some(&[listing]), false), &[given]), None, "{given}");
        }
        let twice = ["https://b.example", "https://b.example"];
        for origins in [own, origins(Some(&["*"]), false)] {
            assert_eq!(why(&origins, &twice), Some(Foreign::Several));
        }
    }

    #[test]
    fn pages_of_this_machine_come_in_where_they_may() {
        let loopback = origins(None, true);
        for origin in [
            "http://localhost:3000",
            "https://localhost",
            "http://127.0.0.1:5173",
            "http://127.8.0.1",
            "http://[::1]:8080",
        ] {
            assert!(is_let_in(&loopback, "127.0.0.1:8080", &[origin]), "{origin}");
            assert!(!is_let_in(&origins(None, false), "127.0.0.1:8080", &[origin]), "{origin}");
        }
        for origin in ["http://localhost.evil.example", "null", "http://10.0.0.1"] {
            assert!(!is_let_in(&loopback, "127.0.0.1:8080", &[origin]), "{origin}");
        }
    }

    #[test]
    fn refused_origins_are_remembered_up_to_a_number() {
        let own = origins(None, false);
        for number in 0..2 * REFUSED_MAX {
            own.log(Foreign::Unlisted, &format!("http://{number}.example{}", "x".repeat(1000)));
        }
        assert_eq!(locked(&own.refused).len(), REFUSED_MAX);
        assert!(locked(&own.refused).iter().all(|(_, origin)| origin.len() <= LOGGED_BYTES_MAX));
    }
}
