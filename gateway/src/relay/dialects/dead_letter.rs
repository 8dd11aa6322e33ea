//! Reads a record of a dead-letter topic: which request could not be handled, and why.
//!
//! The headers are those of Spring Kafka's `DeadLetterPublishingRecoverer`, which copies the headers
//! of the request, its correlation id among them.

use bytes::Bytes;
use registry::RequestId;

use super::{
    CORRELATION_ID,
    reply::{NotAReply, header},
};
use crate::{bus::Incoming, wire::Reply};

/// The headers that may say what has happened; the first one that is there counts.
const MESSAGES: [&str; 2] = ["kafka_dlt-exception-message", "kafka_exception-message"];
/// An exception may quote a whole request. Nobody reads more of it than this.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;
const BAD_GATEWAY: u16 = 502;

/// The request that could not be handled, and the reply in place of the service's.
///
/// # Errors
/// [`NotAReply`] if the record has no correlation header, or not one of ours. Its key is not looked
/// at: it is the request's, which is the client's own.
pub fn read(record: &Incoming<'_>) -> Result<(RequestId, Reply), NotAReply> {
    let id = header(record, CORRELATION_ID).ok_or(NotAReply::Uncorrelated)?;
    let request = RequestId::from_header(id).map_err(|_| NotAReply::Malformed)?;
    let message = MESSAGES.iter().find_map(|name| header(record, name)).unwrap_or_default();
    let message = cut(&String::from_utf8_lossy(message)).to_owned();
    let media_type = ("content-type".into(), Bytes::from_static(b"text/plain; charset=utf-8"));
    let headers = if message.is_empty() { Vec::new() } else { vec![media_type] };
    let payload = Bytes::from(message);
    Ok((request, Reply { status: Some(BAD_GATEWAY), headers, payload, ..Reply::default() }))
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MESSAGE_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &[u8] = b"01890a5d-ac96-774b-bcce-b302099a8057";

    fn letter(key: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]) -> Result<Reply, NotAReply> {
        let value = Some(b"{}".as_slice());
        let record = Incoming { partition: 0, offset: 0, key, value, headers, at_ms: None };
        read(&record).map(|(request, reply)| {
            assert_eq!(request, RequestId::from_header(ID).unwrap());
            reply
        })
    }

    #[test]
    fn the_exceptions_message_is_the_reply() {
        let raw = RequestId::from_header(ID).unwrap().as_uuid().into_bytes();
        for id in [ID, &raw] {
            let headers = [
                (CORRELATION_ID, Some(id)),
                ("kafka_exception-message", Some(b"wrapped".as_slice())),
                ("kafka_dlt-exception-message", Some(b"no such order")),
            ];
            let reply = letter(None, &headers).unwrap();
            assert_eq!(
                (reply.status, &reply.payload[..]),
                (Some(502), b"no such order".as_slice())
            );
            assert_eq!(reply.content_type().unwrap(), "text/plain; charset=utf-8");
            assert_eq!(letter(None, &headers[..2]).unwrap().payload, "wrapped");
            let bare = letter(None, &headers[..1]).unwrap();
            assert_eq!((bare.status, bare.payload.len(), bare.headers.len()), (Some(502), 0, 0));
        }
    }

    #[test]
    fn without_a_correlation_header_it_is_nobodys() {
        assert_eq!(letter(Some(ID), &[]), Err(NotAReply::Uncorrelated));
        let bad = [(CORRELATION_ID, Some(b"x".as_slice()))];
        assert_eq!(letter(Some(ID), &bad), Err(NotAReply::Malformed));
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let long = format!("x{}", "é".repeat(MESSAGE_BYTES_MAX));
        let headers =
            [(CORRELATION_ID, Some(ID)), ("kafka_exception-message", Some(long.as_bytes()))];
        let reply = letter(None, &headers).unwrap();
        assert_eq!(reply.payload.len(), MESSAGE_BYTES_MAX - 1);
        assert!(std::str::from_utf8(&reply.payload).is_ok());
    }
}
