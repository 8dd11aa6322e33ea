//! Messages of which a single one can be deleted: on a compacted topic, each under a key of its own.
//!
//! The key on the wire is `<key>#<guid>`: the key that the writer means, and what tells its messages
//! apart. The partition is that of `<key>` alone, so that the messages of one key stay together and in
//! order. A message is deleted by a record with the same wire key and a null value, a *tombstone*. A
//! reader takes the last 37 bytes off a key, and passes over tombstones.
//!
//! Owns that form, in Rust; `clients/java` has the same for Java. What the broker has to be told is in
//! [`compaction`]. Knows no topic, and reads and writes nothing.

use std::ops::RangeInclusive;

pub mod compaction;

/// Characters of a GUID: a UUID with its hyphens, in lower case.
pub const GUID_BYTES: usize = 36;
/// Bytes of a wire key that are not its key: `#` and the GUID.
pub const SUFFIX_BYTES: usize = 1 + GUID_BYTES;
/// Stands between key and GUID. A key may contain it: the last one counts.
const SEPARATOR: u8 = b'#';
/// The wire key of the records that are written so that segments roll: no message has it, and every
/// reader passes over it, because their values are null.
pub const NOBODY: &[u8] = b"#00000000-0000-0000-0000-000000000000";

/// The hyphens of a UUID.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
const DIGITS: [RangeInclusive<u8>; 2] = [b'0'..=b'9', b'a'..=b'f'];

/// Whether these bytes are a GUID.
pub fn is_guid(bytes: &[u8]) -> bool {
    let is_in_place = |(at, byte): (usize, &u8)| match HYPHENS.contains(&at) {
        true => *byte == b'-',
        false => DIGITS.iter().any(|digits| digits.contains(byte)),
    };
    bytes.len() == GUID_BYTES && bytes.iter().enumerate().all(is_in_place)
}

/// The wire key of a message.
pub fn wire_key(key: &[u8], guid: &[u8]) -> Vec<u8> {
    [key, &[SEPARATOR], guid].concat()
}

/// Key and GUID of a wire key; `None` if it ends with no GUID, as where somebody else has written
/// the record.
pub fn split(wire_key: &[u8]) -> Option<(&[u8], &str)> {
    let (key, suffix) = wire_key.split_at_checked(wire_key.len().checked_sub(SUFFIX_BYTES)?)?;
    let guid = suffix.strip_prefix(&[SEPARATOR]).filter(|guid| is_guid(guid))?;
    str::from_utf8(guid).ok().map(|guid| (key, guid))
}

/// A record as a reader of such a topic sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The key that its writer meant; the whole key of a record that has no GUID.
    pub key: &'a [u8],
    /// What its deletion needs beside the key.
    pub guid: Option<&'a str>,
    /// The value.
    pub value: &'a [u8],
}

/// The message in a record; `None` for a tombstone, which is none. The offset of such a record is to
/// be committed like any other.
pub fn message<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Option<Message<'a>> {
    let (value, key) = (value?, key.unwrap_or_default());
    Some(match split(key) {
        Some((key, guid)) => Message { key, guid: Some(guid), value },
        None => Message { key, guid: None, value },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;
    use crate::bus::partitioner::{partition_for, partition_without};

    const GUID: &str = "01a21ade-b982-7135-90af-3503dff3d7e4";

    #[test]
    fn a_guid_is_a_uuid_in_lower_case() {
        assert!(is_guid(GUID.as_bytes()));
        assert!(is_guid(&NOBODY[1..]));
        for other in [
            "",
            "01A21ADE-b982-7135-90af-3503dff3d7e4",
            "01a21adeb98271359000af3503dff3d7e4xx",
            "01a21ade-b982-7135-90af-3503dff3d7e",
            "01a21ade-b982-7135-90af-3503dff3d7e45",
            "01a21ade-b982-7135-90af_3503dff3d7e4",
            "g1a21ade-b982-7135-90af-3503dff3d7e4",
        ] {
            assert!(!is_guid(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn what_ends_with_no_guid_is_all_key() {
        for key in ["", "k", "#", GUID, &format!("k/{GUID}"), &format!("k#{GUID}x")] {
            assert_eq!(split(key.as_bytes()), None, "{key}");
            let read = message(Some(key.as_bytes()), Some(b"v"));
            let whole = Message { key: key.as_bytes(), guid: None, value: b"v" };
            assert_eq!(read, Some(whole));
        }
        assert_eq!(message(None, Some(b"")), Some(Message { key: b"", guid: None, value: b"" }));
    }

    #[test]
    fn tombstones_are_no_messages() {
        assert_eq!(message(Some(&wire_key(b"k", GUID.as_bytes())), None), None);
        assert_eq!(message(Some(NOBODY), None), None);
    }

    proptest! {
        #[test]
        fn a_key_comes_back_whatever_is_in_it(key in any::<Vec<u8>>(), guid in any::<u128>()) {
            let guid = uuid::Uuid::from_u128(guid).to_string();
            let wire = wire_key(&key, guid.as_bytes());
            prop_assert_eq!(split(&wire), Some((&*key, &*guid)));
            let read = message(Some(&wire), Some(b"v"));
            prop_assert_eq!(read, Some(Message { key: &key, guid: Some(&*guid), value: b"v" }));
            // One that was made a wire key twice is the first one's.
            let twice = wire_key(&wire, guid.as_bytes());
            prop_assert_eq!(split(&twice), Some((&*wire, &*guid)));
            let partition = partition_without(&wire, SUFFIX_BYTES, 1000);
            prop_assert_eq!(partition, partition_for(&key, 1000));
        }
    }
}
