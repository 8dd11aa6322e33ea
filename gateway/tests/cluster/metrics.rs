//! What a fresh node shows to Prometheus, against the table in PROTOCOL.md.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::{Cluster, eventually};

const PAGE: &str = include_str!("../../PROTOCOL.md");

/// A row of the table.
struct Row {
    kind: String,
    labels: BTreeSet<String>,
    /// Every word in backticks of its description.
    words: BTreeSet<String>,
}

fn in_backticks(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The table by the metrics' names.
fn documented() -> BTreeMap<String, Row> {
    let section = PAGE.split("\n## Metrics\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, text] = cells[..] else { panic!("not four cells: {line}") };
        let (labels, words) = (in_backticks(labels), in_backticks(text));
        (name.trim_matches('`').to_owned(), Row { kind: kind.to_owned(), labels, words })
    };
    section.lines().filter(|line| line.starts_with("| `roundtrip_")).map(row).collect()
}

/// A line of the scrape: name, labels, value.
type Sample = (String, BTreeMap<String, String>, f64);

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
    let labels = labels.map(|label| {
        let (label, value) = label.split_once('=').unwrap();
        (label.to_owned(), value.trim_matches('"').to_owned())
    });
    (name.to_owned(), labels.collect(), value.parse().unwrap())
}

/// What kind of metric the scrape says there is, by the names that its series have.
fn scraped_kinds(text: &str) -> BTreeMap<String, String> {
    let kind = |line: &str| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        let end = if kind == "counter" { "_total" } else { "" };
        Some((format!("{name}{end}"), kind.to_owned()))
    };
    text.lines().filter_map(kind).collect()
}

async fn scrape(cluster: &Cluster) -> String {
    let (status, body) = cluster.get(cluster.internal[0], "/metrics").await;
    assert_eq!(status, 200);
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn a_fresh_node_shows_every_metric_of_the_contract_at_zero() {
    let cluster = Cluster::start(2).await;
    // The first node learns of the second one from the table, and reads its partitions.
    let text = eventually(async || {
        let text = scrape(&cluster).await;
        let is_whole = ["peer=", "consumer_lag{"].iter().all(|part| text.contains(part));
        is_whole.then_some(text)
    })
    .await;
    let documented = documented();
    let kinds: BTreeMap<_, _> =
        documented.iter().map(|(name, row)| (name.clone(), row.kind.clone())).collect();
    assert_eq!(scraped_kinds(&text), kinds, "the scrape and the table have the same metrics");

    let samples: Vec<Sample> =
        text.lines().filter(|line| !line.starts_with('#')).map(sample).collect();
    for (name, row) in &documented {
        let of = |sample: &&Sample| {
            sample.0 == *name || row.kind == "histogram" && sample.0 == format!("{name}_count")
        };
        let samples: Vec<&Sample> = samples.iter().filter(of).collect();
        assert!(!samples.is_empty(), "{name} has no series");
        let mut values = BTreeSet::new();
        for (_, labels, value) in samples {
            let names: BTreeSet<String> = labels.keys().cloned().collect();
            assert_eq!(names, row.labels, "the labels of {name}");
            values.extend(labels.values().cloned());
            let is_zero = *value == 0.0;
            assert!(is_zero || row.kind != "counter", "{name} {labels:?} is {value}");
        }
        // Both ways: what the table names is there, and what is there the page has a word for.
        for word in &row.words {
            let is_value = word.bytes().all(|b| b.is_ascii_lowercase() || b"_-".contains(&b));
            let is_there = values.contains(word) || row.labels.contains(word);
            assert!(!is_value || is_there, "{name} has no series for {word}");
        }
        let of_services = ["echo", "silent"];
        for value in values.iter().filter(|value| value.parse::<f64>().is_err()) {
            let is_name = value.starts_with("gw-") || value == "replies";
            assert!(
                is_name || of_services.contains(&&**value) || PAGE.contains(value.as_str()),
                "{name} has a series for {value}, of which PROTOCOL.md says nothing"
            );
        }
    }
    cluster.finish().await;
}
