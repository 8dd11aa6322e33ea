//! Brings the sources together: the environment over the file over the defaults. Owns their order and
//! the access to the file; knows no option.

use std::{fs, io, path::Path};

use registry::NodeId;

use super::{
    Config, PropertyCheck, environment,
    findings::Findings,
    options,
    problems::{ConfigProblems, Problem, Source},
    properties, relations,
    tree::{self, Table},
};

/// A file's name and text, or why it could not be read.
pub(super) struct File<'p> {
    /// Its name.
    pub(super) path: &'p Path,
    /// What is in it.
    pub(super) text: io::Result<String>,
}

impl<'p> File<'p> {
    /// Reads the file, if there is one.
    pub(super) fn open(path: Option<&'p Path>) -> Option<Self> {
        path.map(|path| Self { path, text: fs::read_to_string(path) })
    }

    fn parse(self) -> Result<Table, Vec<Problem>> {
        match self.text {
            Ok(text) => tree::parse(&text, self.path),
            Err(error) => Err(vec![Problem {
                key: String::new(),
                source: Source::File { path: self.path.to_owned(), line: None },
                reason: format!("cannot be read: {error}"),
            }]),
        }
    }
}

/// The configuration, and what was found out about it.
///
/// # Errors
/// Everything that is wrong, in all of the sources.
pub(super) fn read(
    file: Option<File<'_>>,
    environment: impl Iterator<Item = (String, String)>,
    check_property: Option<PropertyCheck>,
) -> Result<(Config, Findings), ConfigProblems> {
    let (mut tree, broken) = match file.map_or_else(|| Ok(Table::new()), File::parse) {
        Ok(tree) => (tree, Vec::new()),
        Err(problems) => (Table::new(), problems),
    };
    let mut problems = properties::flatten(&mut tree);
    let mut host_name = kernel_host_name();
    let environment = environment.inspect(|(name, value)| {
        if name == "HOSTNAME" && host_name.is_none() {
            host_name = NodeId::parse(value).ok();
        }
    });
    problems.extend(environment::merge(&mut tree, environment));

    let mut findings = Findings {
        check_property,
        problems,
        lacks_file: !broken.is_empty(),
        service_options: options::of_a_service(),
        ..Findings::default()
    };
    let mut config = options::read(&mut findings, tree, host_name);
    findings.report_unknown();
    if broken.is_empty() {
        relations::check(&config, &mut findings);
        relations::find_unused(&config, &mut findings);
        config.unused = findings.unused.clone();
    } else {
        // Without the file's values, all that is known is which variables are wrong by themselves.
        findings.problems.extend(broken);
    }
    match findings.problems.is_empty() {
        true => Ok((config, findings)),
        false => Err(ConfigProblems::new(findings.problems)),
    }
}

/// The name the operating system gives this host, where it can be a node's.
pub(super) fn kernel_host_name() -> Option<NodeId> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    NodeId::parse(name.trim_end()).ok()
}
