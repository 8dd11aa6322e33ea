//! The layers of the crate: imports point down only. Walks the sources and names the rule that an
//! import breaks.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A layer, by the modules it consists of, and what it may import of the crate.
const LAYERS: [(&str, &[&str]); 10] = [
    ("error", &[]),
    ("wire", &["error"]),
    ("config", &[]),
    ("tasks", &[]),
    ("readiness", &[]),
    ("telemetry", &["config", "error"]),
    ("bus", &["tasks"]),
    ("peer", &["config", "tasks", "wire"]),
    ("relay", &["bus", "config", "error", "peer", "tasks", "telemetry", "wire"]),
    ("edge", &["config", "error", "peer", "readiness", "relay", "tasks", "wire"]),
];

/// Crates that only one module may name.
const FOREIGN: [(&str, &[&str]); 4] = [
    ("rdkafka", &["bus/kafka"]),
    ("warp", &["edge"]),
    ("tokio_tungstenite", &["edge"]),
    ("hyper", &["edge", "peer/http"]),
];

/// Adapters that only the places which join everything may choose.
const ADAPTERS: [&str; 4] = ["bus::kafka", "bus::memory", "peer::http", "RedisRegistry"];
const JOINERS: [&str; 5] = ["app.rs", "dev.rs", "samples.rs", "cli.rs", "cli/topics.rs"];

fn sources() -> Vec<(String, String)> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    let source = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        (name, product_part(&fs::read_to_string(path).unwrap()))
    };
    paths.into_iter().map(source).filter(|(name, _)| !is_of_tests(name)).collect()
}

/// Whether a file has units alone, which join what they need.
fn is_of_tests(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.contains("/tests/")
}

/// The source without its tests and comments.
fn product_part(text: &str) -> String {
    let product = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = product.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn layer(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or_default()
}

/// The modules of the crate that a source names as `crate::…`, grouped imports included.
fn imports(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for after in source.split("crate::").skip(1) {
        if let Some(group) = after.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut item)),
                    _ if depth == 0 => item.push(c),
                    _ => {}
                }
            }
            found.push(item);
        } else {
            found.push(after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    let module = |item: &String| item.trim().split("::").next().unwrap_or_default().to_owned();
    found.iter().map(module).filter(|module| !module.is_empty()).collect()
}

#[test]
fn imports_point_down() {
    for (file, source) in sources() {
        let Some((layer, may)) = LAYERS.iter().find(|(name, _)| *name == layer(&file)) else {
            continue;
        };
        for module in imports(&source) {
            let is_own = module == *layer || !LAYERS.iter().any(|(name, _)| *name == module);
            let joins = ["app", "dev", "cli", "samples"].contains(&&*module);
            assert!(
                (is_own && !joins) || may.contains(&&*module),
                "{file} imports {module}: {layer} may import only {may:?}"
            );
        }
    }
}

#[test]
fn foreign_crates_stay_behind_their_traits() {
    for (file, source) in sources() {
        for (name, homes) in FOREIGN {
            let uses = source.lines().any(|line| {
                line.trim_start().starts_with(&format!("use {name}"))
                    || line.contains(&format!(" {name}::"))
            });
            let at_home = homes.iter().any(|home| file.starts_with(home));
            assert!(!uses || at_home, "{file} names {name}: only {homes:?} may");
        }
    }
}

#[test]
fn only_the_joiners_choose_adapters() {
    for (file, source) in sources() {
        let modules: Vec<&str> = ADAPTERS
            .into_iter()
            .filter(|adapter| source.contains(&format!("crate::{adapter}")))
            .filter(|adapter| !file.starts_with(&adapter.replace("::", "/")))
            .collect();
        let is_joiner = JOINERS.contains(&&*file);
        assert!(
            modules.is_empty() || is_joiner,
            "{file} chooses {modules:?}: only {JOINERS:?} may"
        );
    }
}

#[test]
fn the_reader_of_imports_sees_groups() {
    let source = "use crate::{\n  bus::{A, B},\n  error::Failure,\n};\nuse crate::wire;";
    assert_eq!(imports(source), ["bus", "error", "wire"]);
}
