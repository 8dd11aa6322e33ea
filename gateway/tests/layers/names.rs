//! What the paths in a crate mean: in which file the thing is that they name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::sources::{Modules, Written};

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Thing {
    /// A module of the crate, or with a name, something in it.
    Own(Written, Option<String>),
    /// Something in another crate.
    Foreign(String),
}

/// Exports that lead to each other are no Rust: this many steps lead to any thing.
const STEPS_MAX: usize = 16;

/// What a path means in a module; none for what is only known within a function or a type.
pub(crate) fn resolve(modules: &Modules, at: &[String], path: &[String]) -> Option<Thing> {
    resolve_within(modules, at, path, STEPS_MAX)
}

fn resolve_within(
    modules: &Modules,
    at: &[String],
    path: &[String],
    steps: usize,
) -> Option<Thing> {
    let (first, rest) = path.split_first()?;
    match &**first {
        "::" => Some(Thing::Foreign(rest.first()?.clone())),
        "crate" => descend(modules, &[], rest, steps),
        "self" => descend(modules, at, rest, steps),
        "super" => {
            let mut at = at;
            let mut path = path;
            while let [first, rest @ ..] = path
                && first == "super"
            {
                (at, path) = (at.split_last()?.1, rest);
            }
            descend(modules, at, path, steps)
        }
        "Self" => None,
        name => {
            let module = &modules[at];
            // `use foreign::{self, …}` binds a crate's name to itself.
            let binding = module.bindings.get(name).filter(|binding| binding[0] != name);
            if module.children.contains(name) || binding.is_some() {
                descend(modules, at, path, steps)
            } else if name.starts_with(|c: char| c.is_ascii_lowercase()) {
                Some(Thing::Foreign(name.to_owned()))
            } else {
                None
            }
        }
    }
}

/// Goes down from a module.
fn descend(modules: &Modules, at: &[String], path: &[String], steps: usize) -> Option<Thing> {
    let Some((name, rest)) = path.split_first() else {
        return Some(Thing::Own(at.to_vec(), None));
    };
    let module = &modules[at];
    if module.children.contains(name) {
        return descend(modules, &[at, std::slice::from_ref(name)].concat(), rest, steps);
    }
    match module.bindings.get(name) {
        Some(binding) if steps > 0 => {
            resolve_within(modules, at, &[&**binding, rest].concat(), steps - 1)
        }
        _ => Some(Thing::Own(at.to_vec(), Some(name.clone()))),
    }
}

/// Everything that each module names.
pub(crate) fn things(modules: &Modules) -> impl Iterator<Item = (&Written, Thing)> {
    modules.iter().flat_map(move |(at, module)| {
        module.named.iter().filter_map(move |path| Some((at, resolve(modules, at, path)?)))
    })
}

/// Which modules each module names, but for those of which it is a part: a part may know the whole.
pub(crate) fn arrows(modules: &Modules) -> BTreeSet<(Written, Written)> {
    let others = |(from, thing): (&Written, Thing)| match thing {
        Thing::Own(to, _) if !from.starts_with(&to) => Some((from.clone(), to)),
        _ => None,
    };
    things(modules).filter_map(others).collect()
}

/// How many functions the types of the crate have, those of traits apart.
pub(crate) fn methods(modules: &Modules) -> BTreeMap<(Written, String), usize> {
    let mut found = BTreeMap::new();
    for (at, module) in modules {
        for (path, count) in &module.methods {
            let own = || path.last().map(|name| Thing::Own(at.clone(), Some(name.clone())));
            if let Some(Thing::Own(of, Some(name))) = resolve(modules, at, path).or_else(own) {
                *found.entry((of, name)).or_default() += count;
            }
        }
    }
    found
}

/// A shortest way from one module to another along the arrows, both ends included.
pub(crate) fn way(
    from: &Written,
    to: &Written,
    arrows: &BTreeSet<(Written, Written)>,
) -> Option<Vec<Written>> {
    let mut seen = BTreeSet::from([from]);
    let mut ways = VecDeque::from([vec![from]]);
    while let Some(way) = ways.pop_front() {
        let last = way.last().expect("it begins somewhere");
        if *last == to {
            return Some(way.into_iter().cloned().collect());
        }
        let next = arrows.iter().filter(|(from, _)| from == *last).map(|(_, to)| to);
        let new: Vec<&Written> = next.filter(|next| seen.insert(next)).collect();
        ways.extend(new.into_iter().map(|next| [&*way, &[next]].concat()));
    }
    None
}
