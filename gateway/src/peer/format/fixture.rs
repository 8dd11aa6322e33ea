//! The files under `tests/formats`: every message as the first version that had it has written it. The
//! present version writes the same, and reads all of them.
//!
//! ```text
//! RENDER=1 cargo test -p gateway --lib each_version
//! ```
//!
//! writes the newest folder anew. A folder that was released is never changed: what a later version
//! writes for the first time goes into a folder of its own, and what was written before is written as it
//! was.

use std::{fmt::Debug, fs, path::PathBuf};

use bytes::Bytes;

const NEWEST: &str = "v2";

/// One field of each wire type that no version has: a number, eight bytes, a text, four bytes.
const OF_A_LATER_VERSION: [&[u8]; 4] = [
    &[0xc0, 0x3e, 0x96, 0x01],
    &[0xc9, 0x3e, 1, 2, 3, 4, 5, 6, 7, 8],
    &[0xd2, 0x3e, 3, b'n', b'e', b'w'],
    &[0xdd, 0x3e, 1, 2, 3, 4],
];

/// Checks that a message is written as the first version did, and read from there as what it
/// means, also where a later version has said more in it.
pub(crate) fn check<T: PartialEq + Debug>(
    name: &str,
    meaning: &T,
    written: &Bytes,
    read: impl Fn(&Bytes) -> T,
) {
    check_since("v1", name, meaning, written, read);
}

/// The same for a message, or a meaning of one, that the versions before this one did not have.
pub(crate) fn check_since<T: PartialEq + Debug>(
    version: &str,
    name: &str,
    meaning: &T,
    written: &Bytes,
    read: impl Fn(&Bytes) -> T,
) {
    if is_to_be_rendered() && version == NEWEST {
        fs::create_dir_all(file(NEWEST, "").parent().unwrap()).unwrap();
        fs::write(file(NEWEST, name), written).unwrap();
    }
    let committed = of(version, name);
    assert!(*written == committed, "{name} is written otherwise: a new version needs a folder");
    assert_eq!(read(&committed), *meaning, "{name}");
    let [number, eight, text, four] = OF_A_LATER_VERSION;
    let more = [number, text, &committed, eight, four].concat();
    assert_eq!(read(&more.into()), *meaning, "{name}, of a later version");
}

/// A message as a version has written it.
pub(crate) fn of(version: &str, name: &str) -> Bytes {
    let path = file(version, name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}

fn file(version: &str, name: &str) -> PathBuf {
    let formats = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/formats");
    format!("{formats}/{version}/{name}.bin").into()
}

#[expect(clippy::disallowed_methods, reason = "a switch of the tests, not of the gateway")]
fn is_to_be_rendered() -> bool {
    std::env::var("RENDER").is_ok()
}
