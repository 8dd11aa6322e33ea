//! `CONFIG.md`: the page that operators read, rendered from the options themselves. Owns the words
//! around them. A test fails when the page in the repository is another.

use std::fmt::Write as _;

use super::{
    findings::{Declared, Findings},
    keys::KeyPath,
    options, properties,
    tree::Table,
};

/// A complete file, which a test loads.
pub(super) const EXAMPLE: &str = include_str!("example.toml");

/// The page around the tables and the example.
const PAGE: &str = include_str!("reference.md");

/// The whole page.
pub(super) fn render() -> String {
    let mut findings = Findings::for_reference();
    options::read(&mut findings, Table::new(), None);
    PAGE.replace("{{example}}", EXAMPLE.trim_end())
        .replace("{{refused}}", properties::refusals().trim_end())
        .replace("{{tables}}", tables(&findings).trim_end())
}

fn tables(findings: &Findings) -> String {
    let mut out = String::new();
    let top = (KeyPath::default(), "Keys outside of any table.");
    for (path, help) in std::iter::once(&top).chain(&findings.sections) {
        let title = match path.0.is_empty() {
            true => "Top level".to_owned(),
            false => format!("`[{path}]`"),
        };
        let head = "| key | type | default | meaning |\n|---|---|---|---|";
        write!(out, "### {title}\n\n{help}\n\n{head}\n").expect("a String takes every text");
        for option in &findings.declared {
            let parent = option.path.0.split_last().map(|(_, parent)| parent);
            if parent == Some(path.0.as_slice()) {
                out.push_str(&row(option));
            }
        }
        out.push('\n');
    }
    out
}

fn row(option: &Declared) -> String {
    let name = option.path.0.last().map_or("", String::as_str);
    format!("| `{name}` | {} | {} | {} |\n", option.kind, option.default, option.help)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/CONFIG.md");

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a switch of the test, not of the gateway")]
    fn the_committed_page_is_fresh() {
        let page = render();
        if std::env::var("RENDER").is_ok() {
            std::fs::write(COMMITTED, &page).unwrap();
        }
        let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
        assert!(
            committed == page,
            "gateway/CONFIG.md is stale; render it with: RENDER=1 cargo test -p gateway --lib \
             config::reference"
        );
    }

    #[test]
    fn the_example_sets_every_option() {
        let example: toml::Table = toml::from_str(EXAMPLE).unwrap();
        let mut findings = Findings::for_reference();
        options::read(&mut findings, Table::new(), None);
        for option in &findings.declared {
            let found = option.path.0.iter().try_fold(&example, |table, name| {
                match table.get(if name == "<name>" { "orders" } else { name })? {
                    toml::Value::Table(inner) => Some(inner),
                    _ => Some(table),
                }
            });
            let last = option.path.0.last().unwrap();
            let is_set =
                found.is_some_and(|table| table.contains_key(last) || last == "properties");
            assert!(is_set, "{} is not in the example", option.path);
        }
    }
}
