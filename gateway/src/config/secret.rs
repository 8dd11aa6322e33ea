//! A text that is never shown. Owns the one way to see it; never formats it.

use std::fmt;

use super::places;

/// What is shown in place of a secret.
pub(super) const HIDDEN: &str = "***";

/// A secret text, which no log and no `Debug` output ever shows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text so that it is not shown by accident.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the place that uses it. Comparing it with what a caller sent takes
    /// a comparison in constant time.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// A URL without what may be a password: user, password and query. What is no plain host and path
/// is hidden as well, for a URL with a slip of the pen may have its password anywhere.
pub(super) fn redact_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return if url == "memory:" { url.to_owned() } else { HIDDEN.to_owned() };
    };
    let place = places::after_user(rest);
    if !places::is_place(place) {
        return HIDDEN.to_owned();
    }
    let user = if place.len() < rest.len() { "***@" } else { "" };
    match place.split_once('?') {
        Some((place, _)) => format!("{scheme}://{user}{place}?{HIDDEN}"),
        None => format!("{scheme}://{user}{place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_neither_in_debug_nor_in_display() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn hides_passwords_in_urls() {
        for (url, shown) in [
            ("memory:", "memory:"),
            ("redis://127.0.0.1:6379/1", "redis://127.0.0.1:6379/1"),
            ("redis://:pw@host/1", "redis://***@host/1"),
            ("rediss://user:p/w@a@host:1", "rediss://***@host:1"),
            ("redis+cluster://u:pw@a:1,u:pw@b:2", "redis+cluster://***@b:2"),
            ("redis://host/?password=pw", "redis://host/?***"),
            ("redis://host/?password=p@w", "redis://***@w"),
            (":pw@host", "***"),
            ("redis://:pwhost:1/1", "***"),
            ("redis://host/1password=pw", "***"),
        ] {
            assert_eq!(redact_url(url), shown);
        }
    }
}
