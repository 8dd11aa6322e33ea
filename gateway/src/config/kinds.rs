//! The kinds of values an option may have: how each is read, named in the reference, and shown
//! again. Owns the messages about types and ranges; knows no option.

mod flag;

use std::{fmt::Display, net::SocketAddr, time::Duration};

use super::{
    Secret, checks,
    keys::quoted,
    places,
    problems::Source,
    secret::{HIDDEN, redact_url},
    tree::{Setting, Value},
    units::{format_duration, format_size, parse_duration, parse_size},
};

pub(super) use flag::Flag;

/// One kind of value.
pub(super) trait Kind {
    /// What is read.
    type Value;

    /// How the reference calls it, with its range.
    fn name(&self) -> String;

    /// Reads the value.
    ///
    /// # Errors
    /// Why it is none. Never shows the value of a secret.
    fn read(&self, setting: &Setting) -> Result<Self::Value, String>;

    /// The value as TOML, as [`Kind::read`] would read it; secrets are hidden.
    fn show(&self, value: &Self::Value) -> String;
}

/// A text, brought into its normal form by a check.
pub(super) struct Text {
    /// How the reference calls it.
    pub(super) name: &'static str,
    /// The normal form, or why there is none.
    pub(super) check: fn(&str) -> Result<String, String>,
}

impl Kind for Text {
    type Value = String;

    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn read(&self, setting: &Setting) -> Result<String, String> {
        (self.check)(text_of(setting)?)
    }

    fn show(&self, value: &String) -> String {
        quoted(value)
    }
}

/// The text of a string. A shell has no types: a variable's number is taken as it is written.
fn text_of(setting: &Setting) -> Result<&str, String> {
    match (&setting.value, &setting.source) {
        (Value::Text(text), _) => Ok(text),
        (Value::Scalar(scalar), Source::Variable(_)) => Ok(&scalar.text),
        (Value::Scalar(scalar), _) => {
            Err(format!("expected a string, found {}; text needs quotes", scalar.kind))
        }
        (other, _) => Err(format!("expected a string, found {}", other.kind())),
    }
}

/// A text that becomes a type of its own.
pub(super) struct Parsed<T> {
    /// How the reference calls it.
    pub(super) name: &'static str,
    /// The value, or why there is none.
    pub(super) parse: fn(&str) -> Result<T, String>,
}

impl<T: Display> Kind for Parsed<T> {
    type Value = T;

    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn read(&self, setting: &Setting) -> Result<T, String> {
        (self.parse)(text_of(setting)?)
    }

    fn show(&self, value: &T) -> String {
        quoted(&value.to_string())
    }
}

/// An address to listen on.
pub(super) const LISTEN: Parsed<SocketAddr> = Parsed { name: "`host:port`", parse: places::listen };

/// A text that is hidden.
pub(super) struct Hidden {
    /// How the reference calls it.
    pub(super) name: &'static str,
    /// Why a text is refused. Must not show it.
    pub(super) check: fn(&str) -> Result<(), String>,
    /// Whether the parts of a URL that are no secret are shown.
    pub(super) is_url: bool,
}

impl Kind for Hidden {
    type Value = Secret;

    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn read(&self, setting: &Setting) -> Result<Secret, String> {
        let text = text_of(setting)?;
        (self.check)(text).map(|()| Secret::new(text))
    }

    fn show(&self, value: &Secret) -> String {
        quoted(&if self.is_url { redact_url(value.expose()) } else { HIDDEN.to_owned() })
    }
}

/// A duration within a range, both ends included.
pub(super) struct Period {
    /// Milliseconds at least.
    pub(super) ms_min: u64,
    /// Milliseconds at most.
    pub(super) ms_max: u64,
}

impl Kind for Period {
    type Value = Duration;

    fn name(&self) -> String {
        format!("duration, {}", self.range())
    }

    fn read(&self, setting: &Setting) -> Result<Duration, String> {
        let duration = match &setting.value {
            Value::Text(text) => {
                parse_duration(text).map_err(|why| format!("{}: {why}", checks::shown(text)))?
            }
            other => {
                return Err(format!(
                    "expected a duration with its unit, as in \"25s\", found {}",
                    other.kind()
                ));
            }
        };
        let allowed = Duration::from_millis(self.ms_min)..=Duration::from_millis(self.ms_max);
        if allowed.contains(&duration) {
            Ok(duration)
        } else {
            Err(format!("must be {}, is {}", self.range(), format_duration(duration)))
        }
    }

    fn show(&self, value: &Duration) -> String {
        quoted(&format_duration(*value))
    }
}

impl Period {
    fn range(&self) -> String {
        let text = |ms| format_duration(Duration::from_millis(ms));
        format!("{} to {}", text(self.ms_min), text(self.ms_max))
    }
}

/// A number of bytes, from 1 to a maximum.
pub(super) struct Size {
    /// Bytes at most.
    pub(super) bytes_max: u32,
}

impl Kind for Size {
    type Value = usize;

    fn name(&self) -> String {
        format!("size, 1B to {}", format_size(self.bytes_max.into()))
    }

    fn read(&self, setting: &Setting) -> Result<usize, String> {
        let bytes = match &setting.value {
            Value::Text(text) => {
                parse_size(text).map_err(|why| format!("{}: {why}", checks::shown(text)))?.into()
            }
            Value::Scalar(scalar) => scalar.integer.ok_or_else(|| size_expected(&setting.value))?,
            other => return Err(size_expected(other)),
        };
        match usize::try_from(bytes) {
            Ok(size) if (1..=i128::from(self.bytes_max)).contains(&bytes) => Ok(size),
            _ => {
                let max = format_size(self.bytes_max.into());
                Err(format!("must be 1B to {max}, is {bytes} bytes"))
            }
        }
    }

    fn show(&self, value: &usize) -> String {
        quoted(&format_size(*value as u64))
    }
}

fn size_expected(found: &Value) -> String {
    format!("expected a size, as in \"900KiB\" or 921600, found {}", found.kind())
}

/// An integer within a range, both ends included.
pub(super) struct Count<T> {
    /// At least.
    pub(super) min: T,
    /// At most.
    pub(super) max: T,
}

impl<T: Display + Copy + PartialOrd + TryFrom<i128>> Kind for Count<T> {
    type Value = T;

    fn name(&self) -> String {
        format!("integer, {} to {}", self.min, self.max)
    }

    fn read(&self, setting: &Setting) -> Result<T, String> {
        let integer = match &setting.value {
            Value::Scalar(scalar) => scalar.integer,
            _ => None,
        };
        let integer = integer
            .ok_or_else(|| format!("expected an integer, found {}", setting.value.kind()))?;
        match T::try_from(integer) {
            Ok(value) if (self.min..=self.max).contains(&value) => Ok(value),
            _ => Err(format!("must be {} to {}, is {integer}", self.min, self.max)),
        }
    }

    fn show(&self, value: &T) -> String {
        value.to_string()
    }
}

/// One of a few words.
pub(super) struct Word<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq> Kind for Word<T> {
    type Value = T;

    fn name(&self) -> String {
        self.all("\\|")
    }

    fn read(&self, setting: &Setting) -> Result<T, String> {
        let text = text_of(setting)?;
        match self.0.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(*value),
            None => Err(format!("{}: expected {}", checks::shown(text), self.all("or"))),
        }
    }

    fn show(&self, value: &T) -> String {
        let word = self.0.iter().find(|(_, other)| other == value).map_or("", |(word, _)| word);
        quoted(word)
    }
}

impl<T> Word<T> {
    fn all(&self, between: &str) -> String {
        let words: Vec<_> = self.0.iter().map(|(word, _)| quoted(word)).collect();
        words.join(&format!(" {between} "))
    }
}

/// An array whose items are of one kind; repeated items are dropped.
pub(super) struct List<K>(pub(super) K);

impl<K: Kind<Value: PartialEq>> Kind for List<K> {
    type Value = Vec<K::Value>;

    fn name(&self) -> String {
        format!("array of {}", self.0.name())
    }

    fn read(&self, setting: &Setting) -> Result<Vec<K::Value>, String> {
        let Value::List(items) = &setting.value else {
            return Err(format!("expected an array, found {}", setting.value.kind()));
        };
        let (mut values, mut reasons) = (Vec::new(), Vec::new());
        for item in items {
            match self.0.read(item) {
                Ok(value) if values.contains(&value) => {}
                Ok(value) => values.push(value),
                Err(reason) => reasons.push(reason),
            }
        }
        if reasons.is_empty() { Ok(values) } else { Err(reasons.join("; ")) }
    }

    fn show(&self, values: &Vec<K::Value>) -> String {
        let items: Vec<_> = values.iter().map(|value| self.0.show(value)).collect();
        format!("[{}]", items.join(", "))
    }
}

/// A property of librdkafka's: its type is librdkafka's business. Shown in full; who shows a
/// property decides whether it may be.
pub(super) struct Property;

impl Kind for Property {
    type Value = String;

    fn name(&self) -> String {
        "string, integer or boolean".to_owned()
    }

    fn read(&self, setting: &Setting) -> Result<String, String> {
        match &setting.value {
            Value::Text(text) => Ok(text.clone()),
            Value::Scalar(scalar) => Ok(match (scalar.integer, &setting.source) {
                // TOML's `1_000` is no number to librdkafka; a variable may be a password.
                (Some(integer), Source::File { .. }) => integer.to_string(),
                _ => scalar.text.clone(),
            }),
            other => Err(format!("expected a string, found {}", other.kind())),
        }
    }

    fn show(&self, value: &String) -> String {
        quoted(value)
    }
}
