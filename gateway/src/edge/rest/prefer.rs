//! The header `Prefer` (RFC 7240): what a caller would like. Reads it alone; what is not understood
//! counts as not there.

use std::{borrow::Cow, time::Duration};

use http::HeaderMap;

/// Whether the caller would rather come for the answer later: `respond-async`.
pub(super) fn responds_async(headers: &HeaderMap) -> bool {
    let lines = headers.get_all("prefer").iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| parts(line, ','))
        .filter_map(|preference| parts(preference, ';').next())
        // A preference with an empty value is the same as one without (RFC 7240, section 2).
        .map(|preference| preference.split_once('=').unwrap_or((preference, "")))
        .filter(|(_, value)| matches!(value.trim(), "" | "\"\""))
        .any(|(name, _)| name.trim().eq_ignore_ascii_case("respond-async"))
}

/// `wait=<seconds>`, the first of several; none where that is no whole number from 1 on.
pub(super) fn wait(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all("prefer").iter().filter_map(|line| line.to_str().ok());
    let seconds = lines
        .flat_map(|line| parts(line, ','))
        // What follows a semicolon is a parameter of the preference before it.
        .filter_map(|preference| parts(preference, ';').next()?.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .and_then(|(_, value)| seconds(&word(value.trim())?))?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// What stands between separators; one within quotes separates nothing.
fn parts(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |c: char| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match c {
            _ if was_escaped => {}
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ => return c == separator && !is_quoted,
        }
        false
    })
}

/// The text of a token, which is what it looks like, or of a quoted string; none where the quotes
/// are not around it as a whole.
fn word(text: &str) -> Option<Cow<'_, str>> {
    let Some(inner) = text.strip_prefix('"') else { return Some(Cow::Borrowed(text)) };
    let (mut word, mut rest) = (String::new(), inner.chars());
    loop {
        match rest.next()? {
            '"' => return rest.as_str().is_empty().then_some(Cow::Owned(word)),
            '\\' => word.push(rest.next()?),
            other => word.push(other),
        }
    }
}

/// A whole number of seconds; if it has too many digits, the largest number there is.
fn seconds(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}
