//! Reads options out of the tree. Each option is declared once, where it is read: its name, kind,
//! default and meaning. What is found out on the way goes into the findings.
//!
//! Whatever was not asked for is unknown: no option can be forgotten here and accepted silently.

use std::collections::BTreeMap;

use super::{
    Unused,
    findings::{Declared, Findings},
    keys::{KeyPath, quoted},
    kinds::{Kind, Property},
    problems::Source,
    properties,
    secret::HIDDEN,
    tree::{Setting, Table, Value},
};

/// What applies if an option is not set.
pub(super) enum Preset<T> {
    /// Nothing: the option must be set.
    Required,
    /// No value; the text says what that means.
    Absent(&'static str),
    /// This value.
    Value(T),
    /// A value that is found out at the start, if it can be, and how the reference describes it.
    Found(Option<T>, &'static str),
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
        // It was reported already that this is no table.
        let is_told = self.findings.has_problem(&path) || self.findings.has_problem(&self.path);
        if self.findings.lacks_file || is_told {
            return;
        }
        let source = match &self.source {
            // A variable creates a service that nobody meant; it cannot create a table with a fixed
            // name.
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
