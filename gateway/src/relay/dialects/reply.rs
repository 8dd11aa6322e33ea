//! Reads a record of the reply topic: which request it answers, and what it says.
//!
//! If a header that has one value comes several times, the last one counts, as in Kafka's
//! `Headers.lastHeader` and Spring's header mapper: whoever adds another one means to replace the
//! first.

use bytes::Bytes;
use registry::RequestId;

use super::CORRELATION_ID;
use crate::{
    bus::Incoming,
    peer::{REPLY_BYTES_MAX, format::reply_bytes},
    wire::{Item, Reply},
};

const NEST_ERROR: &str = "kafka_nest-err";
/// The headers in which a service may give a status; the first one that is there counts.
const STATUSES: [&str; 3] = ["roundtrip-status", ":status", "x-status-code"];
const BAD_GATEWAY: u16 = 502;
/// Which part of a streamed answer the record is: a decimal index.
const PART: &str = "roundtrip-part";
/// The streamed answer is complete: the decimal number of its parts.
const END: &str = "roundtrip-end";
const NEST_DISPOSED: &str = "kafka_nest-is-disposed";

/// Why a record is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAReply {
    /// Neither a correlation header nor a key.
    Uncorrelated,
    /// A correlation id that is none of ours.
    Malformed,
}

impl NotAReply {
    /// The reason as metrics and logs name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uncorrelated => "uncorrelated",
            Self::Malformed => "malformed_correlation",
        }
    }
}

/// The request that the record answers: by its correlation header, else by its key.
///
/// # Errors
/// [`NotAReply`] if the record names no request.
pub fn correlation(record: &Incoming<'_>) -> Result<RequestId, NotAReply> {
    let id = header(record, CORRELATION_ID).or(record.key).ok_or(NotAReply::Uncorrelated)?;
    RequestId::from_header(id).map_err(|_| NotAReply::Malformed)
}

/// What the record says, with those of its headers that `keep` accepts (it is asked with names in
/// lower case).
pub fn read(record: &Incoming<'_>, keep: impl Fn(&str) -> bool) -> Reply {
    let source = Some((record.partition, record.offset));
    if is_too_large(record) {
        let item = Item { source, ..Item::default() };
        return Reply { status: Some(BAD_GATEWAY), item, ..Reply::default() };
    }
    let mut headers: Vec<(Box<str>, Bytes)> = Vec::new();
    for (name, value) in record.headers {
        if let Some(value) = value
            && !is_ours(name)
        {
            let name = name.to_ascii_lowercase();
            // A reply has one media type: the last header that gives one counts.
            let is_media_type = name == "content-type";
            let is_idle = is_media_type && value.is_empty();
            if is_media_type && !is_idle {
                headers.retain(|(known, _)| **known != name);
            }
            if keep(&name) && !is_idle {
                headers.push((name.into(), Bytes::copy_from_slice(value)));
            }
        }
    }
    let nest_error = header(record, NEST_ERROR);
    let payload = match (record.value, nest_error) {
        (None | Some([]), Some(error)) => error,
        (value, _) => value.unwrap_or_default(),
    };
    let status = STATUSES.iter().find_map(|name| header(record, name)).map(read_status);
    let number = |name| header(record, name).map(read_number);
    let (part, end) = (number(PART), number(END));
    // Nobody can know which part a record is whose number makes no sense.
    let is_malformed = part == Some(None) || end == Some(None);
    let item = match is_malformed {
        true => Item { source, ..Item::default() },
        false => {
            let is_disposed = header(record, NEST_DISPOSED).is_some();
            Item { source, part: part.flatten(), end: end.flatten(), is_disposed }
        }
    };
    let status = if is_malformed { Some(BAD_GATEWAY) } else { status };
    Reply {
        status: status.or_else(|| nest_error.map(|_| BAD_GATEWAY)),
        headers,
        payload: Bytes::copy_from_slice(payload),
        item,
    }
}

/// Whether a reply is larger than any that is handed on. It is answered with 502 in the service's
/// place: it would hold up all other frames of the socket that waits for it, and no peer would read
/// it.
pub fn is_too_large(record: &Incoming<'_>) -> bool {
    let length = |value: Option<&[u8]>| value.map_or(0, <[u8]>::len);
    let headers = record.headers.iter().map(|(name, value)| (name.len(), length(*value)));
    reply_bytes(length(record.value), headers) > REPLY_BYTES_MAX
}

pub(super) fn header<'r>(record: &Incoming<'r>, name: &str) -> Option<&'r [u8]> {
    record.headers.iter().rfind(|(found, _)| *found == name).and_then(|(_, value)| *value)
}

/// Headers that are meant for the gateway, not for the client.
fn is_ours(name: &str) -> bool {
    name.starts_with("kafka_") || name.starts_with("roundtrip-") || STATUSES.contains(&name)
}

/// The number of a part, or of all parts: decimal.
fn read_number(value: &[u8]) -> Option<u32> {
    let is_decimal = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number = str::from_utf8(value).ok().filter(|_| is_decimal)?.parse().ok()?;
    // The number of all parts fits as well.
    (number < u32::MAX).then_some(number)
}

/// A status is decimal, 200 to 599; anything else is a mistake of the service.
fn read_status(value: &[u8]) -> u16 {
    let digits = value.len() == 3 && value.iter().all(u8::is_ascii_digit);
    let status = value.iter().fold(0, |status, digit| {
        if digits { status * 10 + u16::from(digit - b'0') } else { BAD_GATEWAY }
    });
    if (200..600).contains(&status) { status } else { BAD_GATEWAY }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &[u8] = b"01890a5d-ac96-774b-bcce-b302099a8057";

    type Headers<'a> = &'a [(&'a str, Option<&'a [u8]>)];

    fn record<'a>(key: Option<&'a [u8]>, headers: Headers<'a>) -> Incoming<'a> {
        let value = Some(b"{}".as_slice());
        Incoming { partition: 0, offset: 0, key, value, headers, at_ms: None }
    }

    fn status(headers: Headers<'_>) -> Option<u16> {
        read(&record(None, headers), |_| false).status
    }

    #[test]
    fn the_header_comes_before_the_key() {
        let id = RequestId::from_header(ID).unwrap();
        let raw = id.as_uuid().into_bytes();
        assert_eq!(correlation(&record(Some(b"k"), &[(CORRELATION_ID, Some(ID))])), Ok(id));
        assert_eq!(correlation(&record(None, &[(CORRELATION_ID, Some(&raw))])), Ok(id));
        assert_eq!(correlation(&record(Some(ID), &[])), Ok(id));
        assert_eq!(correlation(&record(Some(ID), &[(CORRELATION_ID, None)])), Ok(id));
    }

    #[test]
    fn the_last_of_two_headers_counts() {
        let id = RequestId::from_header(ID).unwrap();
        let headers = [
            (CORRELATION_ID, Some(b"01890a5d-ac96-774b-bcce-b302099a8058".as_slice())),
            ("roundtrip-status", Some(b"500")),
            (CORRELATION_ID, Some(ID)),
            ("roundtrip-status", Some(b"201")),
        ];
        assert_eq!(correlation(&record(None, &headers)), Ok(id));
        assert_eq!(status(&headers), Some(201));
        let taken_back = [(CORRELATION_ID, Some(b"x".as_slice())), (CORRELATION_ID, None)];
        assert_eq!(correlation(&record(Some(ID), &taken_back)), Ok(id));
    }

    #[test]
    fn what_has_no_good_id_is_no_reply() {
        assert_eq!(correlation(&record(None, &[])), Err(NotAReply::Uncorrelated));
        assert_eq!(correlation(&record(Some(b"order-1"), &[])), Err(NotAReply::Malformed));
        let bad = [(CORRELATION_ID, Some(b"x".as_slice()))];
        assert_eq!(correlation(&record(Some(ID), &bad)), Err(NotAReply::Malformed));
    }

    #[test]
    fn statuses_are_decimal_from_200_to_599() {
        assert_eq!(status(&[]), None);
        for (text, expected) in [
            ("200", 200),
            ("599", 599),
            ("422", 422),
            ("199", 502),
            ("600", 502),
            ("", 502),
            ("20", 502),
            ("0200", 502),
            ("+42", 502),
            ("abc", 502),
        ] {
            assert_eq!(status(&[("roundtrip-status", Some(text.as_bytes()))]), Some(expected));
        }
        assert_eq!(status(&[(":status", Some(b"404"))]), Some(404));
        assert_eq!(status(&[("x-status-code", Some(b"418"))]), Some(418));
        let both = [(":status", Some(b"404".as_slice())), ("roundtrip-status", Some(b"201"))];
        assert_eq!(status(&both), Some(201), "our own header counts first");
    }

    #[test]
    fn a_nest_error_speaks_where_there_is_no_value() {
        let headers = [(NEST_ERROR, Some(b"{\"m\":1}".as_slice()))];
        let mut record = record(None, &headers);
        record.value = None;
        let reply = read(&record, |_| true);
        assert_eq!((reply.status, &reply.payload[..]), (Some(502), b"{\"m\":1}".as_slice()));
        assert!(reply.headers.is_empty());
    }

    #[test]
    fn a_reply_that_is_too_large_is_answered_for_its_service() {
        let value = vec![b'1'; REPLY_BYTES_MAX];
        let mut record = record(None, &[]);
        record.value = Some(&value);
        assert_eq!(read(&record, |_| true).payload.len(), REPLY_BYTES_MAX);
        let headers = [("x", Some(b"1".as_slice()))];
        record.headers = &headers;
        let reply = read(&record, |_| true);
        assert_eq!((reply.status, reply.payload.len()), (Some(502), 0));

        // The size of many small headers includes what each of them takes in a message to a peer.
        let many = vec![("x", Some(b"1".as_slice())); REPLY_BYTES_MAX / 4];
        record.value = None;
        record.headers = &many;
        assert_eq!(read(&record, |_| true).status, Some(502));
    }

    #[test]
    fn the_last_media_type_that_says_anything_counts() {
        let headers = [
            ("content-type", Some(b"a/b".as_slice())),
            ("Content-Type", Some(b"c/d")),
            ("content-type", Some(b"")),
        ];
        let reply = read(&record(None, &headers), |_| true);
        assert_eq!(reply.content_type().unwrap(), "c/d");
        assert_eq!(reply.headers.len(), 1);
    }

    #[test]
    fn headers_are_kept_by_name_in_lower_case() {
        let headers = [
            ("Content-Type", Some(b"text/plain".as_slice())),
            ("X-Tenant", Some(b"a")),
            ("x-null", None),
            ("x-other", Some(b"b")),
        ];
        let reply = read(&record(None, &headers), |name| name != "x-other");
        let names: Vec<&str> = reply.headers.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["content-type", "x-tenant"]);
    }
}
