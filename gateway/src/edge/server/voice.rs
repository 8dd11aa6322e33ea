//! How a listener answers what never reaches its routes: in problem documents or in plain words.

use http::{HeaderValue, Response, StatusCode, header};

use super::{
    super::{Answer, plain, problem_with},
    requirements::Unmet,
};
use crate::error::{ErrorCode, Failure};

/// The words of one listener.
#[derive(Debug)]
pub enum Voice {
    /// For clients: problem documents, and which node speaks.
    Problems(HeaderValue),
    /// For peers and probes.
    Plain,
}

impl Voice {
    /// The answer for a failure that is not a route's.
    pub(super) fn failure(&self, failure: &Failure) -> Answer {
        self.answer(failure.code.status(), failure)
    }

    /// The answer to a request that lacks what HTTP asks of it, or that asks for nothing more than
    /// what the server can do.
    pub(super) fn unmet(&self, unmet: &Unmet) -> Answer {
        let mut answer = if unmet.status == StatusCode::NO_CONTENT {
            let mut answer = Response::new(Vec::new());
            *answer.status_mut() = unmet.status;
            self.sign(&mut answer);
            answer
        } else {
            let failure = Failure::new(ErrorCode::BadRequest, unmet.message);
            self.answer(unmet.status.as_u16(), &failure)
        };
        if let Some(allow) = unmet.allow {
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        answer
    }

    /// The text that takes the place of the HTTP library's own, which has no body. `has_line`:
    /// whether the request's first line has come.
    pub(super) fn verdict(&self, library: &[u8], has_line: bool) -> Box<[u8]> {
        let status = library.get(9..12).and_then(|status| StatusCode::from_bytes(status).ok());
        let (status, message) = match status {
            Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) if !has_line => {
                (StatusCode::URI_TOO_LONG, "the request line has more than 16 KiB")
            }
            Some(status @ StatusCode::URI_TOO_LONG) => (status, "the target has more than 16 KiB"),
            Some(status @ StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => {
                (status, "the head has more than 16 KiB, or more than 100 headers")
            }
            _ => (StatusCode::BAD_REQUEST, "this is no request of HTTP/1.1 (RFC 9112)"),
        };
        let mut answer =
            self.answer(status.as_u16(), &Failure::new(ErrorCode::BadRequest, message));
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        let mut text = format!(
            "HTTP/1.1 {} {}\r\n",
            status.as_u16(),
            status.canonical_reason().unwrap_or_default()
        )
        .into_bytes();
        for (name, value) in answer.headers() {
            text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        text.extend(format!("content-length: {}\r\n", answer.body().len()).as_bytes());
        let lines = library.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
        if let Some(date) = { lines }.find(|line| line.starts_with(b"date:")) {
            text.extend([date, b"\r\n"].concat());
        }
        text.extend(b"\r\n");
        text.extend(answer.body());
        text.into()
    }

    fn answer(&self, status: u16, failure: &Failure) -> Answer {
        let mut answer = match self {
            Self::Problems(_) => problem_with(status, failure, None),
            Self::Plain => {
                let status = StatusCode::from_u16(status);
                plain(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &failure.message)
            }
        };
        self.sign(&mut answer);
        answer
    }

    fn sign(&self, answer: &mut Answer) {
        if let Self::Problems(node) = self {
            answer.headers_mut().insert("roundtrip-node", node.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(voice: &Voice, library: &str, has_line: bool) -> String {
        String::from_utf8(voice.verdict(library.as_bytes(), has_line).into()).unwrap()
    }

    #[test]
    fn the_librarys_bare_answers_become_problems() {
        let voice = Voice::Problems(HeaderValue::from_static("gw-1"));
        let date = "date: Thu, 26 Nov 2026 23:00:00 GMT";
        for (line, has_line, status) in [
            ("431 Request Header Fields Too Large", true, "431 Request Header Fields Too Large"),
            ("431 Request Header Fields Too Large", false, "414 URI Too Long"),
            ("414 URI Too Long", true, "414 URI Too Long"),
            ("400 Bad Request", true, "400 Bad Request"),
            ("400 Bad Request", false, "400 Bad Request"),
        ] {
            let library = format!(
                "HTTP/1.1 {line}\r\nconnection: close\r\ncontent-length: 0\r\n{date}\r\n\r\n"
            );
            let text = verdict(&voice, &library, has_line);
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let mut lines = head.split("\r\n");
            assert_eq!(lines.next(), Some(&*format!("HTTP/1.1 {status}")));
            let lines: Vec<&str> = lines.collect();
            let length = format!("content-length: {}", body.len());
            for line in
                [date, "connection: close", "content-type: application/problem+json", &length]
            {
                assert!(lines.contains(&line), "{line}: {text}");
            }
            let problem: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(
                (&problem["code"], &problem["recorded"]),
                (&"bad_request".into(), &false.into())
            );
        }
    }

    #[test]
    fn peers_are_answered_in_plain_words() {
        let text = verdict(&Voice::Plain, "HTTP/1.1 400 Bad Request\r\n\r\n", false);
        assert!(text.ends_with("\r\n\r\nthis is no request of HTTP/1.1 (RFC 9112)\n"), "{text}");
        assert!(!text.contains("roundtrip-node"), "{text}");
    }
}
