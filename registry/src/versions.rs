//! Which versions of what nodes say to each other a node speaks.
//!
//! Owns their text, which is in a node's entry and goes along with each call of a peer.

use std::fmt;

/// All versions from the lowest to the highest. Written as `1-2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The earliest that is still understood.
    pub lowest: u32,
    /// The one that is spoken if both know it.
    pub highest: u32,
}

impl Versions {
    /// The first version: that of a node which names none.
    pub const FIRST: Self = Self { lowest: 1, highest: 1 };

    /// Whether there is a version that both speak.
    pub const fn meet(self, other: Self) -> bool {
        self.lowest <= other.highest && other.lowest <= self.highest
    }

    /// Reads the text, even if more follows it; anything else counts as the first version.
    pub fn read(text: &str) -> Self {
        let number = |digits: &str| digits.parse().ok().filter(|number| *number > 0);
        let read = || {
            let (lowest, rest) = text.split_once('-')?;
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            Some(Self { lowest: number(lowest)?, highest: number(&rest[..end])? })
        };
        read().unwrap_or_default()
    }
}

impl Default for Versions {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.lowest, self.highest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_meet_where_they_have_a_version_in_common() {
        let of = |lowest, highest| Versions { lowest, highest };
        assert!(of(1, 2).meet(of(2, 3)) && of(2, 3).meet(of(1, 2)) && of(1, 3).meet(of(2, 2)));
        assert!(!of(1, 1).meet(of(2, 3)) && !of(2, 3).meet(of(1, 1)));
    }

    #[test]
    fn the_text_is_read_as_it_was_written_and_with_more_behind_it() {
        let some = Versions { lowest: 3, highest: 12 };
        assert_eq!(Versions::read(&some.to_string()), some);
        assert_eq!(Versions::read("3-12;q=1"), some);
        for none in ["", "1", "-", "a-b", "0-1", "1-", "-1", "1-99999999999"] {
            assert_eq!(Versions::read(none), Versions::FIRST, "{none}");
        }
    }
}
