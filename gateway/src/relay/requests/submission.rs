//! A request as the edge hands it over, and what it asks for.

use std::time::Duration;

use crate::{relay::session::Digest, wire::RequestFrame};

/// The method that a service sees for a request that came over a WebSocket.
const METHOD_WS: &str = "WS";

/// A request as the edge hands it over.
#[derive(Clone, Copy, Debug)]
pub struct Submission<'a> {
    /// Name of the service.
    pub service: &'a str,
    /// Record key; the request id when absent.
    pub key: Option<&'a [u8]>,
    /// Record value.
    pub payload: &'a [u8],
    /// The client's headers, names in lower case; those that may not pass are left out.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// `WS`, or the HTTP method.
    pub method: &'a str,
    /// For HTTP: the path after the service's name and the query, as they came.
    pub path: Option<&'a str>,
    /// How long to wait; the service's own time-out when absent.
    pub timeout: Option<Duration>,
}

/// A request, kept until it may be produced.
pub(super) struct OwnedSubmission {
    key: Option<Box<[u8]>>,
    payload: Box<[u8]>,
    headers: Vec<(Box<str>, Box<[u8]>)>,
    method: Box<str>,
    path: Option<Box<str>>,
}

impl From<&Submission<'_>> for OwnedSubmission {
    fn from(submission: &Submission<'_>) -> Self {
        let headers = submission.headers.iter();
        Self {
            key: submission.key.map(Into::into),
            payload: submission.payload.into(),
            headers: headers.map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            method: submission.method.into(),
            path: submission.path.map(Into::into),
        }
    }
}

impl OwnedSubmission {
    /// Borrows the request in the form in which it came.
    pub(super) fn with<T>(&self, use_it: impl FnOnce(&Submission<'_>) -> T) -> T {
        let headers: Vec<(&str, &[u8])> =
            self.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        use_it(&Submission {
            service: "",
            key: self.key.as_deref(),
            payload: &self.payload,
            headers: &headers,
            method: &self.method,
            path: self.path.as_deref(),
            timeout: None,
        })
    }
}

pub(super) fn header_slices(headers: &[(String, String)]) -> Vec<(&str, &[u8])> {
    headers.iter().map(|(name, value)| (&**name, value.as_bytes())).collect()
}

pub(super) fn of_frame<'a>(
    frame: &'a RequestFrame<'_>,
    headers: &'a [(&'a str, &'a [u8])],
) -> Submission<'a> {
    Submission {
        service: &frame.service,
        key: frame.key.as_deref().map(str::as_bytes),
        payload: frame.payload.as_bytes(),
        headers,
        method: METHOD_WS,
        path: None,
        timeout: frame.timeout_ms.map(Duration::from_millis),
    }
}

/// The fingerprint of a request: equal only for equal requests, apart from a collision of 128 bits,
/// with which a client could mislead nobody but itself.
pub(super) fn content(frame: &RequestFrame<'_>) -> Digest {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    let mut add = |part: &[u8]| {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    };
    add(frame.service.as_bytes());
    add(&[u8::from(frame.key.is_some())]);
    add(frame.key.as_deref().unwrap_or_default().as_bytes());
    for (name, value) in &frame.headers {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    add(frame.payload.as_bytes());
    Digest(hasher.digest128())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ClientFrame;

    fn digest(text: &str) -> Digest {
        match ClientFrame::parse(text) {
            Ok(ClientFrame::Request(frame)) => content(&frame),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_digest_is_of_service_key_headers_and_payload_alone() {
        let base = r#"{"id":1,"service":"s","key":"k","headers":{"a":"b"},"payload":1}"#;
        let same =
            r#"{"payload":1,"timeout_ms":7,"headers":{"A":"b"},"key":"k","service":"s","id":1}"#;
        assert_eq!(digest(base), digest(same));
        for other in [
            r#"{"id":1,"service":"t","key":"k","headers":{"a":"b"},"payload":1}"#,
            r#"{"id":1,"service":"s","key":"l","headers":{"a":"b"},"payload":1}"#,
            r#"{"id":1,"service":"s","headers":{"a":"b"},"payload":1}"#,
            r#"{"id":1,"service":"s","key":"k","headers":{"a":"c"},"payload":1}"#,
            r#"{"id":1,"service":"s","key":"k","payload":1}"#,
            r#"{"id":1,"service":"s","key":"k","headers":{"a":"b"},"payload":1.0}"#,
        ] {
            assert_ne!(digest(base), digest(other), "{other}");
        }
        assert_ne!(digest(r#"{"service":"s","key":""}"#), digest(r#"{"service":"s"}"#));
    }
}
