//! What was found while the options were read: which there are, which are set without effect, and
//! which are wrong. The reference and the effective configuration are rendered from it. Reads
//! nothing itself.

use super::{
    PropertyCheck, Unused,
    keys::KeyPath,
    problems::{Problem, Source},
    tree::Setting,
};

/// An option that was declared.
pub(super) struct Declared {
    /// Where it stands.
    pub(super) path: KeyPath,
    /// What kind of value it takes.
    pub(super) kind: String,
    /// The value that applies if nothing is set.
    pub(super) default: String,
    /// What it means.
    pub(super) help: &'static str,
    /// The value in force as TOML, without secrets; `None` where there is none.
    pub(super) shown: Option<String>,
    /// Where the value comes from.
    pub(super) source: Source,
}

/// What reading has found out, beside the values.
#[derive(Default)]
pub(super) struct Findings {
    /// Every option, in the order of its declaration.
    pub(super) declared: Vec<Declared>,
    /// Every table, with what it is for.
    pub(super) sections: Vec<(KeyPath, &'static str)>,
    /// Keys that were set and have no effect.
    pub(super) unused: Vec<Unused>,
    /// What librdkafka says about a property.
    pub(super) check_property: Option<PropertyCheck>,
    /// What is wrong.
    pub(super) problems: Vec<Problem>,
    /// Keys that no option has.
    pub(super) left: Vec<(KeyPath, Setting)>,
    /// The names of the options that every service has, also where there is no service.
    pub(super) service_options: Vec<String>,
    /// Whether there is a file that could not be read: nothing is known to be missing.
    pub(super) lacks_file: bool,
    /// Whether one nameless entry stands for all that a table of free names may hold.
    pub(super) describes: bool,
}

impl Findings {
    /// For the reference: tables of free names are read once, under the name `<name>`.
    pub(super) fn for_reference() -> Self {
        Self { describes: true, ..Self::default() }
    }

    /// Records a problem.
    pub(super) fn add(&mut self, path: &KeyPath, source: Source, reason: String) {
        self.problems.push(Problem { key: path.to_string(), source, reason });
    }

    /// Whether something is wrong with this option by itself.
    pub(super) fn has_problem(&self, path: &KeyPath) -> bool {
        let key = path.to_string();
        self.problems.iter().any(|problem| problem.key == key)
    }

    /// Records that options do not fit together, against the first of them that is set, unless
    /// one of them has a problem of its own.
    pub(super) fn add_mismatch(&mut self, paths: &[KeyPath], reason: String) {
        if paths.iter().any(|path| self.has_problem(path)) {
            return;
        }
        let source_of = |path: &KeyPath| {
            let found = self.declared.iter().find(|declared| declared.path == *path)?;
            (found.source != Source::Unset).then(|| (path.clone(), found.source.clone()))
        };
        let blamed = paths.iter().find_map(source_of);
        let first = || paths.first().map(|path| (path.clone(), Source::Unset));
        if let Some((path, source)) = blamed.or_else(first) {
            self.add(&path, source, reason);
        }
    }

    /// Records that an option has no effect, where it is set.
    pub(super) fn add_unused(&mut self, path: &KeyPath, reason: &str) {
        let is_set = |option: &Declared| option.path == *path && option.source != Source::Unset;
        if self.declared.iter().any(is_set) && !self.has_problem(path) {
            self.unused.push(Unused { key: path.to_string(), reason: reason.to_owned() });
        }
    }
}
