//! How the crate is built: which way its imports point, how large its files and types are. Reads the
//! sources, and names what breaks a rule.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

use std::{collections::BTreeMap, fs, path::Path};

use crate::{
    names::{Thing, arrows, methods, resolve, things, way},
    sources::{Modules, Written},
};

mod names;
mod sources;

/// A layer, by the module it is, and what it may import of the crate.
const LAYERS: [(&str, &[&str]); 12] = [
    ("error", &[]),
    ("descriptors", &[]),
    ("deletable", &[]),
    ("wire", &["error"]),
    ("config", &[]),
    ("tasks", &[]),
    ("readiness", &[]),
    ("telemetry", &["config", "error"]),
    ("bus", &["tasks"]),
    ("peer", &["config", "tasks", "wire"]),
    ("relay", &["bus", "config", "deletable", "error", "peer", "tasks", "telemetry", "wire"]),
    (
        "edge",
        &[
            "config",
            "deletable",
            "error",
            "peer",
            "readiness",
            "relay",
            "tasks",
            "telemetry",
            "wire",
        ],
    ),
];
/// The rooms of the relay, and what each may use of the others. The relay itself joins them.
const ROOMS: &[(&str, &[&str])] = &[
    ("environment", &[]),
    ("gate", &[]),
    ("offsets", &[]),
    ("reading", &["offsets"]),
    ("services", &[]),
    ("dialects", &["services"]),
    ("surroundings", &["environment"]),
    ("cluster", &["surroundings"]),
    ("write_behind", &[]),
    ("views", &["cluster", "environment", "offsets", "services", "surroundings", "write_behind"]),
    ("session", &["offsets"]),
    ("checkpoints", &["cluster", "session", "write_behind"]),
    ("results", &["checkpoints", "cluster", "offsets", "surroundings", "write_behind"]),
    (
        "requests",
        &[
            "checkpoints",
            "cluster",
            "dialects",
            "environment",
            "gate",
            "offsets",
            "results",
            "services",
            "session",
            "surroundings",
            "views",
            "write_behind",
        ],
    ),
    (
        "lifecycle",
        &["checkpoints", "cluster", "environment", "gate", "requests", "session", "surroundings"],
    ),
    (
        "replies",
        &[
            "checkpoints",
            "cluster",
            "dialects",
            "environment",
            "offsets",
            "reading",
            "requests",
            "results",
            "services",
            "session",
            "surroundings",
            "views",
        ],
    ),
];
/// What joins the layers: it may import everything, and alone chooses adapters.
const JOINERS: [&str; 4] = ["app", "dev", "samples", "cli"];

/// Crates that only some modules may name.
const FOREIGN: [(&str, &[&str]); 5] = [
    ("rdkafka", &["bus::kafka"]),
    ("warp", &["edge"]),
    ("tokio_tungstenite", &["edge"]),
    ("hyper", &["edge", "peer::http"]),
    (
        "prost",
        &[
            "peer::format",
            "relay::checkpoints::format",
            "relay::lifecycle::answer::message",
            "relay::results::format",
        ],
    ),
];
/// Adapters of this crate, and those of the registry's.
const ADAPTERS: [&str; 2] = ["bus::kafka", "peer::http"];
/// What only tests use. Nothing that is shipped names it, so no shipped program has it.
const FOR_TESTS: &str = "bus::memory";
const REGISTRIES: [&str; 2] = ["RedisRegistry", "MemoryRegistry"];

/// Lines of a file, without its tests.
const LINES_MAX: usize = 350;
/// Functions of a type, without those of traits.
const METHODS_MAX: usize = 25;
fn sources() -> Modules {
    sources::of_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

/// Whether a module is another one, or within it.
fn is_in(module: &[String], other: &str) -> bool {
    let names: Vec<&str> = other.split("::").collect();
    module.len() >= names.len() && module.iter().zip(&names).all(|(one, other)| one == other)
}

fn is_joiner(module: &[String]) -> bool {
    JOINERS.iter().any(|joiner| is_in(module, joiner))
}

#[test]
fn imports_point_down() {
    let modules = sources();
    for (from, thing) in things(&modules) {
        let (Some(layer), Thing::Own(to, _)) = (from.first(), thing) else { continue };
        let Some(to) = to.first().filter(|to| *to != layer) else { continue };
        if JOINERS.contains(&&**layer) {
            continue;
        }
        let may = LAYERS.iter().find(|(name, _)| name == layer);
        let (_, may) = may.unwrap_or_else(|| panic!("{layer} is no layer of those listed"));
        assert!(
            may.contains(&&**to),
            "{} imports {to}: {layer} may import only {may:?}",
            modules[from].file
        );
    }
}

#[test]
fn rooms_know_those_below_them_alone() {
    let modules = sources();
    for (from, thing) in things(&modules) {
        let ([layer, room, ..], Thing::Own(to, name)) = (from.as_slice(), thing) else { continue };
        if layer != "relay" || to.first() != Some(layer) {
            continue;
        }
        let file = &modules[from].file;
        let Some(to) = to.get(1) else {
            // Without a name it says how far something is visible.
            assert_eq!(name, None, "{file} imports what joins its room");
            continue;
        };
        let may = ROOMS.iter().find(|(name, _)| name == room);
        let (_, may) = may.unwrap_or_else(|| panic!("{room} is no room of those listed"));
        assert!(
            to == room || may.contains(&&**to),
            "{file} imports {to}: {room} may import only {may:?}"
        );
    }
}

#[test]
fn foreign_crates_stay_behind_their_traits() {
    let modules = sources();
    for (from, thing) in things(&modules) {
        let Thing::Foreign(found) = thing else { continue };
        let Some((name, homes)) = FOREIGN.iter().find(|(name, _)| *name == found) else { continue };
        assert!(
            homes.iter().any(|home| is_in(from, home)),
            "{} names {name}: only {homes:?} may",
            modules[from].file
        );
    }
}

#[test]
fn only_the_joiners_choose_adapters() {
    let modules = sources();
    for (from, thing) in things(&modules) {
        let Thing::Own(to, _) = thing else { continue };
        if let Some(adapter) = ADAPTERS.iter().find(|adapter| is_in(&to, adapter)) {
            let may = is_in(from, adapter) || is_joiner(from);
            assert!(may, "{} chooses {adapter}: only {JOINERS:?} may", modules[from].file);
        }
    }
    for (from, module) in &modules {
        for name in module.named.iter().flatten().filter(|name| REGISTRIES.contains(&&***name)) {
            assert!(is_joiner(from), "{} chooses {name}: only {JOINERS:?} may", module.file);
        }
    }
}

#[test]
fn what_is_for_tests_is_named_by_tests_alone() {
    let modules = sources();
    for (from, thing) in things(&modules) {
        let Thing::Own(to, _) = thing else { continue };
        let may = !is_in(&to, FOR_TESTS) || is_in(from, FOR_TESTS);
        assert!(may, "{} names {FOR_TESTS}, which is for tests", modules[from].file);
    }
}

#[test]
fn files_import_each_other_in_no_circle() {
    let arrows = arrows(&sources());
    let circles = arrows.iter().filter_map(|(from, to)| way(to, from, &arrows));
    if let Some(circle) = circles.min_by_key(Vec::len) {
        let names: Vec<String> = circle.iter().map(|name| name.join("::")).collect();
        panic!("each of these imports the next, and the last the first: {names:#?}");
    }
}

/// What of `found` is over its maximum.
fn over(found: &BTreeMap<String, usize>, max: usize) -> Vec<String> {
    let over = found.iter().filter(|(_, size)| **size > max);
    over.map(|(name, size)| format!("{name} has {size}, and may have {max}")).collect()
}

#[test]
fn a_file_has_one_noun() {
    let found = sources().into_values().map(|module| (module.file, module.lines)).collect();
    let wrong = over(&found, LINES_MAX);
    assert!(wrong.is_empty(), "lines of files, without tests:\n{}", wrong.join("\n"));
}

#[test]
fn a_type_has_one_task() {
    let name = |(module, name): (Written, String)| format!("{}::{name}", module.join("::"));
    let found = methods(&sources()).into_iter().map(|(of, count)| (name(of), count)).collect();
    let wrong = over(&found, METHODS_MAX);
    assert!(wrong.is_empty(), "functions of types:\n{}", wrong.join("\n"));
}

#[test]
fn the_map_names_files_that_exist() {
    fn walk(directory: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for folder in ["gateway/src", "gateway/tests", "registry/src", "registry/tests", "tests/src"] {
        walk(&root.join(folder), &mut files);
    }
    let map = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    // What is between two backquotes is every other piece.
    let quoted = map.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let names = quoted.filter(|text| text.ends_with(".rs") && !text.contains(['*', ' ']));
    let gone: Vec<&str> = names
        .filter(|name| !files.iter().any(|file| file.ends_with(&format!("/{name}"))))
        .collect();
    assert!(gone.is_empty(), "ARCHITECTURE.md names {gone:?}, which are not there");
}

#[test]
fn whole_files_are_read() {
    let files = [
        (
            "lib.rs",
            "pub mod a; #[cfg(any(test, feature = \"x\"))] mod unseen; pub use a::b::Two as Both;",
        ),
        (
            "a.rs",
            "use foreign::{self, Thing as Other};\nmod b;\npub use b::One;\n#[cfg(test)]\nmod tests {\n    \
             use nobody::Sees;\n}\nuse crate::{Both, a::{b::{self, One as Uno}}};\nimpl Uno { fn f() \
             { select! { () = b::f() => ::other::g(x) } }\n#[cfg(test)]\nfn g() {}\n}",
        ),
        (
            "a/b.rs",
            "use super::super::a::One as Loop; fn f(x: Self::X) { super::f(super::super::a) }",
        ),
    ];
    let text = |file: &str| files.iter().find(|(name, _)| *name == file).unwrap().1.to_owned();
    let modules = sources::read(&text);
    let written = |path: &str| -> Written { path.split("::").map(Into::into).collect() };
    assert_eq!(modules[&written("a")].lines, 6);
    let found: Vec<String> = things(&modules)
        .map(|(from, thing)| match thing {
            Thing::Own(to, name) => {
                format!("{}: {} {}", from.join("::"), to.join("::"), name.unwrap_or_default())
            }
            Thing::Foreign(name) => format!("{}: {name}", from.join("::")),
        })
        .collect();
    assert_eq!(
        found,
        [
            ": a::b Two",
            "a: foreign",
            "a: a::b One",
            "a: a::b Two",
            "a: a::b ",
            "a: a::b One",
            "a: a::b f",
            "a: other",
            "a::b: a::b One",
            "a::b: a f",
            "a::b: a ",
        ]
    );
    assert_eq!(
        resolve(&modules, &[], &written("a::Other::f")),
        Some(Thing::Foreign("foreign".into()))
    );
}
