//! The content of the sources before anybody knows what it means: a tree of values that know where
//! they were set. Owns the parsing of TOML; knows no option.
//!
//! Nothing here is `Debug`, because the tree contains secrets.

use std::{collections::BTreeMap, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::problems::{Problem, Source};

/// The keys of one table.
pub(super) type Table = BTreeMap<String, Setting>;

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct Setting {
    /// What is set.
    pub(super) value: Value,
    /// Where.
    pub(super) source: Source,
}

/// A TOML value.
#[derive(Clone)]
pub(super) enum Value {
    /// A string; from the environment also what is not TOML.
    Text(String),
    /// An integer, number or truth value.
    Scalar(Scalar),
    /// An array.
    List(Vec<Setting>),
    /// A table.
    Table(Table),
}

/// A value that is neither a string nor a container.
#[derive(Clone)]
pub(super) struct Scalar {
    /// What TOML calls it, with its article.
    pub(super) kind: &'static str,
    /// The value of an integer; beyond 128 bits the nearest.
    pub(super) integer: Option<i128>,
    /// As it is written.
    pub(super) text: String,
}

impl Value {
    /// What TOML calls the value, with its article.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Scalar(scalar) => scalar.kind,
            Self::List(_) => "an array",
            Self::Table(_) => "a table",
        }
    }
}

/// Reads a file's text. With a syntax error there is no tree: a parser that recovers makes up
/// values, and those would only cause problems that are none.
///
/// # Errors
/// Every syntax error, with its line.
pub(super) fn parse(text: &str, path: &Path) -> Result<Table, Vec<Problem>> {
    let source_at = |offset: usize| Source::File {
        path: path.to_owned(),
        line: Some(1 + text.bytes().take(offset).filter(|b| *b == b'\n').count()),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(convert_table(table.into_inner(), text, &source_at));
    }
    // The error's own text would show the line, and with it perhaps a secret.
    let problem = |error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        let reason = match line_at(text, at).split_once('=') {
            Some((_, value)) if lacks_quotes(value) => {
                "not TOML: text needs quotes, as in key = \"text\"".to_owned()
            }
            _ => format!("not TOML: {}", error.message()),
        };
        Problem { key: String::new(), source: source_at(at), reason }
    };
    let mut problems: Vec<Problem> = errors.into_iter().map(problem).collect();
    // A text without quotes is several errors at once.
    problems.dedup();
    Err(problems)
}

fn line_at(text: &str, offset: usize) -> &str {
    // An error at the end of a line is one of that line.
    let offset = (0..=offset.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    let (before, after) = text.split_at(offset.unwrap_or(0));
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let end = after.find('\n').map_or(text.len(), |at| before.len() + at);
    &text[start..end]
}

/// Whether what stands behind a `=` is text without its quotes, by itself or in a list or table.
fn lacks_quotes(value: &str) -> bool {
    let value = value.split(" #").next().unwrap_or_default().trim();
    let inner = |open, close| value.strip_prefix(open)?.strip_suffix(close);
    if let Some(items) = inner('[', ']') {
        return items.split(',').any(lacks_quotes);
    }
    if let Some(entries) = inner('{', '}') {
        let values = entries.split(',').filter_map(|entry| entry.split_once('='));
        return values.map(|(_, value)| value).any(lacks_quotes);
    }
    let is_other = value.is_empty() || value.contains(['"', '\'', '[', ']', '{', '}', '=']);
    !is_other && DeValue::parse(value).is_err()
}

/// Reads the value of an environment variable: TOML where it is, else a string.
pub(super) fn parse_variable(name: &str, text: &str) -> Setting {
    let source = Source::Variable(name.to_owned());
    match DeValue::parse(text) {
        Ok(value) => convert(value, text, &|_| source.clone(), source.clone()),
        Err(_) => Setting { value: Value::Text(text.to_owned()), source },
    }
}

fn convert_table(table: DeTable<'_>, text: &str, source_at: &dyn Fn(usize) -> Source) -> Table {
    let entry = |(key, value): (Spanned<_>, _)| {
        let source = source_at(key.span().start);
        let name: std::borrow::Cow<'_, str> = key.into_inner();
        (name.into_owned(), convert(value, text, source_at, source))
    };
    table.into_iter().map(entry).collect()
}

fn convert(
    value: Spanned<DeValue<'_>>,
    text: &str,
    source_at: &dyn Fn(usize) -> Source,
    source: Source,
) -> Setting {
    let written = text.get(value.span()).unwrap_or_default().to_owned();
    let scalar = |kind, integer| Value::Scalar(Scalar { kind, integer, text: written });
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(integer) => {
            let parsed = i128::from_str_radix(integer.as_str(), integer.radix());
            let nearest = if written_negative(integer.as_str()) { i128::MIN } else { i128::MAX };
            scalar("an integer", Some(parsed.unwrap_or(nearest)))
        }
        DeValue::Float(_) => scalar("a decimal number", None),
        DeValue::Boolean(_) => scalar("a boolean", None),
        DeValue::Datetime(_) => scalar("a date or time", None),
        DeValue::Array(items) => Value::List(
            items
                .into_iter()
                .map(|item| {
                    let source = source_at(item.span().start);
                    convert(item, text, source_at, source)
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(convert_table(table, text, source_at)),
    };
    Setting { value, source }
}

fn written_negative(digits: &str) -> bool {
    digits.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_lines() {
        let table = parse("a = 1\n\n[b]\nc = [\n  2,\n]\n", Path::new("x.toml")).ok().unwrap();
        assert_eq!(table["a"].source.to_string(), "x.toml:1");
        assert_eq!(table["b"].source.to_string(), "x.toml:3");
        let Value::Table(b) = &table["b"].value else { panic!("not a table") };
        assert_eq!(b["c"].source.to_string(), "x.toml:4");
        let Value::List(items) = &b["c"].value else { panic!("not a list") };
        assert_eq!(items[0].source.to_string(), "x.toml:5");
    }

    #[test]
    fn reports_every_syntax_error_without_the_text() {
        let problems =
            parse("a = hunter2\nb = 1\nc = \"hunter2\nd = ]\n", Path::new("x")).err().unwrap();
        let lines: Vec<_> = problems.iter().map(|p| p.source.to_string()).collect();
        for line in ["x:1", "x:3", "x:4"] {
            assert!(lines.contains(&line.to_owned()), "{lines:?}");
        }
        assert!(!format!("{problems:?}").contains("hunter2"));
    }

    #[test]
    fn says_where_text_needs_quotes() {
        for text in [
            "listen = 0.0.0.0:8080",
            "a = 5s\n",
            "a = json # for machines",
            "a = redis://u:hunter2@host",
            "a = [\"b\", x-tenant]",
            "a = { b = 1, c = x y }",
        ] {
            let text = format!("one = 1\n{text}\nlast = 2");
            let problems = parse(&text, Path::new("x")).err().unwrap();
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            let meant = "not TOML: text needs quotes, as in key = \"text\" (x:2)";
            assert_eq!(problems, [meant], "{text}");
        }
        for text in ["a = \"b", "a = ]", "[a", "a = 'b'c'", "a =", "a b"] {
            let problems = parse(text, Path::new("x")).err().unwrap();
            assert!(problems.iter().all(|p| !p.reason.contains("quotes")), "{text}");
        }
    }

    #[test]
    fn reads_variables_as_toml_where_they_are() {
        let kind = |text| parse_variable("X", text).value.kind();
        for text in ["0.0.0.0:80", "5s", "a b", "", "[::]:80", "12 13", "\"", "a = 1", "1\nb = 2"] {
            let Value::Text(read) = parse_variable("X", text).value else {
                panic!("{text} is {}", kind(text))
            };
            assert_eq!(read, text);
        }
        assert_eq!(kind("true"), "a boolean");
        assert_eq!(kind("12"), "an integer");
        assert_eq!(kind("1.5"), "a decimal number");
        assert_eq!(kind("[\"a\"]"), "an array");
        assert_eq!(kind("{ a = 1 }"), "a table");
        let Value::Text(read) = parse_variable("X", "\"a\\tb\"").value else { panic!("no text") };
        assert_eq!(read, "a\tb");
    }

    #[test]
    fn keeps_numbers_as_they_are_written() {
        for text in ["0x1F", "1_000", "99999999999999999999999999999999999999999999", "1e3"] {
            let Value::Scalar(scalar) = parse_variable("X", text).value else { panic!("{text}") };
            assert_eq!(scalar.text, text);
        }
    }
}
