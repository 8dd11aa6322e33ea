//! What a later version writes in place of what this one writes.
//!
//! Lists a second time which fields of which messages are messages themselves, so that a change of
//! this by mistake is found.

use serde_json::{Value, json};

/// A message, by its fields that are messages.
struct Shape {
    parts: &'static [(u64, &'static Self)],
    /// Whether its first field is a verdict.
    judges: bool,
}

const fn of(parts: &'static [(u64, &'static Shape)]) -> Shape {
    Shape { parts, judges: false }
}

const LEAF: Shape = of(&[]);
const REPLY: Shape = of(&[(2, &LEAF)]);
const PAIR: Shape = of(&[(1, &LEAF), (2, &LEAF)]);
const DELIVERY: Shape = of(&[(1, &LEAF), (2, &LEAF), (4, &REPLY)]);
const CALL: Shape = of(&[(1, &DELIVERY), (2, &PAIR)]);
const VERDICT: Shape = Shape { parts: &[(2, &LEAF)], judges: true };
const ANSWER: Shape = of(&[(1, &VERDICT)]);
const DETAIL: Shape = of(&[(2, &LEAF), (7, &LEAF)]);
const RECEIPT: Shape = of(&[(2, &LEAF), (4, &LEAF)]);
const RESPONSE: Shape = of(&[(2, &LEAF), (3, &REPLY)]);
const ERROR: Shape = of(&[(2, &LEAF), (7, &REPLY)]);
const FRAME: Shape = of(&[(1, &RECEIPT), (2, &RESPONSE), (3, &ERROR), (4, &LEAF)]);
const OWED: Shape = of(&[(2, &LEAF), (3, &FRAME)]);
const HELD: Shape = of(&[(1, &LEAF), (2, &DETAIL)]);
const RELEASED: Shape = of(&[(3, &OWED), (4, &HELD)]);
const RELEASE_ANSWER: Shape = of(&[(2, &RELEASED)]);

/// How many verdicts of a hundred are of a kind that this version does not know.
const STRANGE_PERCENT: u8 = 20;
const STRANGE_VERDICT: u64 = 77;
/// The number of a kind of frame that this version does not know.
const STRANGE_FRAME: u64 = 15;
/// Fields that this version does not know: a number, a text, and a message.
const NEWS: [u8; 21] = *b"\xc0\x3e\x96\x01\xca\x3e\x04news\xd2\x3e\x07\x08\x01\x12\x03\x08\x96\x01";

/// Adds what this version passes over.
pub(crate) fn write(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    match name.rsplit("::").next().unwrap_or_default() {
        "route" => [b"z=zone-a what ", &bytes[..]].concat(),
        "owner" if bytes == b"-" => bytes,
        "owner" => [&bytes[..], b" zone-a"].concat(),
        "node" => write_node(&bytes),
        "Call" => grow(&bytes, &CALL),
        "Answer" => grow(&bytes, &ANSWER),
        "Release" => grow(&bytes, &LEAF),
        "AnswerPart" => grow(&bytes, &RELEASE_ANSWER),
        "Detail" => grow(&bytes, &DETAIL),
        "Frame" => grow(&bytes, &FRAME),
        "ResultDetail" => grow(&bytes, &LEAF),
        other => panic!("nothing is known of {other:?}: say here what a later version adds to it"),
    }
}

/// The same, but that a session's frames are of a kind that this version does not know.
pub(crate) fn write_with_frames(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    if !name.ends_with("::Frame") {
        return write(name, bytes);
    }
    let mut frame = Vec::new();
    for field in fields(&bytes) {
        push(&mut frame, STRANGE_FRAME << 3 | field.kind);
        frame.extend_from_slice(field.all_but_key);
    }
    frame
}

/// A state that this version does not know.
fn write_node(bytes: &[u8]) -> Vec<u8> {
    let Ok(Value::Object(mut entry)) = serde_json::from_slice(bytes) else {
        panic!("an entry that is no object")
    };
    entry.insert("state".to_owned(), json!("resting"));
    entry.insert("load".to_owned(), json!({ "cpu": [0.5, null], "zone": "a" }));
    serde_json::to_vec(&entry).unwrap_or_default()
}

/// The message with unknown fields in it, and in all messages within it.
fn grow(bytes: &[u8], shape: &Shape) -> Vec<u8> {
    let mut grown = NEWS[..4].to_vec();
    for field in fields(bytes) {
        push(&mut grown, field.number << 3 | field.kind);
        let part = shape.parts.iter().find(|(number, _)| *number == field.number);
        match (part, field.content) {
            (Some((_, shape)), Some(content)) => {
                let content = grow(content, shape);
                push(&mut grown, content.len() as u64);
                grown.extend_from_slice(&content);
            }
            _ if shape.judges
                && field.number == 1
                && rand::random::<u8>() % 100 < STRANGE_PERCENT =>
            {
                push(&mut grown, STRANGE_VERDICT);
            }
            _ => grown.extend_from_slice(field.all_but_key),
        }
    }
    grown.extend_from_slice(&NEWS[4..]);
    grown
}

/// One field of a message.
struct Field<'m> {
    number: u64,
    /// How it is written: 0 a number, 1 eight bytes, 2 a length and so many bytes, 5 four bytes.
    kind: u64,
    all_but_key: &'m [u8],
    /// The bytes behind a length.
    content: Option<&'m [u8]>,
}

fn fields(mut rest: &[u8]) -> Vec<Field<'_>> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let key = pull(&mut rest);
        let all = rest;
        let content = match key & 7 {
            0 => {
                pull(&mut rest);
                None
            }
            2 => {
                let length = pull(&mut rest) as usize;
                let (content, behind) = rest.split_at(length);
                rest = behind;
                Some(content)
            }
            1 => rest.split_off(..8).and(None),
            5 => rest.split_off(..4).and(None),
            other => panic!("no field is written as {other}"),
        };
        let all_but_key = &all[..all.len() - rest.len()];
        fields.push(Field { number: key >> 3, kind: key & 7, all_but_key, content });
    }
    fields
}

/// Takes a number, seven bits in each byte, the lowest first.
fn pull(rest: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let Some(byte) = rest.split_off_first() else { panic!("a number without an end") };
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return number;
        }
    }
    panic!("a number that is too long")
}

fn push(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
