//! Keys and variables that no option has: how they are reported, and what may have been meant.

use std::collections::BTreeMap;

use super::{
    environment::is_service_link,
    findings::Findings,
    keys::KeyPath,
    problems::Source,
    tree::{Setting, Value},
};

impl Findings {
    /// Reports whatever is left as unknown: each key of the file once, and each variable.
    pub(super) fn report_unknown(&mut self) {
        for (path, setting) in std::mem::take(&mut self.left) {
            self.report_unknown_at(&path, &setting);
        }
    }

    fn report_unknown_at(&mut self, path: &KeyPath, setting: &Setting) {
        let inner = match &setting.value {
            Value::Table(inner) => Some(inner),
            _ => None,
        };
        let is_file = matches!(setting.source, Source::File { .. });
        if is_file || inner.is_none_or(BTreeMap::is_empty) {
            let mut reason = "unknown key".to_owned();
            let meant = match &setting.source {
                Source::Variable(name) => self.suggest_variable(name),
                _ => None,
            };
            if let Some(meant) = meant.or_else(|| self.suggest(path)) {
                reason.push_str(&format!("; did you mean {meant}?"));
            }
            if matches!(&setting.source, Source::Variable(name) if is_service_link(name)) {
                reason.push_str(
                    "; if Kubernetes sets the variable, turn enableServiceLinks off for the pod",
                );
            }
            self.add(path, setting.source.clone(), reason);
        }
        for (name, setting) in inner.into_iter().flatten() {
            if !is_file || matches!(setting.source, Source::Variable(_)) {
                self.report_unknown_at(&path.child(name), setting);
            }
        }
    }

    /// The variable that an unknown one would be with other underscores: two where there is one, or
    /// the other way round. A service's name may have some of its own.
    pub(super) fn suggest_variable(&self, unknown: &str) -> Option<String> {
        let plain = |variable: &str| variable.to_ascii_uppercase().replace("__", "_");
        let unknown = plain(unknown);
        let here = self.declared.iter().map(|option| option.path.variable());
        if let Some(known) = here.into_iter().find(|known| plain(known) == unknown) {
            return Some(known);
        }
        let name_of = |table: &str, option: &str| {
            let name = unknown.strip_prefix(table)?.strip_suffix(option)?;
            (!name.is_empty()).then(|| name.to_owned())
        };
        if let Some(property) = name_of("ROUNDTRIP_KAFKA_PROPERTIES_", "") {
            return Some(format!("ROUNDTRIP_KAFKA__PROPERTIES__{property}"));
        }
        // The longest first: `_TIMEOUT` ends `_IDLE_TIMEOUT` as well.
        let mut options = self.service_options.clone();
        options.sort_by_key(|option| std::cmp::Reverse(option.len()));
        options.iter().find_map(|option| {
            let option = option.to_ascii_uppercase();
            let name = name_of("ROUNDTRIP_SERVICES_", &format!("_{option}"))?;
            Some(format!("ROUNDTRIP_SERVICES__{name}__{option}"))
        })
    }

    /// The known key that is most like an unknown one: one in the same table, else one with the
    /// same name elsewhere.
    pub(super) fn suggest(&self, unknown: &KeyPath) -> Option<String> {
        let (name, table) = unknown.0.split_last()?;
        let known = || {
            let sections = self.sections.iter().map(|(path, _)| path);
            self.declared.iter().map(|declared| &declared.path).chain(sections)
        };
        let neighbours =
            known().filter_map(|path| path.0.split_last().filter(|(_, parent)| *parent == table));
        let near = closest(name, neighbours.map(|(name, _)| name.as_str()));
        if let Some(near) = near {
            return Some(KeyPath(table.to_vec()).child(near).to_string());
        }
        known().find(|path| path.0.last() == Some(name)).map(ToString::to_string)
    }
}

/// The candidate nearest to `word`, if it is near enough to be meant.
fn closest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let near = word.chars().count().div_ceil(3).min(3);
    let begins = |candidate: &str| {
        word.len() >= 3 && (candidate.starts_with(word) || word.starts_with(candidate))
    };
    candidates
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= near || begins(candidate))
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many characters must be put in, left out or replaced to make `b` of `a` (Levenshtein).
/// Only the first 64 characters count: no key of ours is longer.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_changes() {
        for (a, b, changes) in
            [("", "abc", 3), ("abc", "abc", 0), ("abc", "acb", 2), ("ab", "b", 1)]
        {
            assert_eq!(distance(a, b), changes);
        }
    }

    #[test]
    fn finds_what_was_meant() {
        let candidates = ["timeout", "timeout_max", "dialect"];
        let closest = |word| closest(word, candidates.into_iter());
        assert_eq!(closest("timout"), Some("timeout"));
        assert_eq!(closest("timeout-max"), Some("timeout_max"));
        assert_eq!(closest("dialekt"), Some("dialect"));
        assert_eq!(closest("timeout_in_ms"), Some("timeout"));
        assert_eq!(closest("dialect_name"), Some("dialect"));
        assert_eq!(closest("gone_within"), None);
        assert_eq!(closest(""), None);
    }
}
