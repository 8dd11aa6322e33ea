//! What has come of a request's head, as the socket sees it. The HTTP library parses heads; this
//! copy is used only where a head is refused and the library does not say enough about it.

use std::{pin::Pin, time::Duration};

use http::{HeaderMap, HeaderValue, header};
use tokio::time::{Instant, Sleep, sleep};

/// How many bytes are remembered: more than a head may have, so that `Origin` is found even if it
/// comes after a header that is too large.
const SEEN_BYTES_MAX: usize = 64 * 1024;
/// The first bytes of an HTTP/2 client (RFC 9113, section 3.4), as many as are needed to tell.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2";

/// The head that is awaited, or is arriving.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Its bytes, from the first line on.
    bytes: Vec<u8>,
    /// The time by which it must have come: set only while it is awaited.
    pub(super) timer: Option<Pin<Box<Sleep>>>,
}

impl Head {
    /// More has come.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        if self.bytes.is_empty() {
            // Empty lines before a request are ignored (RFC 9112, section 2.2).
            let start = bytes.iter().position(|byte| !b"\r\n".contains(byte));
            bytes = &bytes[start.unwrap_or(bytes.len())..];
        }
        let room = SEEN_BYTES_MAX - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..room.min(bytes.len())]);
    }

    /// Whether any byte of it has come.
    pub(super) fn has_begun(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Whether nothing more of it is remembered: because it has ended, or is too long.
    pub(super) fn is_over(&self) -> bool {
        self.bytes.len() == SEEN_BYTES_MAX || self.lines().skip(1).any(<[u8]>::is_empty)
    }

    /// Whether its first line has ended.
    pub(super) fn has_line(&self) -> bool {
        self.bytes.contains(&b'\n')
    }

    /// Whether the client speaks HTTP/2, which nobody has agreed to.
    pub(super) fn is_http2(&self) -> bool {
        self.bytes.starts_with(HTTP2_PREFACE)
    }

    /// Whether its method is HEAD: the answer to it then has no body.
    pub(super) fn is_of_head(&self) -> bool {
        self.bytes.starts_with(b"HEAD ")
    }

    /// Whether it names a version of HTTP that is not spoken here.
    pub(super) fn is_of_other_version(&self) -> bool {
        let line = self.bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let last = line.trim_ascii_end().rsplit(|&byte| byte == b' ').next().unwrap_or_default();
        let version = last.strip_prefix(b"HTTP/").unwrap_or_default();
        match version {
            [b'1', b'.', minor, ..] => minor.is_ascii_digit() && !b"01".contains(minor),
            [major, ..] => major.is_ascii_digit() && *major != b'1',
            [] => false,
        }
    }

    /// How many bytes of it have come, at least.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// How many headers have come, at least.
    pub(super) fn headers(&self) -> usize {
        self.lines().skip(1).take_while(|line| !line.is_empty()).count()
    }

    /// What it says about the caller: `Origin` and `Host`, as often as they come.
    pub(super) fn caller(&self) -> HeaderMap {
        let mut found = HeaderMap::new();
        for line in self.lines().skip(1).take_while(|line| !line.is_empty()) {
            let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            for known in [header::ORIGIN, header::HOST] {
                if name.eq_ignore_ascii_case(known.as_str().as_bytes())
                    && let Ok(value) = HeaderValue::from_bytes(value)
                {
                    found.append(known, value);
                }
            }
        }
        found
    }

    /// Its lines that have ended.
    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let lines = self.bytes.split_inclusive(|&byte| byte == b'\n');
        let ended = lines.take_while(|line| line.ends_with(b"\n"));
        ended.map(|line| line.strip_suffix(b"\r\n").unwrap_or(&line[..line.len() - 1]))
    }

    /// The timer for it, which starts when it is first asked for.
    pub(super) fn timer(&mut self, max: Duration) -> Pin<&mut Sleep> {
        self.timer.get_or_insert_with(|| Box::pin(sleep(max))).as_mut()
    }

    /// Starts the timer anew.
    pub(super) fn set_timer(&mut self, max: Duration) {
        self.timer(max).reset(Instant::now() + max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        let mut head = Head::default();
        for piece in text.as_bytes().chunks(3) {
            head.take(piece);
        }
        head
    }

    #[test]
    fn empty_lines_are_no_beginning() {
        for (text, has_begun, is_over) in [
            ("", false, false),
            ("\r\n\n", false, false),
            ("\r\nG", true, false),
            ("GET / HTTP/1.1\r\n", true, false),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r", true, false),
            ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", true, true),
            ("GET / HTTP/1.1\n\n", true, true),
        ] {
            let head = head(text);
            assert_eq!((head.has_begun(), head.is_over()), (has_begun, is_over), "{text:?}");
        }
        let mut much = head("GET / HTTP/1.1\r\nx: ");
        much.take(&[b'x'; 2 * SEEN_BYTES_MAX]);
        assert!(much.is_over());
        assert_eq!(much.bytes.len(), SEEN_BYTES_MAX);
    }

    #[test]
    fn other_versions_are_told_from_what_is_none() {
        for version in ["2.0", "3", "9.9", "1.2", "0.9"] {
            assert!(head(&format!("GET / HTTP/{version}\r\n")).is_of_other_version(), "{version}");
            assert!(head(&format!("GET / HTTP/{version}")).is_of_other_version(), "{version}");
        }
        for line in ["GET / HTTP/1.1", "GET / HTTP/1.0", "GET / HTTP/", "GET / HTTP/x", "GET /"] {
            assert!(
                !head(&format!("{line}\r\nHost: HTTP/2.0\r\n")).is_of_other_version(),
                "{line}"
            );
        }
    }

    #[test]
    fn who_calls_is_found_among_the_headers() {
        let text = "GET / HTTP/1.1\r\nORIGIN:http://a \r\nno colon\r\nhost: b\r\norigin: c\r\n\
                    originally: d\r\n\r\norigin: e\r\n";
        let caller = head(text).caller();
        let origins: Vec<&HeaderValue> = caller.get_all(header::ORIGIN).iter().collect();
        assert_eq!(origins, ["http://a", "c"]);
        assert_eq!(caller.len(), 3);
        assert_eq!(head(text).headers(), 5);
        assert!(head("Origin: a\r\n").caller().is_empty(), "the first line has no header");
        assert!(head("GET / HTTP/1.1\r\nOrigin: a").caller().is_empty(), "it may go on");
    }
}
