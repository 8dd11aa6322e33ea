//! What each text must look like. Pure functions from a text to its normal form, or to the reason
//! why it is refused. Owns no option: several may share a check.

use http::HeaderName;
use registry::NodeId;

use super::keys::quoted;

/// Headers of one connection (RFC 9110 section 7.6.1, and those that frame a message): a service
/// that set one of them would break the response it travels in.
const CONNECTION_HEADERS: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// Headers that are handed on without being listed.
const ALWAYS_HANDED_ON: [&str; 3] = ["content-type", "traceparent", "tracestate"];

/// What a refused text is called in a message; long ones are cut.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{} …", quoted(&text[..end])),
        None => quoted(text),
    }
}

/// A node's name.
pub(super) fn node_id(text: &str) -> Result<NodeId, String> {
    NodeId::parse(text).map_err(|error| format!("{}: {error}", shown(text)))
}

/// A topic's name, by Kafka's rules.
pub(super) fn topic(text: &str) -> Result<String, String> {
    if is_name(text, 249) && text != "." && text != ".." {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{}: a topic's name is 1 to 249 characters out of A-Z a-z 0-9 . _ -, but not . or ..",
            shown(text)
        ))
    }
}

/// A service's name.
pub(super) fn service_name(text: &str) -> Result<(), String> {
    if is_name(text, 64) {
        Ok(())
    } else {
        Err("a service's name is 1 to 64 characters out of A-Z a-z 0-9 . _ -".to_owned())
    }
}

/// A JSON pointer (RFC 6901).
pub(super) fn pointer(text: &str) -> Result<String, String> {
    let mut escapes = text.split('~').skip(1);
    let is_pointer = text.is_empty() || text.starts_with('/');
    if is_pointer && escapes.all(|rest| rest.starts_with(['0', '1'])) {
        Ok(text.to_owned())
    } else {
        Err(format!("{}: expected a JSON pointer, as in \"/order/id\"", shown(text)))
    }
}

/// A state of an entity: states are separated by commas in a query.
pub(super) fn state(text: &str) -> Result<String, String> {
    if (1..=64).contains(&text.len()) && !text.contains(',') {
        Ok(text.to_owned())
    } else {
        Err(format!("{}: a state is 1 to 64 bytes without a comma", shown(text)))
    }
}

/// Any text that is not empty.
pub(super) fn text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

fn is_name(text: &str, length_max: usize) -> bool {
    (1..=length_max).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// A consumer group's name.
pub(super) fn group_id(text: &str) -> Result<String, String> {
    if (1..=249).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(format!("{}: expected 1 to 249 visible ASCII characters", shown(text)))
    }
}

/// The name of a header that passes between client and service, in lower case.
pub(super) fn header(text: &str) -> Result<String, String> {
    let name = HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| format!("{}: not the name of a header", shown(text)))?;
    let name = name.as_str();
    let refused = if name.starts_with("roundtrip-") || name.starts_with("kafka_") {
        "the prefixes roundtrip- and kafka_ are the gateway's own"
    } else if ALWAYS_HANDED_ON.contains(&name) {
        "it is handed on without being listed"
    } else if CONNECTION_HEADERS.contains(&name) || name.starts_with("sec-websocket-") {
        "it belongs to one connection and cannot be handed on"
    } else {
        return Ok(name.to_owned());
    };
    Err(format!("{}: {refused}", shown(name)))
}

/// Characters of a secret that peers share, at least.
const SECRET_MIN: usize = 16;

/// The secret that peers share, which travels in a header. The reason never shows it.
pub(super) fn shared_secret(text: &str) -> Result<(), String> {
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        Err("must be visible ASCII characters only, without spaces".to_owned())
    } else if (SECRET_MIN..=1024).contains(&text.len()) {
        Ok(())
    } else {
        let is = text.len();
        Err(format!(
            "must be {SECRET_MIN} to 1024 characters, is {is}; openssl rand -hex 32 makes one"
        ))
    }
}

/// What the registry's keys begin with. Braces would move the hash tags of a Redis Cluster.
pub(super) fn prefix(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b".:_-".contains(&b);
    if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(format!("{}: expected 1 to 64 characters out of A-Z a-z 0-9 . : _ -", shown(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_kafkas_rules_for_topics() {
        for text in ["orders.requests", "a_b-C9", "...", &"x".repeat(249)] {
            assert!(topic(text).is_ok(), "{text}");
        }
        for text in ["", ".", "..", "a b", "ü", "a/b", &"x".repeat(250)] {
            assert!(topic(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lowers_headers_and_refuses_our_own() {
        assert_eq!(header("X-Tenant"), Ok("x-tenant".to_owned()));
        for text in [
            "",
            "a b",
            "ü",
            "Roundtrip-User",
            "kafka_correlationId",
            "content-type",
            "Connection",
            "content-length",
            "Sec-WebSocket-Protocol",
        ] {
            assert!(header(text).is_err(), "{text}");
        }
    }

    #[test]
    fn wants_a_secret_that_fits_a_header() {
        for text in ["0123456789abcdef", "0123456789ab!\"#~", &"x".repeat(1024)] {
            assert_eq!(shared_secret(text), Ok(()), "{text}");
        }
        for text in [
            "",
            " ",
            "s",
            "0123456789abcde",
            "0123456789 abcdef",
            "a\n",
            "0123456789abcdefü",
            &"x".repeat(1025),
        ] {
            assert!(shared_secret(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cuts_long_texts() {
        assert_eq!(shown(&"ü".repeat(65)), format!("\"{}\" …", "ü".repeat(64)));
    }
}
