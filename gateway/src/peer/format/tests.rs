use proptest::prelude::{any, prop_assert, prop_assert_eq, prop_compose, proptest};
use registry::RequestId;
use uuid::Uuid;

use super::*;
use crate::peer::{AROUND_REPLY_BYTES, BATCH_BYTES_MAX, REPLY_BYTES_MAX};

const REQUEST: RequestId =
    RequestId::from_uuid(Uuid::from_u128(0x0190_ab12_3456_789a_8bcd_ef01_2345_6789));
const SESSION: SessionId = SessionId::from_bytes([0x9f; 16]);

fn delivery(reply: wire::Reply, session: Option<SessionId>, held_us: u64) -> Delivery {
    Delivery { request: RequestId::from_uuid(Uuid::from_u128(u128::MAX)), session, held_us, reply }
}

const LARGEST: wire::Item = wire::Item {
    source: Some((-1, -1)),
    part: Some(u32::MAX),
    end: Some(u32::MAX),
    is_disposed: true,
};

prop_compose! {
    fn items()(
        source in any::<Option<(i32, i64)>>(),
        part in any::<Option<u32>>(),
        end in any::<Option<u32>>(),
        is_disposed in any::<bool>(),
    ) -> wire::Item {
        wire::Item { source, part, end, is_disposed }
    }
}

proptest! {
    #[test]
    fn a_batch_is_read_as_it_was_written_and_counted(
        payload in any::<Vec<u8>>(),
        status in any::<Option<u16>>(),
        headers in any::<Vec<(String, Vec<u8>)>>(),
        id in any::<u128>(),
        held_us in any::<u64>(),
        item in items(),
    ) {
        let headers = headers.into_iter().map(|(n, v)| (n.into(), Bytes::from(v))).collect();
        let reply = wire::Reply { status, headers, payload: payload.into(), item };
        let bytes = delivery_bytes(&reply);
        let session = status.map(|_| SessionId::from_bytes(id.to_be_bytes()));
        let batch = vec![delivery(reply, session, held_us); 3];
        let written = write_deliveries(&batch);
        prop_assert!(written.len() <= 3 * bytes);
        let asked = Asked { deliveries: batch.clone(), ..Asked::default() };
        prop_assert_eq!(read_call(&written), Ok(asked));
        let reply = wire::Reply { item: LARGEST, ..batch[0].reply.clone() };
        let largest = delivery(reply, Some(SessionId::from_bytes([7; 16])), u64::MAX);
        prop_assert_eq!(write_deliveries(&[largest]).len(), bytes, "the most that it can be");
    }

    #[test]
    fn no_bytes_break_the_reader(bytes in any::<Vec<u8>>()) {
        let bytes = Bytes::from(bytes);
        drop(read_call(&bytes));
        drop(read_verdicts(&bytes, 3));
        drop(read_release(&bytes));
    }
}

#[test]
fn every_verdict_is_read_as_it_was_written() {
    let session = SessionId::random();
    let all = [
        Verdict::Delivered,
        Verdict::Kept(session),
        Verdict::Later,
        Verdict::Over,
        Verdict::Unknown,
        Verdict::Unread,
    ];
    assert_eq!(read_verdicts(&write_verdicts(all), all.len()), Ok(all.to_vec()));
}

#[test]
fn a_verdict_that_is_missing_or_not_known_is_not_read() {
    let later = VerdictPart { kind: 77, session: Some(Id::from(7)) };
    // Nobody is named who keeps it.
    let kept = VerdictPart { kind: VerdictKind::Kept.into(), session: None };
    let answer = Answer { verdicts: vec![later, kept], trouble: String::new() };
    assert_eq!(read_verdicts(&encode(&answer), 3), Ok(vec![Verdict::Unread; 3]));
    assert_eq!(read_verdicts(&Bytes::new(), 1), Ok(vec![Verdict::Unread]));
    let many = write_verdicts([Verdict::Over; 5]);
    assert_eq!(read_verdicts(&many, 2), Ok(vec![Verdict::Over; 2]));
}

#[test]
fn what_is_wrong_with_a_call_is_told() {
    let answer = write_trouble("no call".to_owned());
    assert_eq!(read_verdicts(&answer, 2), Err("no call".to_owned()));
}

#[test]
fn small_payloads_keep_nothing_of_their_batch() {
    let reply =
        |bytes: usize| wire::Reply { payload: vec![b'1'; bytes].into(), ..wire::Reply::default() };
    let batch = [reply(300), reply(BATCH_BYTES_MAX / 2)];
    let written = write_deliveries(&batch.map(|reply| delivery(reply, None, 0)));
    let within = written.as_ptr_range();
    let asked = read_call(&written).unwrap();
    let shared = asked.deliveries.iter().map(|d| within.contains(&d.reply.payload.as_ptr()));
    assert_eq!(shared.collect::<Vec<_>>(), [false, true]);
}

#[test]
fn the_largest_reply_fits_a_call() {
    let one = |name: usize, value: usize| {
        let headers = vec![("n".repeat(name).into(), vec![b'v'; value].into())];
        wire::Reply { status: Some(599), headers, item: LARGEST, ..wire::Reply::default() }
    };
    let largest = [
        one(1, REPLY_BYTES_MAX - 32),
        wire::Reply { payload: vec![0; REPLY_BYTES_MAX].into(), ..wire::Reply::default() },
    ];
    for reply in largest {
        let headers = reply.headers.iter().map(|(name, value)| (name.len(), value.len()));
        assert!(reply_bytes(reply.payload.len(), headers) <= REPLY_BYTES_MAX);
        let bytes = delivery_bytes(&reply);
        assert!(bytes <= REPLY_BYTES_MAX + AROUND_REPLY_BYTES, "{bytes}");
    }
}

#[test]
fn all_messages_are_read_as_each_version_wrote_them() {
    let headers = vec![
        ("content-type".into(), Bytes::from_static(b"text/plain")),
        ("x-\u{e9}".into(), Bytes::from_static(b"\0\xff")),
    ];
    let (payload, item) = (Bytes::from_static(b"\0{}\xff"), wire::Item::default());
    let full = wire::Reply { status: Some(599), headers, payload, item };
    let deliveries = vec![
        Delivery { request: REQUEST, session: Some(SESSION), held_us: 1_234_567, reply: full },
        Delivery { request: REQUEST, session: None, held_us: 0, reply: wire::Reply::default() },
    ];
    let written = write_deliveries(&deliveries);
    let asked = Asked { deliveries, settlements: Vec::new() };
    fixture::check("deliveries", &Ok(asked), &written, read_call);

    let settlements = vec![Unsettled { request: REQUEST, session: SESSION, item }; 2];
    let written = write_settlements(&settlements);
    let asked = Asked { deliveries: Vec::new(), settlements };
    fixture::check("settlements", &Ok(asked), &written, read_call);

    let verdicts = vec![
        Verdict::Delivered,
        Verdict::Kept(SESSION),
        Verdict::Later,
        Verdict::Over,
        Verdict::Unknown,
    ];
    let written = write_verdicts(verdicts.clone());
    fixture::check("verdicts", &Ok(verdicts), &written, |bytes| read_verdicts(bytes, 5));
    let trouble = "it is no call".to_owned();
    let written = write_trouble(trouble.clone());
    fixture::check("trouble", &Err(trouble), &written, |bytes| read_verdicts(bytes, 1));
    let item =
        wire::Item { source: Some((3, 1 << 40)), part: Some(0), end: Some(1), is_disposed: true };
    let reply = wire::Reply { item, ..wire::Reply::default() };
    let deliveries = vec![Delivery { request: REQUEST, session: None, held_us: 0, reply }];
    let written = write_deliveries(&deliveries);
    let asked = Asked { deliveries, settlements: Vec::new() };
    fixture::check_since("v2", "parts", &Ok(asked), &written, read_call);
    let settlements = vec![Unsettled { request: REQUEST, session: SESSION, item }];
    let written = write_settlements(&settlements);
    let asked = Asked { deliveries: Vec::new(), settlements };
    fixture::check_since("v2", "settlements-of-parts", &Ok(asked), &written, read_call);

    fixture::check("release", &Ok(6..7), &write_release(&(6..7)), read_release);
    fixture::check("release-since", &Ok(3..7), &write_release(&(3..7)), read_release);
}
