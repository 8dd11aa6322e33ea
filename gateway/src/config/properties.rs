//! `kafka.properties`: what is handed to librdkafka. Owns which names are refused, which values are
//! hidden, and the forms a dotted name may take.

use super::{
    keys::KeyPath,
    problems::Problem,
    tree::{Table, Value},
};

/// Names that would undo what the gateway promises, and what to do instead.
const REFUSED: [(&str, &str); 13] = [
    ("bootstrap.servers", "set kafka.bootstrap_servers instead"),
    ("metadata.broker.list", "set kafka.bootstrap_servers instead"),
    ("group.id", "set kafka.group_id instead"),
    ("enable.auto.commit", AFTER_HANDLING),
    ("auto.commit.enable", AFTER_HANDLING),
    ("enable.auto.offset.store", AFTER_HANDLING),
    ("auto.offset.reset", "replies are read from the beginning where no offset is stored"),
    ("isolation.level", "set kafka.isolation_level instead"),
    ("group.instance.id", "a node that leaves must give up its partitions at once"),
    ("transactional.id", "requests are not produced in transactions"),
    ("delivery.report.only.error", "every request waits for its delivery report"),
    ("enabled_events", "the gateway chooses the events it handles"),
    ("partitioner", "the gateway must know the partition of every key"),
];
const AFTER_HANDLING: &str = "an offset is stored only after its record is handled";

/// Names of librdkafka's that have an underscore; all others are dotted.
const UNDERSCORED: [&str; 2] = ["log_level", "enabled_events"];

/// Why a property may not be set, if so. Does not look at whether librdkafka knows it.
pub(super) fn refusal(name: &str, value: &str) -> Option<String> {
    let wanted = match name {
        "acks" | "request.required.acks" if !matches!(value, "all" | "-1") => "all",
        "enable.idempotence" if value != "true" => "true",
        _ => {
            let (_, why) = REFUSED.iter().find(|(refused, _)| *refused == name)?;
            return Some(format!("must not be set: {why}"));
        }
    };
    Some(format!("must stay {wanted}: a request is recorded once, by all in-sync replicas"))
}

/// Whether a property's value must not be shown.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "secret", "token", "key", "oauthbearer.config"].iter().any(|s| name.contains(s))
}

/// The property that an environment variable means by `name`, which is lower case and without
/// dots.
pub(super) fn name_of(name: &str) -> String {
    if UNDERSCORED.contains(&name) { name.to_owned() } else { name.replace('_', ".") }
}

/// Whether a key is that of a single property, and not of all of them.
pub(super) fn is_one(path: &[String]) -> bool {
    matches!(path, [section, table, _] if section == "kafka" && table == "properties")
}

/// The rows of the reference's table of refused properties.
pub(super) fn refusals() -> String {
    let only = [("acks", "only `all`"), ("enable.idempotence", "only `true`")];
    let rows = REFUSED.iter().chain(&only).map(|(name, why)| format!("| `{name}` | {why} |\n"));
    rows.collect()
}

/// Joins the names of `kafka.properties` again where a dot without quotes made tables of them:
/// `security.protocol = "SSL"` means what `"security.protocol" = "SSL"` does. Returns what was set
/// in both ways.
pub(super) fn flatten(tree: &mut Table) -> Vec<Problem> {
    let mut problems = Vec::new();
    let kafka = tree.get_mut("kafka").map(|kafka| &mut kafka.value);
    let properties = match kafka {
        Some(Value::Table(kafka)) => kafka.get_mut("properties").map(|found| &mut found.value),
        _ => None,
    };
    if let Some(Value::Table(table)) = properties {
        let nested = std::mem::take(table);
        join("", nested, table, &mut problems);
    }
    problems
}

fn join(prefix: &str, nested: Table, flat: &mut Table, problems: &mut Vec<Problem>) {
    for (name, setting) in nested {
        let name = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match setting.value {
            Value::Table(inner) if !inner.is_empty() => join(&name, inner, flat, problems),
            _ => {
                if flat.contains_key(&name) {
                    let key = KeyPath::from(["kafka", "properties", &name]).to_string();
                    let reason = "set twice, with quotes and without".to_owned();
                    problems.push(Problem { key, source: setting.source.clone(), reason });
                }
                flat.insert(name, setting);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_the_promises_depend_on() {
        for (name, value) in [
            ("group.id", "x"),
            ("bootstrap.servers", "x"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("acks", "1"),
            ("request.required.acks", "0"),
            ("enable.idempotence", "false"),
            ("partitioner", "random"),
        ] {
            assert!(refusal(name, value).is_some(), "{name}={value}");
        }
        for (name, value) in [
            ("acks", "all"),
            ("acks", "-1"),
            ("enable.idempotence", "true"),
            ("security.protocol", "SASL_SSL"),
        ] {
            assert_eq!(refusal(name, value), None, "{name}={value}");
        }
    }

    #[test]
    fn names_the_key_to_use_instead() {
        let why = refusal("group.id", "x").unwrap();
        assert_eq!(why, "must not be set: set kafka.group_id instead");
    }

    #[test]
    fn knows_secrets_by_name() {
        for name in ["sasl.password", "ssl.key.pem", "SSL.Keystore.Password", "x.token.y"] {
            assert!(is_secret(name), "{name}");
        }
        assert!(!is_secret("security.protocol"));
    }
}
