//! The variables `ROUNDTRIP_…`, laid over the file. Owns the rule that makes a variable's name a
//! key; knows no option, so an unknown one is found where an unknown key of the file is.

use std::collections::BTreeMap;

use super::{
    keys::{KeyPath, PREFIX},
    problems::{Problem, Source},
    properties,
    tree::{Setting, Table, Value, parse_variable},
};

/// Lays the variables over `tree`, in which `kafka.properties` is flat already. The variable of a
/// whole table comes before those of its keys.
pub(super) fn merge(
    tree: &mut Table,
    variables: impl Iterator<Item = (String, String)>,
) -> Vec<Problem> {
    let mut ours: Vec<(Vec<String>, String, String)> = variables
        .filter_map(|(name, text)| {
            let levels = name.strip_prefix(PREFIX)?.to_ascii_lowercase();
            Some((levels.split("__").map(str::to_owned).collect(), name, text))
        })
        .collect();
    ours.sort_by(|a, b| (a.0.len(), &a.1).cmp(&(b.0.len(), &b.1)));

    let mut problems = Vec::new();
    let mut set_by = BTreeMap::<Vec<String>, String>::new();
    for (levels, name, text) in ours {
        let mut problem = |path: &[String], reason: String| {
            let key = KeyPath(path.to_vec()).to_string();
            problems.push(Problem { key, source: Source::Variable(name.clone()), reason });
        };
        let path = match resolve(tree, levels) {
            Ok(path) => path,
            Err((levels, reason)) => {
                problem(&levels, reason);
                continue;
            }
        };
        // Where the process environment is not UTF-8, it comes with this mark.
        if text.contains(char::REPLACEMENT_CHARACTER) {
            problem(&path, "not UTF-8".to_owned());
            continue;
        }
        if let Some(other) = set_by.insert(path.clone(), name.clone()) {
            problem(&path, format!("set by {other} as well"));
            continue;
        }
        let mut setting = parse_variable(&name, &text);
        // A part of a value must not become a key: keys are shown.
        if properties::is_one(&path) && !matches!(setting.value, Value::Text(_)) {
            setting.value = Value::Text(text);
        }
        let mut layer = nest(&path, setting);
        problems.extend(properties::flatten(&mut layer));
        lay_over(tree, layer);
    }
    problems
}

/// The key a variable means. Names that are free to choose are those of the file where it has
/// them; they may hold what a variable's name cannot.
fn resolve(tree: &Table, levels: Vec<String>) -> Result<Vec<String>, (Vec<String>, String)> {
    match levels.as_slice() {
        [section, name, ..] if section == "services" => {
            let chosen = match table_at(tree, &["services"]) {
                Some(services) => pick(services, name),
                None => Ok(None),
            };
            match chosen {
                Ok(None) => Ok(levels),
                Ok(Some(found)) => {
                    let mut path = levels.clone();
                    path[1] = found;
                    Ok(path)
                }
                Err(reason) => Err((levels, reason)),
            }
        }
        [section, table, name @ ..]
            if section == "kafka" && table == "properties" && !name.is_empty() =>
        {
            let name = name.join("_");
            let path = |name| vec!["kafka".to_owned(), "properties".to_owned(), name];
            let chosen = match table_at(tree, &["kafka", "properties"]) {
                Some(present) => pick(present, &name),
                None => Ok(None),
            };
            match chosen {
                Ok(found) => Ok(path(found.unwrap_or_else(|| properties::name_of(&name)))),
                Err(reason) => Err((path(name), reason)),
            }
        }
        _ => Ok(levels),
    }
}

/// The key of `table` that `wanted` (lower case, with `_` for `-` and `.`) means.
fn pick(table: &Table, wanted: &str) -> Result<Option<String>, String> {
    if table.contains_key(wanted) {
        return Ok(Some(wanted.to_owned()));
    }
    let spelled = |key: &&String| key.to_ascii_lowercase().replace(['-', '.'], "_") == wanted;
    let found: Vec<_> = table.keys().filter(spelled).collect();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some((*one).clone())),
        [one, other, ..] => Err(format!("may mean {one} or {other}: set it in the file")),
    }
}

fn table_at<'t>(tree: &'t Table, path: &[&str]) -> Option<&'t Table> {
    path.iter().try_fold(tree, |table, name| match &table.get(*name)?.value {
        Value::Table(inner) => Some(inner),
        _ => None,
    })
}

/// A tree with one value in it.
fn nest(path: &[String], setting: Setting) -> Table {
    let source = setting.source.clone();
    let wrap = |inner: Setting, name: &String| Setting {
        value: Value::Table(Table::from([(name.clone(), inner)])),
        source: source.clone(),
    };
    match path.iter().rev().fold(setting, wrap).value {
        Value::Table(table) => table,
        _ => Table::new(),
    }
}

/// Tables are joined key by key; anything else is replaced.
fn lay_over(below: &mut Table, above: Table) {
    for (name, setting) in above {
        match (below.get_mut(&name).map(|below| &mut below.value), setting) {
            (Some(Value::Table(inner)), Setting { value: Value::Table(table), .. }) => {
                lay_over(inner, table);
            }
            (_, setting) => {
                below.insert(name, setting);
            }
        }
    }
}

/// Kubernetes gives every container variables for each service of its namespace: one called
/// `roundtrip` or `roundtrip-…` has names that look like ours.
pub(super) fn is_service_link(name: &str) -> bool {
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_');
    ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT", "_TCP", "_UDP"]
        .iter()
        .any(|end| name.ends_with(end))
        || name.contains("_SERVICE_PORT_")
        || ["_TCP_ADDR", "_TCP_PORT", "_TCP_PROTO"].iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::tree::parse;

    /// The values after the merge, as `path=text`, and the problems.
    fn merged(file: &str, variables: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let mut tree = parse(file, Path::new("f")).ok().unwrap();
        assert_eq!(properties::flatten(&mut tree), []);
        let variables = variables.iter().map(|(n, t)| ((*n).to_owned(), (*t).to_owned()));
        let problems = merge(&mut tree, variables);
        let mut found = Vec::new();
        list(&KeyPath::default(), &tree, &mut found);
        (found, problems.iter().map(ToString::to_string).collect())
    }

    fn list(path: &KeyPath, table: &Table, found: &mut Vec<String>) {
        for (name, setting) in table {
            let path = path.child(name);
            match &setting.value {
                Value::Table(table) => list(&path, table, found),
                Value::Text(text) => found.push(format!("{path}={text}")),
                Value::Scalar(scalar) => found.push(format!("{path}={}", scalar.text)),
                Value::List(items) => found.push(format!("{path}=[{}]", items.len())),
            }
        }
    }

    #[test]
    fn names_levels_by_two_underscores() {
        let (found, problems) = merged(
            "node_id = 'a'\nkafka.group_id = 'g'",
            &[("ROUNDTRIP_KAFKA__BOOTSTRAP_SERVERS", "b:9092"), ("ROUNDTRIP_NODE_ID", "gw")],
        );
        assert_eq!(found, ["kafka.bootstrap_servers=b:9092", "kafka.group_id=g", "node_id=gw"]);
        assert_eq!(problems, [""; 0]);
    }

    #[test]
    fn leaves_other_variables_alone() {
        assert_eq!(merged("", &[("PATH", "/bin"), ("roundtrip_x", "1")]), (vec![], vec![]));
    }

    #[test]
    fn finds_the_files_spelling_of_a_service() {
        let (found, problems) = merged(
            "[services.My-Service]\n[services.other]",
            &[
                ("ROUNDTRIP_SERVICES__MY_SERVICE__TIMEOUT", "5s"),
                ("ROUNDTRIP_SERVICES__NEW_ONE__TIMEOUT", "6s"),
            ],
        );
        assert_eq!(found, ["services.My-Service.timeout=5s", "services.new_one.timeout=6s"]);
        assert_eq!(problems, [""; 0]);
    }

    #[test]
    fn refuses_to_guess_between_two_services() {
        let file = "[services.a-b]\n[services.'a.b']";
        let (_, problems) = merged(file, &[("ROUNDTRIP_SERVICES__A_B__TIMEOUT", "5s")]);
        assert_eq!(
            problems,
            ["services.a_b.timeout: may mean a-b or a.b: set it in the file \
              (ROUNDTRIP_SERVICES__A_B__TIMEOUT)"]
        );
        let (found, _) =
            merged("[services.a-b]\n[services.a_b]", &[("ROUNDTRIP_SERVICES__A_B__TIMEOUT", "5s")]);
        assert_eq!(found, ["services.a_b.timeout=5s"]);
    }

    #[test]
    fn turns_underscores_of_properties_into_dots() {
        let (found, problems) = merged(
            "[kafka.properties]\nsasl.username = 'u'\n'odd_name.x' = 'file'",
            &[
                ("ROUNDTRIP_KAFKA__PROPERTIES__SECURITY_PROTOCOL", "SSL"),
                ("ROUNDTRIP_KAFKA__PROPERTIES__SASL_USERNAME", "v"),
                ("ROUNDTRIP_KAFKA__PROPERTIES__LOG_LEVEL", "7"),
                ("ROUNDTRIP_KAFKA__PROPERTIES__ODD_NAME_X", "variable"),
            ],
        );
        assert_eq!(
            found,
            [
                "kafka.properties.log_level=7",
                "kafka.properties.\"odd_name.x\"=variable",
                "kafka.properties.\"sasl.username\"=v",
                "kafka.properties.\"security.protocol\"=SSL",
            ]
        );
        assert_eq!(problems, [""; 0]);
    }

    #[test]
    fn a_property_is_a_string_whatever_it_looks_like() {
        for text in ["{a=1}", "{ a = 'b' }", "[1, 2]", "['a']", "{}", "[]", "{a=", "true", "1_0"] {
            let variable = ("ROUNDTRIP_KAFKA__PROPERTIES__CLIENT_ID", text);
            let (found, problems) = merged("", &[variable]);
            assert_eq!(found, [format!("kafka.properties.\"client.id\"={text}")]);
            assert_eq!(problems, [""; 0]);
        }
        // As everywhere, a text may come with its quotes.
        let (found, _) = merged("", &[("ROUNDTRIP_KAFKA__PROPERTIES__CLIENT_ID", "\"{a=1}\"")]);
        assert_eq!(found, ["kafka.properties.\"client.id\"={a=1}"]);
    }

    #[test]
    fn takes_whole_tables_first_and_their_keys_after() {
        let (found, problems) = merged(
            "kafka.group_id = 'file'\nkafka.reply_topic = 'file'",
            &[
                ("ROUNDTRIP_KAFKA__GROUP_ID", "key"),
                ("ROUNDTRIP_KAFKA", "{ group_id = 'table', properties = { a.b = 1 } }"),
            ],
        );
        assert_eq!(
            found,
            ["kafka.group_id=key", "kafka.properties.\"a.b\"=1", "kafka.reply_topic=file"]
        );
        assert_eq!(problems, [""; 0]);
    }

    #[test]
    fn reports_two_variables_for_one_key_and_what_is_not_utf8() {
        let (_, problems) = merged(
            "",
            &[
                ("ROUNDTRIP_NODE_ID", "a"),
                ("ROUNDTRIP_node_id", "b"),
                ("ROUNDTRIP_LOG__FORMAT", "te\u{FFFD}t"),
            ],
        );
        assert_eq!(
            problems,
            [
                "node_id: set by ROUNDTRIP_NODE_ID as well (ROUNDTRIP_node_id)",
                "log.format: not UTF-8 (ROUNDTRIP_LOG__FORMAT)",
            ]
        );
    }

    #[test]
    fn knows_a_service_link() {
        for name in [
            "ROUNDTRIP_SERVICE_HOST",
            "ROUNDTRIP_SERVICE_PORT_HTTP",
            "ROUNDTRIP_PORT",
            "ROUNDTRIP_PORT_8080_TCP",
            "ROUNDTRIP_PORT_8080_TCP_ADDR",
        ] {
            assert!(is_service_link(name), "{name}");
        }
        assert!(!is_service_link("ROUNDTRIP_NODE"));
    }
}
