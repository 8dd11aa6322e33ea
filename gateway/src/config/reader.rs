//! Reads options out of the tree. Each option is declared once, where it is read: its name, kind,
//! default and meaning. Owns the list of what was declared (the reference and the effective
//! configuration are rendered from it) and every problem met on the way.
//!
//! Whatever was not asked for is unknown: no option can be forgotten here and accepted silently.

use std::collections::BTreeMap;

use super::{
    PropertyCheck, Unused,
    environment::is_service_link,
    kinds::{Kind, Property},
    problems::{Problem, Source},
    properties,
    secret::HIDDEN,
    tree::{KeyPath, Setting, Table, Value, quoted},
};

/// What holds where nothing is set.
pub(super) enum Preset<T> {
    /// Nothing: the option must be set.
    Required,
    /// No value, which means this.
    Absent(&'static str),
    /// This value.
    Value(T),
    /// A value found out at the start, if it was, and how the reference calls it.
    Found(Option<T>, &'static str),
}

/// An option that was declared.
pub(super) struct Declared {
    /// Where it stands.
    pub(super) path: KeyPath,
    /// What kind of value it takes.
    pub(super) kind: String,
    /// What holds where nothing is set.
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
    /// What librdkafka says of a property.
    pub(super) check_property: Option<PropertyCheck>,
    /// What is wrong.
    pub(super) problems: Vec<Problem>,
    /// What nobody asked for.
    left: Vec<(KeyPath, Setting)>,
    /// Whether there is a file that could not be read: nothing is known to be missing.
    pub(super) lacks_file: bool,
    /// Whether one nameless entry stands for all that a table of free names may hold.
    describes: bool,
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

    fn has_problem(&self, path: &KeyPath) -> bool {
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
}

/// A table that is being read.
pub(super) struct Section<'f> {
    findings: &'f mut Findings,
    path: KeyPath,
    source: Source,
    left: Table,
}

impl<'f> Section<'f> {
    /// Reads the whole tree.
    pub(super) fn root<T>(
        findings: &'f mut Findings,
        tree: Table,
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> T {
        Section { findings, path: KeyPath::default(), source: Source::Unset, left: tree }.all(read)
    }

    fn all<T>(mut self, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let value = read(&mut self);
        let left = std::mem::take(&mut self.left);
        let left = left.into_iter().map(|(name, setting)| (self.path.child(&name), setting));
        self.findings.left.extend(left);
        value
    }

    /// Reads the table `name`, which is as good as empty when it is absent.
    pub(super) fn section<T>(
        &mut self,
        name: &str,
        help: &'static str,
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> T {
        let path = self.path.child(name);
        self.findings.sections.push((path.clone(), help));
        let (left, source) = self.take_table(name);
        Section { findings: self.findings, path, source, left }.all(read)
    }

    /// Reads each table in the table `name`, whose names are free but for a check.
    pub(super) fn each<T>(
        &mut self,
        name: &str,
        help: &'static str,
        check: fn(&str) -> Result<(), String>,
        mut read: impl FnMut(&mut Section<'_>) -> T,
    ) -> BTreeMap<String, T> {
        let describes = self.findings.describes;
        let mut tables = Section {
            path: self.path.child(name),
            left: if describes { Table::new() } else { self.take_table(name).0 },
            source: Source::Unset,
            findings: self.findings,
        };
        let names: Vec<String> = match describes {
            true => vec!["<name>".to_owned()],
            false => tables.left.keys().cloned().collect(),
        };
        let one = |name: String| {
            let source = tables.left.get(&name).map_or(Source::Unset, |set| set.source.clone());
            if let (Err(reason), false) = (check(&name), describes) {
                tables.findings.add(&tables.path.child(&name), source, reason);
            }
            let value = tables.section(&name, help, &mut read);
            (name, value)
        };
        names.into_iter().map(one).collect()
    }

    /// Accepts keys of the contract that this version has no use for, so that one file serves
    /// nodes of this version and the next. Only for what nobody would miss: tuning of features
    /// that are not there, never a rule that somebody relies on.
    pub(super) fn accept_unused(&mut self, names: &[&str]) {
        for name in names {
            if self.left.remove(*name).is_some() {
                let key = self.path.child(name).to_string();
                let reason = "it tunes what this version does not have".to_owned();
                self.findings.unused.push(Unused { key, reason });
            }
        }
    }

    /// Takes the table `name` out, and where it stands.
    fn take_table(&mut self, name: &str) -> (Table, Source) {
        match self.left.remove(name) {
            None => (Table::new(), Source::Unset),
            Some(Setting { value: Value::Table(table), source }) => (table, source),
            Some(Setting { value, source }) => {
                let mut reason = format!("expected a table, found {}", value.kind());
                if let Source::Variable(name) = &source
                    && let Some(meant) = self.findings.suggest_variable(name)
                {
                    reason.push_str(&format!("; did you mean {meant}?"));
                }
                self.findings.add(&self.path.child(name), source.clone(), reason);
                (Table::new(), source)
            }
        }
    }

    /// An option that must be set.
    pub(super) fn required<K: Kind<Value: Default>>(
        &mut self,
        name: &str,
        kind: &K,
        help: &'static str,
    ) -> K::Value {
        self.option(name, kind, Preset::Required, help).unwrap_or_default()
    }

    /// An option with a default.
    pub(super) fn defaulted<K: Kind<Value: Clone>>(
        &mut self,
        name: &str,
        kind: &K,
        default: K::Value,
        help: &'static str,
    ) -> K::Value {
        let preset = Preset::Value(default.clone());
        self.option(name, kind, preset, help).unwrap_or(default)
    }

    /// Any option: the value in force, if there is one.
    pub(super) fn option<K: Kind>(
        &mut self,
        name: &str,
        kind: &K,
        preset: Preset<K::Value>,
        help: &'static str,
    ) -> Option<K::Value> {
        let path = self.path.child(name);
        let setting = self.left.remove(name);
        let mut source = setting.as_ref().map_or(Source::Unset, |setting| setting.source.clone());
        let read = match setting.map(|setting| kind.read(&setting)) {
            None => None,
            Some(Ok(value)) => Some(value),
            Some(Err(reason)) => {
                self.findings.add(&path, std::mem::replace(&mut source, Source::Unset), reason);
                None
            }
        };
        let (default, preset) = match preset {
            Preset::Required => {
                if read.is_none() {
                    let variable = path.variable();
                    self.add_missing(name, &format!("set it in the file or as {variable}"));
                }
                ("required".to_owned(), None)
            }
            Preset::Absent(meaning) => (meaning.to_owned(), None),
            Preset::Value(value) => (format!("`{}`", kind.show(&value)), Some(value)),
            Preset::Found(value, meaning) => (meaning.to_owned(), value),
        };
        let value = read.or(preset);
        let shown = value.as_ref().map(|value| kind.show(value));
        let kind = kind.name();
        self.findings.declared.push(Declared { path, kind, default, help, shown, source });
        value
    }

    /// Records that the option `name` is missing, unless it is there and has a problem.
    pub(super) fn add_missing(&mut self, name: &str, reason: &str) {
        let path = self.path.child(name);
        // What should be a table and is none has been told of.
        let is_told = self.findings.has_problem(&path) || self.findings.has_problem(&self.path);
        if self.findings.lacks_file || is_told {
            return;
        }
        let source = match &self.source {
            // A variable makes a service that nobody meant, but not a table of a fixed name.
            Source::Variable(_) if self.path.0.len() < 2 => Source::Unset,
            source => source.clone(),
        };
        self.findings.add(&path, source, format!("required: {reason}"));
    }

    /// The properties that are handed to librdkafka.
    pub(super) fn properties(
        &mut self,
        name: &str,
        help: &'static str,
    ) -> BTreeMap<String, String> {
        let path = self.path.child(name);
        let (table, _) = self.take_table(name);
        self.findings.declared.push(Declared {
            path: path.clone(),
            kind: format!("table of {}", Property.name()),
            default: "none".to_owned(),
            help,
            shown: None,
            source: Source::Unset,
        });
        let one = |(name, setting): (String, Setting)| {
            let path = path.child(&name);
            let read = Property.read(&setting);
            let check = self.findings.check_property;
            let refusal = match &read {
                Ok(value) => properties::refusal(&name, value)
                    .or_else(|| check.and_then(|check| check(&name, value))),
                Err(reason) => Some(reason.clone()),
            };
            if let Some(reason) = refusal {
                self.findings.add(&path, setting.source, reason);
                return None;
            }
            let value = read.ok()?;
            let shown = if properties::is_secret(&name) { HIDDEN } else { &value };
            self.findings.declared.push(Declared {
                path,
                kind: Property.name(),
                default: String::new(),
                help: "",
                shown: Some(quoted(shown)),
                source: setting.source,
            });
            Some((name, value))
        };
        table.into_iter().filter_map(one).collect()
    }
}
