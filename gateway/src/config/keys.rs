//! How options are called: by dotted keys in a file, by variables in the environment. Owns both
//! spellings; knows no option and no value.

use std::fmt;

/// What the names of our variables begin with.
pub(super) const PREFIX: &str = "ROUNDTRIP_";

/// The way to a value, written as a dotted key with quotes where TOML needs them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyPath(pub(super) Vec<String>);

impl KeyPath {
    /// The path of `name` within the table at this path.
    pub(super) fn child(&self, name: &str) -> Self {
        Self(self.0.iter().cloned().chain([name.to_owned()]).collect())
    }

    /// The environment variable that sets the value.
    pub(super) fn variable(&self) -> String {
        let names = self.0.iter().map(|name| name.to_ascii_uppercase().replace(['-', '.'], "_"));
        format!("{}{}", PREFIX, names.collect::<Vec<_>>().join("__"))
    }
}

impl<const N: usize> From<[&str; N]> for KeyPath {
    fn from(names: [&str; N]) -> Self {
        Self(names.map(str::to_owned).into())
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            write_key(f, name)?;
        }
        Ok(())
    }
}

fn write_key(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    let is_bare = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    // `<name>` stands for any name in the reference.
    if (!name.is_empty() && name.bytes().all(is_bare)) || name == "<name>" {
        f.write_str(name)
    } else {
        f.write_str(&quoted(name))
    }
}

/// `text` as a TOML basic string.
pub(super) fn quoted(text: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                write!(out, "\\u{:04X}", u32::from(c)).expect("a String takes every text");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_paths_as_toml_keys() {
        let path = KeyPath::from(["services", "a.b", "request_topic"]);
        assert_eq!(path.to_string(), "services.\"a.b\".request_topic");
        assert_eq!(path.variable(), "ROUNDTRIP_SERVICES__A_B__REQUEST_TOPIC");
        assert_eq!(quoted("a\"\\\n\u{1}"), "\"a\\\"\\\\\\n\\u0001\"");
    }
}
