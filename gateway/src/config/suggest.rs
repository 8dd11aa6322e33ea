//! What a misspelled word may have meant.

/// The candidate nearest to `word`, if it is near enough to be meant.
pub(super) fn closest<'c>(
    word: &str,
    candidates: impl Iterator<Item = &'c str>,
) -> Option<&'c str> {
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
