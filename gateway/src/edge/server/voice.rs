//! How a listener answers what never reaches its routes, and what it adds to every answer. The
//! public one answers with problem documents, the internal one in plain text.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::{
    super::{Answer, cors, origin::Origins, plain, problem_with},
    head::Head,
    requirements::Unmet,
};
use crate::{
    error::{ErrorCode, Failure},
    telemetry::HttpRefusals,
};

/// How one listener answers.
#[derive(Debug)]
pub enum Voice {
    /// For clients: problem documents.
    Problems {
        /// The node, which every answer names.
        node: HeaderValue,
        /// The pages that may read answers.
        origins: Arc<Origins>,
        /// The counters of what never reaches a route.
        refusals: HttpRefusals,
    },
    /// For peers and probes.
    Plain,
}

impl Voice {
    /// The origin of the page that has sent a request, if it may read the answer.
    pub(super) fn page(&self, request: &HeaderMap) -> Option<HeaderValue> {
        match self {
            Self::Problems { origins, .. } => origins.page(request).cloned(),
            Self::Plain => None,
        }
    }

    /// Adds what every answer has, from a route or not.
    pub(super) fn sign<B>(&self, answer: &mut Response<B>, page: Option<HeaderValue>) {
        if let Self::Problems { node, .. } = self {
            let is_upgrade = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
            answer.headers_mut().insert("roundtrip-node", node.clone());
            if !is_upgrade {
                cors::sign(answer.headers_mut(), page);
            }
        }
    }

    /// The answer for a failure that is not a route's.
    pub(super) fn failure(&self, failure: &Failure) -> Answer {
        self.answer(failure.code.status(), failure)
    }

    /// The answer to a request that breaks a rule of HTTP, or that asks the server itself what it
    /// can do.
    pub(super) fn unmet(&self, unmet: &Unmet) -> Answer {
        let mut answer = if unmet.status == StatusCode::NO_CONTENT {
            let mut answer = Response::new(Vec::new());
            *answer.status_mut() = unmet.status;
            answer
        } else {
            let failure = Failure::new(ErrorCode::BadRequest, unmet.message.clone());
            self.answer(unmet.status.as_u16(), &failure)
        };
        if let Some(allow) = unmet.allow {
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        answer
    }

    /// The text of the last answer on a connection, to bytes that were no request although they
    /// began like one.
    pub(super) fn verdict(&self, unmet: &Unmet, head: &Head, date: &[u8]) -> Box<[u8]> {
        let mut answer = self.unmet(unmet);
        self.sign(&mut answer, self.page(&head.caller()));
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        let status = answer.status();
        let reason = status.canonical_reason().unwrap_or_default();
        let mut text = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
        for (name, value) in answer.headers() {
            text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        text.extend(format!("content-length: {}\r\n", answer.body().len()).as_bytes());
        if !date.is_empty() {
            text.extend([date, b"\r\n"].concat());
        }
        text.extend(b"\r\n");
        if !head.is_of_head() {
            text.extend(answer.body());
        }
        text.into()
    }

    /// Makes an answer and counts it, because what never reaches a route is counted nowhere else.
    fn answer(&self, status: u16, failure: &Failure) -> Answer {
        match self {
            Self::Problems { refusals, .. } => {
                refusals.count(status);
                problem_with(status, failure, None)
            }
            Self::Plain => {
                let status = StatusCode::from_u16(status);
                plain(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &failure.message)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PublicConfig;

    fn verdict(voice: &Voice, text: &str) -> String {
        let mut head = Head::default();
        head.take(text.as_bytes());
        let unmet = Unmet::new(StatusCode::URI_TOO_LONG, "too long");
        let date = b"date: Thu, 26 Nov 2026 23:00:00 GMT";
        String::from_utf8(voice.verdict(&unmet, &head, date).into()).unwrap()
    }

    #[test]
    fn what_is_no_request_gets_a_problem() {
        let listen = ([127, 0, 0, 1], 0).into();
        let allowed_origins = Some(vec!["https://a.example".to_owned()]);
        let config = PublicConfig { listen, allowed_origins, loopback_origins: false };
        let voice = Voice::Problems {
            node: HeaderValue::from_static("gw-1"),
            origins: Arc::new(Origins::new(&config)),
            refusals: HttpRefusals::default(),
        };
        for origin in ["", "https://a.example", "https://b.example"] {
            let text = verdict(&voice, &format!("GET / HTTP/1.1\r\nOrigin: {origin}\r\n"));
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let lines: Vec<&str> = head.split("\r\n").collect();
            assert_eq!(lines[0], "HTTP/1.1 414 URI Too Long");
            let length = format!("content-length: {}", body.len());
            for line in [
                "date: Thu, 26 Nov 2026 23:00:00 GMT",
                "connection: close",
                "content-type: application/problem+json",
                "roundtrip-node: gw-1",
                "vary: origin",
                &length,
            ] {
                assert!(lines.contains(&line), "{line}: {text}");
            }
            let is_readable = lines.contains(&"access-control-allow-origin: https://a.example");
            assert_eq!(is_readable, origin == "https://a.example", "{text}");
            let problem: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(
                (&problem["code"], &problem["recorded"], &problem["detail"]),
                (&"bad_request".into(), &false.into(), &"too long".into())
            );
        }
        // RFC 9110, section 9.3.2: the same answer, without content.
        let (get, head) = (verdict(&voice, "GET / "), verdict(&voice, "HEAD / "));
        assert!(head.ends_with("\r\n\r\n") && get.starts_with(&head), "{head}");
    }

    #[test]
    fn peers_are_answered_in_plain_words() {
        let text = verdict(&Voice::Plain, "hello");
        assert!(text.ends_with("\r\n\r\ntoo long\n"), "{text}");
        assert!(!text.contains("roundtrip-node") && !text.contains("vary"), "{text}");
    }
}
