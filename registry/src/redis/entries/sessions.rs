//! The texts of a session as Redis holds them: the fields of its record, its requests, the frames
//! of its mailbox. The file `lua/record.lua` lists them.
//!
//! Details and frames are at the end of their entries, as the bytes they are: what a later version
//! wants to say of one is said in there, and of a session in a field of its own. Where a text may
//! become longer, what is behind the known words is passed over.

use std::{ops::RangeInclusive, time::Duration};

use bytes::Bytes;

use crate::{
    ids::{NodeId, NodeRef, RequestId},
    redis::entries::write_number,
    tables::{
        Generation,
        sessions::{HeldRequest, ParkedFrame, Progress, SessionEntry, Written},
    },
};

/// Stands for a request's id if there is none.
pub(in crate::redis) const NO_REQUEST: &str = "-";

/// Stands for a session's owner if there is none.
const NO_OWNER: &str = "-";

/// How the owner of a session is written.
pub(in crate::redis) fn write_owner(node: Option<&NodeRef>) -> Vec<u8> {
    let text = match node {
        Some(node) => format!("{} {}", node.incarnation, node.id).into_bytes(),
        None => NO_OWNER.into(),
    };
    #[cfg(feature = "later")]
    let text = crate::later::written("owner", text);
    text
}

/// Reads an owner; none of what was said where that is not what is written.
pub(in crate::redis) fn read_owner(bytes: &[u8]) -> Option<Option<NodeRef>> {
    if bytes == NO_OWNER.as_bytes() {
        return Some(None);
    }
    let mut words = std::str::from_utf8(bytes).ok()?.split(' ');
    let (incarnation, id) = (words.next()?, words.next()?);
    Some(Some(NodeRef { id: NodeId::parse(id).ok()?, incarnation: incarnation.parse().ok()? }))
}

/// How the user of a session is written: an anonymous one is not the same as a user without a name.
pub(in crate::redis) fn write_user(user: Option<&str>) -> String {
    user.map_or_else(String::new, |name| format!("={name}"))
}

fn read_user(bytes: &[u8]) -> Option<Option<Box<str>>> {
    match std::str::from_utf8(bytes).ok()? {
        "" => Some(None),
        text => Some(Some(text.strip_prefix('=')?.into())),
    }
}

/// How the flags of a session are written.
pub(in crate::redis) fn write_flags(reliable: bool, attached: bool) -> [u8; 2] {
    [reliable, attached].map(|flag| b'0' + u8::from(flag))
}

fn read_flags(bytes: &[u8]) -> Option<[bool; 2]> {
    let read = |byte: u8| (b'0'..=b'1').contains(&byte).then_some(byte == b'1');
    match bytes {
        [reliable, attached, ..] => Some([read(*reliable)?, read(*attached)?]),
        _ => None,
    }
}

/// How the generation of a checkpoint is written.
pub(in crate::redis) fn write_generation(generation: Option<Generation>) -> String {
    generation.map_or_else(String::new, |Generation(number)| write_number(number))
}

/// Reads a generation; none when it is not known.
pub(in crate::redis) fn read_generation(bytes: &[u8]) -> Option<Generation> {
    read_number(bytes).map(Generation)
}

/// Reads 20 digits; none when there are more or fewer, or something else.
pub(in crate::redis) fn read_number(bytes: &[u8]) -> Option<u64> {
    let digits = bytes.len() == 20 && bytes.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(bytes).ok().filter(|_| digits)?.parse().ok()
}

/// Reads a session's entry out of the fields of its record; none when it is not what is written
/// there.
pub(in crate::redis) fn read_entry(
    epoch: &[u8],
    flags: &[u8],
    owner: &[u8],
    user: &[u8],
    overflowed: bool,
) -> Option<SessionEntry> {
    let [reliable, attached] = read_flags(flags)?;
    Some(SessionEntry {
        epoch: read_number(epoch)?,
        node: read_owner(owner)?,
        user: read_user(user)?,
        reliable,
        attached,
        overflowed,
        generation: None,
    })
}

/// Reads what `claim.lua` says of the record before: `<epoch> <flags> <owner>`.
pub(in crate::redis) fn read_former(
    bytes: &[u8],
    user: &[u8],
    overflowed: bool,
) -> Option<SessionEntry> {
    let mut words = bytes.splitn(3, |byte| *byte == b' ');
    let (epoch, flags, owner) = (words.next()?, words.next()?, words.next()?);
    read_entry(epoch, flags, owner, user, overflowed)
}

/// Reads who wrote a session last: `<epoch> <owner>`. Where that is not said, or is older than what
/// is said of the session `former`ly, it is who is named there.
pub(in crate::redis) fn read_written(bytes: &[u8], former: &SessionEntry) -> Written {
    let read = || {
        let mut words = bytes.splitn(2, |byte| *byte == b' ');
        let (epoch, node) = (read_number(words.next()?)?, read_owner(words.next()?)?);
        // A version that does not say so orphans by itself.
        let is_possible = epoch == former.epoch || epoch < former.epoch && former.node.is_some();
        is_possible.then_some(Written { epoch, node })
    };
    read().unwrap_or_else(|| Written { epoch: former.epoch, node: former.node.clone() })
}

/// How many digits a time in an entry has.
const MILLIS_DIGITS: usize = 16;

/// Writes a request over what is in the buffer. `checkpoint.lua` puts the time behind the first
/// byte.
pub(in crate::redis) fn write_request(progress: Progress, detail: &[u8], buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.push(match progress {
        Progress::Submitted => b's',
        Progress::Recorded => b'r',
        Progress::Ended => b'e',
    });
    buffer.extend_from_slice(detail);
}

/// Reads a time of the server's clock, in milliseconds.
pub(in crate::redis) fn read_millis(bytes: &[u8]) -> Option<u64> {
    let digits = bytes.len() == MILLIS_DIGITS && bytes.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(bytes).ok().filter(|_| digits)?.parse().ok()
}

/// Reads a request at that time of the server's clock; none when it is not what `checkpoint.lua`
/// writes.
pub(in crate::redis) fn read_request(
    id: &[u8],
    value: Vec<u8>,
    now_ms: u64,
) -> Option<HeldRequest> {
    let progress = match value.first()? {
        b's' => Progress::Submitted,
        b'r' => Progress::Recorded,
        b'e' => Progress::Ended,
        _ => return None,
    };
    let written_ms = read_millis(value.get(1..=MILLIS_DIGITS)?)?;
    let age = Duration::from_millis(now_ms.saturating_sub(written_ms));
    let request = RequestId::from_header(id).ok()?;
    let detail = Bytes::from(value).slice(1 + MILLIS_DIGITS..);
    Some(HeldRequest { request, progress, detail, age })
}

/// Reads a frame and its place in the order of parking; none when it is not what `checkpoint.lua`
/// writes: `<number> <index> <request or -> <frame>`.
pub(in crate::redis) fn read_parked(member: Vec<u8>) -> Option<(u64, ParkedFrame)> {
    const DIGITS: RangeInclusive<usize> = 16..=20;
    let mut words = member.splitn(4, |byte| *byte == b' ');
    let seq = read_number(words.next()?)?;
    let index = words.next().filter(|index| DIGITS.contains(&index.len()))?;
    let index = std::str::from_utf8(index).ok()?.parse().ok()?;
    let request = match words.next()? {
        b"-" => None,
        id => Some(RequestId::from_header(id).ok()?),
    };
    let start = member.len() - words.next()?.len();
    Some((index, ParkedFrame { seq, request, frame: Bytes::from(member).slice(start..) }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::redis::entries::write_number;

    fn owners() -> impl Strategy<Value = NodeRef> {
        let id = "[A-Za-z0-9._-]{1,64}".prop_map(|id| NodeId::parse(&id).unwrap());
        (id, any::<u64>()).prop_map(|(id, incarnation)| NodeRef { id, incarnation })
    }

    fn requests() -> impl Strategy<Value = RequestId> {
        any::<u128>().prop_map(|bits| RequestId::from_uuid(Uuid::from_u128(bits)))
    }

    #[test]
    fn who_wrote_last_is_who_is_named_unless_that_is_said() {
        let node = |id: &str| Some(NodeRef { id: NodeId::parse(id).unwrap(), incarnation: 7 });
        let former = |epoch, node| SessionEntry {
            epoch,
            node,
            user: None,
            reliable: true,
            attached: true,
            overflowed: false,
            generation: None,
        };
        let said = |epoch, id: &str| format!("{} {id}", write_number(epoch));
        for (text, named, expected) in [
            (String::new(), former(5, node("gw-1")), (5, node("gw-1"))),
            ("what".to_owned(), former(5, node("gw-1")), (5, node("gw-1"))),
            (said(5, "7 gw-1"), former(5, node("gw-1")), (5, node("gw-1"))),
            (said(3, "7 gw-2 zone=a"), former(5, node("gw-1")), (3, node("gw-2"))),
            (said(4, "-"), former(5, node("gw-1")), (4, None)),
            (said(5, "-"), former(5, None), (5, None)),
            // Orphaned by who does not say so.
            (said(4, "7 gw-2"), former(5, None), (5, None)),
            (said(6, "7 gw-2"), former(5, node("gw-1")), (5, node("gw-1"))),
        ] {
            let (epoch, node) = expected;
            let written = read_written(text.as_bytes(), &named);
            assert_eq!(written, Written { epoch, node }, "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_entry_is_read_as_it_was_written(
            epoch: u64,
            node in prop::option::of(owners()),
            user: Option<Box<str>>,
            [reliable, attached, overflowed]: [bool; 3],
        ) {
            let (number, owner) = (write_number(epoch), write_owner(node.as_ref()));
            let (flags, user_bytes) = (write_flags(reliable, attached), write_user(user.as_deref()));
            let flags_text = std::str::from_utf8(&flags).unwrap();
            let owner_text = std::str::from_utf8(&owner).unwrap();
            let packed = format!("{number} {flags_text} {owner_text}");
            let generation = None;
            let expected =
                SessionEntry { epoch, node, user, reliable, attached, overflowed, generation };
            let of_fields = read_entry(
                number.as_bytes(), &flags, &owner, user_bytes.as_bytes(), overflowed,
            );
            prop_assert_eq!(of_fields.as_ref(), Some(&expected));
            let former = read_former(packed.as_bytes(), user_bytes.as_bytes(), overflowed);
            prop_assert_eq!(former, Some(expected));
        }

        #[test]
        fn a_request_is_read_as_it_was_written(
            request in requests(),
            progress in prop::sample::select(
                vec![Progress::Submitted, Progress::Recorded, Progress::Ended],
            ),
            detail: Vec<u8>,
        ) {
            let mut buffer = b"left over".to_vec();
            write_request(progress, &detail, &mut buffer);
            let stamped = [&buffer[..1], b"0000000000001000", &buffer[1..]].concat();
            let read = read_request(request.encode(&mut [0; 36]).as_bytes(), stamped, 3000);
            let age = Duration::from_secs(2);
            let expected = HeldRequest { request, progress, detail: detail.into(), age };
            prop_assert_eq!(read, Some(expected));
        }

        #[test]
        fn a_frame_is_read_as_the_script_writes_it(
            seq: u64,
            index in 0..=1_u64 << 53,
            request in prop::option::of(requests()),
            frame: Vec<u8>,
        ) {
            let id = request.map_or_else(|| NO_REQUEST.to_owned(), |request| request.to_string());
            let mut member = format!("{} {index:016} {id} ", write_number(seq)).into_bytes();
            member.extend_from_slice(&frame);
            let expected = ParkedFrame { seq, request, frame: frame.into() };
            prop_assert_eq!(read_parked(member), Some((index, expected)));
        }

        #[test]
        fn no_bytes_are_too_strange_to_be_read(bytes: Vec<u8>) {
            let _: Option<SessionEntry> = read_former(&bytes, &bytes, false);
            let _: Option<HeldRequest> = read_request(&bytes, bytes.clone(), 0);
            let _: Option<(u64, ParkedFrame)> = read_parked(bytes);
        }
    }

    #[test]
    fn what_is_behind_the_known_words_is_passed_over() {
        let entry = |flags: &[u8], owner: &[u8]| {
            read_entry(b"00000000000000000001", flags, owner, b"", false)
        };
        let known = entry(b"10", b"7 gw-1");
        assert!(known.is_some());
        assert_eq!(entry(b"101x", b"7 gw-1 zone=a \xc3\xa9"), known);
        let former = read_former(b"00000000000000000001 101x 7 gw-1 zone=a", b"", false);
        assert_eq!(former, known);
    }

    #[test]
    fn what_is_not_an_entry_is_none() {
        let one = b"00000000000000000001";
        assert!(read_entry(one, b"10", b"7 gw-1", b"", false).is_some());
        let bad: [[&[u8]; 4]; 9] = [
            [b"1", b"10", b"7 gw-1", b""],
            [b"+0000000000000000001", b"10", b"7 gw-1", b""],
            [b"99999999999999999999", b"10", b"7 gw-1", b""],
            [one, b"2x", b"7 gw-1", b""],
            [one, b"1", b"7 gw-1", b""],
            [one, b"10", b"gw-1", b""],
            [one, b"10", b"7 gw|1", b""],
            [one, b"10", b"7 gw-1", b"name"],
            [one, b"10", b"7 gw-1", b"=\xff"],
        ];
        for [epoch, flags, owner, user] in bad {
            assert_eq!(read_entry(epoch, flags, owner, user, false), None, "{flags:?} {user:?}");
        }
    }
}
