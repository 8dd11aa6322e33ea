//! What is wrong with a configuration, and where. Owns the wording around a problem; never holds a
//! secret's value.

use std::{fmt, path::PathBuf};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A line of the configuration file, counted from 1.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// The line; `None` when the file as a whole is meant.
        line: Option<usize>,
    },
    /// An environment variable, by name.
    Variable(String),
    /// Neither names it: the default holds, or a required value is missing.
    Unset,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Unset => f.write_str("default"),
        }
    }
}

/// One thing to put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The dotted path of the option, as the file spells it; empty when the file as a whole is
    /// meant.
    pub key: String,
    /// Where the value at fault stands.
    pub source: Source,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.reason)?;
        match self.source {
            Source::Unset => Ok(()),
            _ => write!(f, " ({})", self.source),
        }
    }
}

/// Everything that is wrong with a configuration: at least one [`Problem`], those of the file in
/// the order of its lines, then those of the environment, then what is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblems(Vec<Problem>);

impl ConfigProblems {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by(|a, b| a.source.cmp(&b.source));
        Self(problems)
    }

    /// The problems in order.
    pub fn as_slice(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for ConfigProblems {
    /// One line for each problem, without a line end after the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let line_end = if index == 0 { "" } else { "\n" };
            write!(f, "{line_end}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigProblems {}
