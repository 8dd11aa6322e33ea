//! The configuration in force, as TOML that says where each value comes from. Owns the layout;
//! secrets were hidden when the values were read.

use std::fmt::Write as _;

use super::{Unused, findings::Declared, keys::KeyPath, problems::Source};

/// Every option with its value and source, a comment where there is no value; then what has no
/// effect.
pub(super) fn render(declared: &[Declared], unused: &[Unused]) -> String {
    let mut out = String::new();
    let mut table: &[String] = &[];
    for option in declared {
        let Some((name, parent)) = option.path.0.split_last() else { continue };
        let has_entries = || declared.iter().any(|other| is_within(other, option));
        if option.shown.is_none() && has_entries() {
            continue;
        }
        if parent != table {
            let header = KeyPath(parent.to_vec());
            writeln!(out, "\n[{header}]").expect("a String takes every text");
            table = parent;
        }
        let name = KeyPath(vec![name.clone()]);
        let line = match (&option.shown, &option.source) {
            (None, _) => format!("# {name}: {}", option.default),
            (Some(value), Source::Unset) => format!("{name} = {value} # default"),
            (Some(value), source) => format!("{name} = {value} # {source}"),
        };
        // A file's name may hold a line end, which would end the comment.
        out.push_str(&line.replace(['\n', '\r'], " "));
        out.push('\n');
    }
    if !unused.is_empty() {
        out.push_str("\n# Set, and without effect:\n");
    }
    for Unused { key, reason } in unused {
        writeln!(out, "# {key}: {reason}").expect("a String takes every text");
    }
    out
}

fn is_within(option: &Declared, table: &Declared) -> bool {
    option.path.0.split_last().is_some_and(|(_, parent)| parent == table.path.0)
}
