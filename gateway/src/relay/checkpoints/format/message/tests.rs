use bytes::Bytes;
use proptest::prelude::{any, proptest};
use registry::RequestId;
use uuid::Uuid;

use super::*;
use crate::{
    peer::format::{decode as message, encode as bytes_of, fixture},
    relay::checkpoints::format::{decode, encode},
};

const REQUEST: RequestId =
    RequestId::from_uuid(Uuid::from_u128(0x0190_ab12_3456_789a_8bcd_ef01_2345_6789));

fn id() -> ClientId {
    ClientId::from_json(r#""é \" 1""#).unwrap()
}

fn reply() -> wire::Reply {
    let headers = vec![("x-tenant".into(), Bytes::from_static(b"a"))];
    wire::Reply {
        status: Some(503),
        headers,
        payload: Bytes::from_static(b"no\xff"),
        ..wire::Reply::default()
    }
}

fn detail() -> RequestDetail {
    RequestDetail {
        id: id(),
        digest: u128::MAX - 1,
        service: "orders".into(),
        age_ms: 1_500,
        left_ms: 3_500,
        receipt: true,
        position: Some((3, 1 << 40)),
        parts: None,
        last_part: None,
    }
}

fn error(code: ErrorCode, id: Option<ClientId>) -> wire::Frame {
    let retry_after = Some(Duration::from_millis(250));
    let failure = Failure { code, message: "wait a little".into(), recorded: true, retry_after };
    wire::Frame::Error { id, request: Some(REQUEST), failure, reply: Some(reply()) }
}

#[test]
fn requests_and_frames_are_read_as_each_version_wrote_them() {
    let check = |name: &str, frame: wire::Frame| {
        fixture::check(name, &Some(frame.clone()), &encode(&frame), decode::<wire::Frame>);
    };
    fixture::check("request", &Some(detail()), &encode(&detail()), decode::<RequestDetail>);
    let (partition, offset) = (3, 1 << 40);
    let topic = "orders.requests".into();
    let (id_of, request, is_deletable) = (id(), REQUEST, false);
    let receipt =
        wire::Frame::Receipt { id: id_of, request, topic, partition, offset, is_deletable };
    check("receipt", receipt);
    check("response", wire::Frame::Response { id: id(), request: REQUEST, reply: reply() });
    let item = wire::Item { part: Some(7), source: Some((3, 77)), ..wire::Item::default() };
    let reply_of = || wire::Reply { item, ..reply() };
    let part = wire::Frame::Part { id: id(), request: REQUEST, reply: reply_of() };
    let read = decode::<wire::Frame>;
    fixture::check_since("v2", "part", &Some(part.clone()), &encode(&part), read);
    let letter = Letter::Reply(REQUEST, reply_of());
    fixture::check_since(
        "v2",
        "reply",
        &Some(letter),
        &encode(&Letter::Reply(REQUEST, reply_of())),
        decode,
    );
    let begun = RequestDetail { parts: Some(8), last_part: Some((3, 77)), ..detail() };
    fixture::check_since("v2", "request-with-parts", &Some(begun.clone()), &encode(&begun), decode);
    check("error", error(ErrorCode::Overloaded, Some(id())));
}

#[test]
fn every_frame_and_code_is_read_as_it_was_written() {
    for code in ErrorCode::ALL {
        let frame = error(code, None);
        assert_eq!(decode(&encode(&frame)), Some(frame));
    }
    let request = None;
    let failure = Failure::new(ErrorCode::BadRequest, "");
    let frames = [
        wire::Frame::Error { id: None, request, failure, reply: None },
        wire::Frame::Pong { id: None },
        wire::Frame::Pong { id: Some(id()) },
        wire::Frame::Receipt {
            id: id(),
            request: REQUEST,
            topic: "orders.requests".into(),
            partition: 0,
            offset: 0,
            is_deletable: true,
        },
    ];
    for frame in frames {
        assert_eq!(decode(&encode(&frame)), Some(frame));
    }
    let bare = RequestDetail { position: None, digest: 0, receipt: false, ..detail() };
    assert_eq!(decode(&encode(&bare)), Some(bare));
}

#[test]
fn a_frame_of_a_kind_that_is_not_known_is_not_read() {
    // Field 5, the next kind.
    assert_eq!(decode::<wire::Frame>(&Bytes::from_static(&[0x2a, 0])), None);
    assert_eq!(decode::<wire::Frame>(&Bytes::new()), None);
}

#[test]
fn a_code_that_is_not_known_is_as_good_as_none() {
    let written = encode(&error(ErrorCode::Timeout, Some(id())));
    let mut frame: Frame = message(&written).unwrap();
    let Some(Kind::Error(later)) = &mut frame.kind else { panic!("{frame:?}") };
    later.code = "teapot".to_owned();
    assert_eq!(decode(&bytes_of(&frame)), Some(error(ErrorCode::Internal, Some(id()))));
}

#[test]
fn what_lacks_an_id_is_not_read() {
    let mut request: Detail = message(&encode(&detail())).unwrap();
    request.id = "what".to_owned();
    assert_eq!(decode::<RequestDetail>(&bytes_of(&request)), None);
    assert_eq!(decode::<RequestDetail>(&Bytes::new()), None);
}

proptest! {
    #[test]
    fn no_bytes_break_the_reader(bytes in any::<Vec<u8>>()) {
        let bytes = Bytes::from(bytes);
        let _: Option<RequestDetail> = decode(&bytes);
        let _: Option<wire::Frame> = decode(&bytes);
    }
}
