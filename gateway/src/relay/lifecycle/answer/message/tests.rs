use bytes::Bytes;
use uuid::Uuid;

use super::*;
use crate::{
    peer::format::{decode as message, encode as bytes_of, fixture},
    relay::checkpoints::format::{decode, encode},
    wire::ClientId,
};

fn request(number: u128) -> RequestId {
    RequestId::from_uuid(Uuid::from_u128((0x0190_ab12_3456_789a_8bcd_ef01_2345_6780) + number))
}

fn released() -> Answer {
    let id = || ClientId::from_json("7").unwrap();
    let detail = || RequestDetail {
        id: id(),
        digest: 1 << 100,
        service: "orders".into(),
        age_ms: 1_500,
        left_ms: 3_500,
        receipt: false,
        position: Some((3, 77)),
        parts: None,
        last_part: None,
    };
    let payload = Bytes::from_static(b"{}");
    let reply = wire::Reply { payload, ..wire::Reply::default() };
    let response = wire::Frame::Response { id: id(), request: request(1), reply };
    let topic = "orders.requests".into();
    let (partition, offset) = (3, 77);
    let (id_of, of, is_deletable) = (id(), request(2), false);
    let receipt =
        wire::Frame::Receipt { id: id_of, request: of, topic, partition, offset, is_deletable };
    let frames = vec![
        Unparked { seq: 41, request: None, frame: receipt },
        Unparked { seq: 42, request: Some(request(1)), frame: response },
    ];
    let requests = vec![
        (request(1), detail(), Progress::Ended),
        (request(2), detail(), Progress::Recorded),
        (request(3), RequestDetail { position: None, ..detail() }, Progress::Submitted),
    ];
    let snapshot = Snapshot { frames, requests, replies: Vec::new() };
    Answer::Released { seq: 42, confirmed: 40, snapshot }
}

#[test]
fn answers_are_read_as_each_version_wrote_them() {
    let all = [("ended", Answer::Ended), ("later", Answer::Later), ("released", released())];
    for (name, answer) in all {
        let written = encode(&answer);
        fixture::check(name, &Some(answer), &written, decode::<Answer>);
    }
}

#[test]
fn what_is_not_known_is_not_read() {
    assert_eq!(decode::<Answer>(&Bytes::new()), None);
    let spoiled = |spoil: fn(&mut AnswerPart)| {
        let mut answer: AnswerPart = message(&encode(&released())).unwrap();
        spoil(&mut answer);
        decode::<Answer>(&bytes_of(&answer))
    };
    assert_eq!(spoiled(|_| {}), Some(released()));
    let spoils: [fn(&mut AnswerPart); 4] = [
        |answer| answer.kind = 9,
        |answer| answer.released = None,
        |answer| answer.released.as_mut().unwrap().requests[0].progress = 9,
        |answer| answer.released.as_mut().unwrap().frames[0].frame = Some(Frame::default()),
    ];
    for spoil in spoils {
        assert_eq!(spoiled(spoil), None);
    }
}
