//! Streams by themselves: parts in any order, some twice, some never.

use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, proptest};

use super::*;

fn record(item: Item, payload: &[u8]) -> Early {
    let payload = bytes::Bytes::copy_from_slice(payload);
    Early { reply: Reply { payload, item, ..Reply::default() }, ..Early::default() }
}

fn part(index: u32, offset: i64) -> Early {
    let item = Item { part: Some(index), source: Some((0, offset)), ..Item::default() };
    record(item, &index.to_be_bytes())
}

fn end(count: u32) -> Early {
    record(Item { end: Some(count), source: Some((0, 1 << 40)), ..Item::default() }, b"")
}

/// Nest's: without a number.
fn bare(offset: i64, is_disposed: bool) -> Early {
    let item = Item { source: Some((0, offset)), is_disposed, ..Item::default() };
    record(item, &offset.to_be_bytes())
}

fn stream() -> Stream {
    Stream::new(0, None, GAP_PATIENCE, 1 << 20)
}

fn of(early: &Early, stream: &Stream, dialect: Dialect) -> Role {
    Role::of(&early.reply, dialect, Some(stream.parts()))
}

/// Takes a record as its request would; the parts that can be handed on then, and whether it is over.
fn take(stream: &mut Stream, early: Early, dialect: Dialect) -> (Vec<u32>, bool) {
    let role = of(&early, stream, dialect);
    if !stream.has_seen(role, &early.reply.item) {
        stream.take(role, early, Instant::now()).unwrap();
    }
    let next = || stream.next(Instant::now()).map(|early| early.reply.item.part.unwrap());
    (std::iter::from_fn(next).collect(), stream.take_end().is_some())
}

proptest! {
    #[test]
    fn whatever_the_order_each_part_is_handed_on_once_and_in_order(
        records in (0_u32..40).prop_flat_map(|count| {
            let all: Vec<u32> = (0..=count).chain((0..=count).filter(|n| n % 3 == 0)).collect();
            (Just(count), Just(all).prop_shuffle())
        }),
    ) {
        let (count, records) = records;
        let (mut stream, mut seen, mut is_over) = (stream(), Vec::new(), false);
        for (at, index) in records.into_iter().enumerate() {
            let early = if index == count { end(count) } else { part(index, at as i64) };
            let (parts, ends) = take(&mut stream, early, Dialect::Plain);
            seen.extend(parts);
            prop_assert!(!(is_over && ends), "it ends once");
            is_over |= ends;
            if is_over {
                break;
            }
        }
        prop_assert!(is_over && stream.gives_up_at().is_none() || count == 0);
        prop_assert_eq!(seen, (0..count).collect::<Vec<_>>());
    }

    #[test]
    fn what_has_no_number_is_numbered_as_it_comes_and_known_again(
        again in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20),
        count in 1_i64..30,
    ) {
        let mut stream = stream();
        for offset in 0..count {
            let (parts, is_over) = take(&mut stream, bare(offset, offset + 1 == count), Dialect::Nest);
            prop_assert_eq!(parts, [offset as u32]);
            prop_assert_eq!(is_over, offset + 1 == count);
            for index in &again {
                let early = bare(index.index(offset as usize + 1) as i64, false);
                let role = of(&early, &stream, Dialect::Nest);
                prop_assert!(stream.has_seen(role, &early.reply.item));
            }
        }
    }
}

#[test]
fn a_record_means_what_its_marks_and_its_dialect_say() {
    let role = |item: Item, payload: &[u8], dialect, parts| {
        Role::of(&record(item, payload).reply, dialect, parts)
    };
    let (plain, nest) = (Dialect::Plain, Dialect::Nest);
    let none = Item::default();
    let part = Item { part: Some(4), ..none };
    let end = Item { end: Some(5), ..none };
    let disposed = Item { is_disposed: true, ..none };
    assert_eq!(role(none, b"1", plain, None), Role::Whole);
    assert_eq!(role(none, b"1", plain, Some(2)), Role::Close);
    assert_eq!(role(none, b"1", nest, None), Role::NextPart);
    assert_eq!(role(disposed, b"1", nest, None), Role::Whole);
    assert_eq!(role(disposed, b"1", nest, Some(2)), Role::LastPart);
    assert_eq!(role(disposed, b"", nest, Some(2)), Role::Close);
    assert_eq!(role(disposed, b"", plain, Some(2)), Role::Close);
    assert_eq!(role(part, b"1", plain, None), Role::Part(4));
    assert_eq!(role(end, b"1", plain, None), Role::End(5));
    assert_eq!(role(Item { end: Some(5), ..part }, b"1", plain, None), Role::PartAndEnd(4, 5));
    assert_eq!(role(Item { end: Some(0), ..none }, b"1", plain, None), Role::Whole);
    let mut failed = record(part, b"1").reply;
    failed.status = Some(500);
    assert_eq!(Role::of(&failed, plain, Some(4)), Role::Close);
    assert_eq!(Role::of(&failed, plain, None), Role::Whole);
}

#[test]
fn a_part_that_never_comes_is_named() {
    let mut stream = stream();
    assert_eq!(take(&mut stream, part(0, 0), Dialect::Plain).0, [0]);
    assert_eq!((stream.gives_up_at(), stream.missing()), (None, None));
    assert!(take(&mut stream, part(3, 3), Dialect::Plain).0.is_empty());
    assert!(stream.gives_up_at().is_some());
    let missing = stream.missing().unwrap();
    assert_eq!(missing.code, ErrorCode::ServiceError);
    assert!(missing.message.contains("part 1 is missing; part 3 has come"), "{missing:?}");
    assert_eq!(take(&mut stream, part(1, 1), Dialect::Plain).0, [1]);
    assert_eq!(take(&mut stream, part(2, 2), Dialect::Plain).0, [2, 3]);
    assert_eq!((stream.gives_up_at(), stream.missing()), (None, None));
    assert_eq!(take(&mut stream, end(5), Dialect::Plain), (Vec::new(), false));
    assert!(stream.missing().unwrap().message.contains("part 4 is missing; there are 5"));
}

#[test]
fn what_contradicts_itself_is_broken() {
    let broken = |records: Vec<Early>| {
        let mut stream = stream();
        let now = Instant::now();
        records.into_iter().find_map(|early| {
            let role = of(&early, &stream, Dialect::Plain);
            stream.take(role, early, now).err()
        })
    };
    for records in [
        vec![part(0, 0), part(1, 1), end(1)],
        vec![end(1), part(1, 1)],
        vec![end(3), end(4)],
        (1..=4097).map(|index| part(index, index.into())).collect(),
    ] {
        let count = records.len();
        assert_eq!(
            broken(records).map(|failure| failure.code),
            Some(ErrorCode::ServiceError),
            "{count}"
        );
    }
}
