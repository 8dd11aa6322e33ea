//! `host[:port]`, as it is in a request's target, in `Host` and in `Origin`. Parsed once, into a
//! form that can be compared; never resolves a name.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A host and perhaps a port (RFC 3986, section 3.2, without user information).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    host: Host,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// In lower case.
    Name(Box<str>),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

impl Authority {
    /// `None` if a server has to refuse it: no host, user information, or bytes that no host has.
    /// An empty port counts as none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (text, ""),
        };
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let port = if port.is_empty() { None } else { Some(port.parse().ok()?) };
        Some(Self { host: Host::parse(host)?, port })
    }

    /// The port, or the scheme's default.
    pub(crate) fn port_or(&self, usual: Option<u16>) -> Option<u16> {
        self.port.or(usual)
    }

    /// Whether both name the same host.
    pub(crate) fn has_host_of(&self, other: &Self) -> bool {
        self.host == other.host
    }

    /// Whether every resolver knows the host as this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Name(name) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                name == "localhost" || name.ends_with(".localhost")
            }
            Host::V4(address) => address.is_loopback(),
            Host::V6(address) => IpAddr::V6(*address).to_canonical().is_loopback(),
        }
    }
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        if let Some(inner) = text.strip_prefix('[') {
            return inner.strip_suffix(']')?.parse().ok().map(Self::V6);
        }
        let is_name_byte =
            |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte);
        if text.is_empty() || !text.bytes().all(is_name_byte) {
            return None;
        }
        Some(match text.parse() {
            Ok(address) => Self::V4(address),
            Err(_) => Self::Name(text.to_ascii_lowercase().into()),
        })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => f.write_str(name)?,
            Host::V4(address) => write!(f, "{address}")?,
            Host::V6(address) => write!(f, "[{address}]")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<String> {
        Authority::parse(text).map(|authority| authority.to_string())
    }

    #[test]
    fn spellings_of_one_host_are_equal() {
        for (text, normal) in [
            ("Gw.Example", "gw.example"),
            ("gw.example:", "gw.example"),
            ("GW.example:08080", "gw.example:8080"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[0:0:0:0:0:0:0:1]:9", "[::1]:9"),
            ("[2001:DB8::A]", "[2001:db8::a]"),
            ("a%20b", "a%20b"),
        ] {
            assert_eq!(read(text).as_deref(), Some(normal), "{text}");
        }
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        for text in [
            "",
            ":80",
            "a b",
            "a/b",
            "user@host",
            "a:b",
            "a:-1",
            "a:65536",
            "::1",
            "[::1",
            "[::1]x",
            "[fe80::1%25eth0]",
            "[v1.x]",
            "a,b c",
            "a\"b",
            "a#b",
            "a?b",
            "\u{e9}",
            "http://a",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn loopback_is_what_every_resolver_keeps_at_home() {
        let is_loopback = |text| Authority::parse(text).unwrap().is_loopback();
        for text in ["localhost", "LOCALHOST:1", "app.localhost", "localhost.", "127.0.0.1:3000"] {
            assert!(is_loopback(text), "{text}");
        }
        for text in ["127.255.255.254", "[::1]:5173", "[::ffff:127.0.0.1]"] {
            assert!(is_loopback(text), "{text}");
        }
        for text in ["localhost.example", "notlocalhost", "128.0.0.1", "127.0.0.1.example", "[::2]"]
        {
            assert!(!is_loopback(text), "{text}");
        }
    }
}
