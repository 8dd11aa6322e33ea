//! JSON pointers (RFC 6901): reads one scalar out of a text, of which nothing else is kept.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// The string, number or boolean at `pointer`, as text; none where there is none, or `json` is no JSON.
pub fn text_at(json: &[u8], pointer: &str) -> Option<Box<str>> {
    let mut value: &RawValue = serde_json::from_slice(json).ok()?;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        let mut reader = serde_json::Deserializer::from_str(value.get());
        value = reader.deserialize_any(Step(&token)).ok()??;
    }
    match value.get().as_bytes().first()? {
        b'"' => serde_json::from_str::<Cow<'_, str>>(value.get()).ok().map(Into::into),
        b'{' | b'[' | b'n' => None,
        _ => Some(value.get().into()),
    }
}

/// Takes the value under one name, or at one index, and passes over all else.
struct Step<'t>(&'t str);

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Name(name)) = map.next_key()? {
            // Of two of one name, the last counts, as for most readers.
            if name == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let is_canonical = self.0 == "0" || !self.0.starts_with(['0', '+']);
        let wanted: Option<usize> = self.0.parse().ok().filter(|_| is_canonical);
        let (mut found, mut index) = (None, 0);
        while let Some(item) = items.next_element::<&RawValue>()? {
            if Some(index) == wanted {
                found = Some(item);
            }
            index += 1;
        }
        Ok(found)
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_found_as_text() {
        let json = r#" {"state":"NEW","a/b":{"m~n":[1.50,true,"é\n"]},"":7,"x":null,"o":{},
                        "twice":1,"twice":2} "#;
        let at = |pointer| text_at(json.as_bytes(), pointer);
        for (pointer, expected) in [
            ("/state", Some("NEW")),
            ("/a~1b/m~0n/0", Some("1.50")),
            ("/a~1b/m~0n/1", Some("true")),
            ("/a~1b/m~0n/2", Some("é\n")),
            ("/", Some("7")),
            ("/twice", Some("2")),
            ("/x", None),
            ("/o", None),
            ("/gone", None),
            ("/state/0", None),
            ("/a~1b/m~0n/3", None),
            ("/a~1b/m~0n/01", None),
            ("/a~1b/m~0n/-", None),
            ("", None),
        ] {
            assert_eq!(at(pointer).as_deref(), expected, "{pointer}");
        }
        assert_eq!(text_at(b"\"DONE\"", "").as_deref(), Some("DONE"));
        for bad in ["", "{", "{\"state\":\"NEW\"", "\u{fffd}", "{\"state\":1}x"] {
            assert_eq!(text_at(bad.as_bytes(), "/state"), None, "{bad}");
        }
        assert_eq!(text_at(b"\xff", "/state"), None);
    }
}
