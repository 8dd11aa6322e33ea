//! The texts that say where something is: addresses, hosts, origins, URLs. Pure functions from a text
//! to its normal form, or to the reason why it is refused. Resolves no name, owns no option.

use std::net::{Ipv4Addr, SocketAddr};

use http::Uri;

use super::checks::shown;

/// `host:port`: an address, or `localhost` for 127.0.0.1.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    match local {
        Some(port) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        None => text.parse().map_err(|_| {
            format!(
                "{}: expected an IP address or localhost, and a port, as in \"0.0.0.0:8080\"",
                shown(text)
            )
        }),
    }
}

/// Where peers reach a node: `http://host:port`, without a final `/`.
pub(super) fn advertise(text: &str) -> Result<String, String> {
    let reason = "expected an http:// URL without path, as in \"http://10.0.0.5:9080\"";
    let uri: Uri = text.parse().map_err(|_| reason.to_owned())?;
    let authority = match uri.authority() {
        Some(authority) if !authority.as_str().contains('@') => authority,
        _ => return Err(reason.to_owned()),
    };
    let is_bare = uri.path() == "/" && uri.query().is_none() && !text.contains('#');
    let has_port = authority.port_u16().is_some() || authority.as_str() == authority.host();
    if uri.scheme_str() == Some("http") && is_bare && has_port && !authority.host().is_empty() {
        Ok(format!("http://{authority}"))
    } else {
        Err(reason.to_owned())
    }
}

/// One entry of the allowed origins: `*`, or an origin (RFC 6454) in the form browsers send it,
/// lower case and without its scheme's usual port.
pub(super) fn origin(text: &str) -> Result<String, String> {
    if text == "*" {
        return Ok(text.to_owned());
    }
    let reason =
        || format!("{}: expected scheme://host or scheme://host:port, or \"*\"", shown(text));
    let text = text.to_ascii_lowercase();
    let (scheme, rest) = text.split_once("://").ok_or_else(reason)?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let usual_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    if is_scheme && is_host(rest) {
        Ok(format!("{scheme}://{}", rest.strip_suffix(usual_port).unwrap_or(rest)))
    } else {
        Err(reason())
    }
}

/// A comma-separated list of brokers, `host` or `host:port` each, without white space.
pub(super) fn bootstrap_servers(text: &str) -> Result<String, String> {
    let servers: Vec<&str> = text.split(',').map(str::trim).collect();
    match servers.iter().find(|server| !is_host(server)) {
        None => Ok(servers.join(",")),
        Some(bad) => Err(format!(
            "{}: expected host:port, several separated by commas, as in \"kafka-1:9092,kafka-2:9092\"",
            shown(bad)
        )),
    }
}

/// A name, an IPv4 address or an IPv6 address in brackets, perhaps with a port from 1 to 65535.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_port = |port: &str| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let is_host = match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(is_name_byte),
    };
    is_host && port.is_none_or(is_port)
}

/// Where the registry is: what passes here, its client takes. The reason never shows the URL, which
/// may hold a password.
pub(super) fn registry_url(text: &str) -> Result<(), String> {
    const SCHEMES: [&str; 4] = ["redis", "rediss", "redis+cluster", "redis+sentinel"];
    if text == "memory:" {
        return Ok(());
    }
    if text.bytes().any(|b| !b.is_ascii_graphic()) {
        return Err("must be visible ASCII characters only; write others as %-escapes".to_owned());
    }
    match text.split_once("://") {
        Some((scheme, rest)) if SCHEMES.contains(&scheme) && is_place(after_user(rest)) => {
            registry::check_url(text)
        }
        Some((scheme, _)) if SCHEMES.contains(&scheme) => Err(format!(
            "expected {scheme}://host:port after which a path may follow; in user and password, \
             write : / ? @ as %-escapes"
        )),
        _ => Err(format!("expected {}:// and a host, or memory:", SCHEMES.join("://, "))),
    }
}

/// What follows the user and password of a URL, whose scheme is cut off. The last `@` counts: a
/// password with an unescaped one must not pass as a host.
pub(super) fn after_user(rest: &str) -> &str {
    rest.rsplit_once('@').map_or(rest, |(_, place)| place)
}

/// One or several hosts with commas, perhaps a path of plain characters, perhaps a query.
pub(super) fn is_place(text: &str) -> bool {
    let text = text.split_once('?').map_or(text, |(place, _)| place);
    let (hosts, path) = text.split_once('/').unwrap_or((text, ""));
    hosts.split(',').all(is_host)
        && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listens_on_addresses_and_localhost() {
        for (text, address) in [
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("localhost:0", "127.0.0.1:0"),
            ("[::1]:8080", "[::1]:8080"),
        ] {
            assert_eq!(listen(text).unwrap().to_string(), address);
        }
        for text in
            ["", ":80", "8080", "example.org:80", "127.0.0.1", "localhost:65536", "localhost:"]
        {
            assert!(listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn advertises_bare_http_urls() {
        for (text, url) in [
            ("http://10.0.0.5:9080", "http://10.0.0.5:9080"),
            ("http://gw-1/", "http://gw-1"),
            ("http://[::1]:0", "http://[::1]:0"),
            ("HTTP://gw-1", "http://gw-1"),
        ] {
            assert_eq!(advertise(text), Ok(url.to_owned()));
        }
        for text in [
            "",
            "gw-1",
            "gw-1:80",
            "https://gw-1",
            "http://",
            "http://:80",
            "http://u:p@gw-1",
            "http://gw-1/x",
            "http://gw-1?x",
            "http://gw-1/#x",
            "http://gw-1:99999",
            "/",
            "*",
        ] {
            assert!(advertise(text).is_err(), "{text}");
        }
    }

    #[test]
    fn brings_origins_into_the_form_browsers_send() {
        for (text, normal) in [
            ("*", "*"),
            ("https://Shop.Example", "https://shop.example"),
            ("https://shop.example:443", "https://shop.example"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:80", "http://[::1]"),
            ("capacitor://localhost", "capacitor://localhost"),
        ] {
            assert_eq!(origin(text), Ok(normal.to_owned()));
        }
        for text in [
            "",
            "null",
            "shop.example",
            "https://",
            "https://shop.example/",
            "https://a/b",
            "https://*.example",
            "https://a:0",
            "https://a:x",
            "://a",
            "https://a b",
            "https://u@a",
        ] {
            assert!(origin(text).is_err(), "{text}");
        }
    }

    #[test]
    fn reads_lists_of_brokers() {
        assert_eq!(bootstrap_servers("a:9092, [::1]:9093,c"), Ok("a:9092,[::1]:9093,c".to_owned()));
        for text in
            ["", "a:9092,", "a b", "a:0", "a:99999", "[\"a:9092\"]", "http://a:9092", ":9092"]
        {
            assert!(bootstrap_servers(text).is_err(), "{text}");
        }
    }

    #[test]
    fn knows_the_registrys_schemes() {
        for text in [
            "memory:",
            "redis://127.0.0.1:6379",
            "rediss://:pw@host/1",
            "redis+cluster://a:1,b:2",
            "redis+sentinel://a:1,b:2/main",
        ] {
            assert_eq!(registry_url(text), Ok(()), "{text}");
        }
        for text in [
            "",
            "memory",
            "redis:",
            "redis://",
            "redis:///0",
            "http://a",
            "redis://a b",
            "redis://:pw@",
            "redis://h/x",
            "redis+cluster://a:1/1",
            "redis+sentinel://a:1,b:2",
        ] {
            assert!(registry_url(text).is_err(), "{text}");
        }
    }
}
