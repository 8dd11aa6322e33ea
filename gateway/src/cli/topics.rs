//! The command `topics`, and which topics `serve` misses.

use std::{collections::BTreeSet, time::Duration};

use super::{Exit, say};
use crate::{
    app::kafka_settings,
    bus::kafka::{
        KafkaSettings,
        admin::{
            TopicOutcome, TopicResult, TopicSpec, create_topics, missing_topics, slow_cleaners,
        },
    },
    config::Config,
    deletable::compaction::{Compaction, Setting},
};

/// How soon a cluster that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(5);

/// The topics that a configuration names.
fn names(config: &Config) -> BTreeSet<String> {
    let requests = config.services.values().map(|service| service.request_topic.clone());
    let dead_letters = config.services.values().filter_map(|one| one.dead_letter_topic.clone());
    let events = config.views.values().map(|view| view.topic.clone());
    requests.chain(dead_letters).chain(events).chain([config.kafka.reply_topic.clone()]).collect()
}

/// What all of these topics should be.
pub(super) fn specs(config: &Config) -> Vec<TopicSpec> {
    let replication = config.kafka.replication_factor;
    let reply_topic = &config.kafka.reply_topic;
    let spec = |name: String| TopicSpec {
        partitions: (name == *reply_topic).then_some(config.kafka.reply_partitions),
        config: settings(config, &name)
            .into_iter()
            .map(|one| (one.name.into(), one.value))
            .collect(),
        name,
        replication,
    };
    names(config).into_iter().map(spec).collect()
}

/// Tells the log of topics that do not exist, and of those that keep what is deleted, as soon as a
/// broker answers.
pub(super) async fn name_problems(settings: KafkaSettings, specs: Vec<TopicSpec>) {
    let names = specs.iter().map(|spec| spec.name.clone()).collect();
    loop {
        match missing_topics(&settings, &names).await {
            Ok(missing) => {
                let fit =
                    |spec: &TopicSpec| !spec.config.is_empty() && !missing.contains(&spec.name);
                let compacted: Vec<TopicSpec> = specs.into_iter().filter(fit).collect();
                for topic in missing {
                    tracing::warn!(
                        topic,
                        "a configured topic does not exist: `roundtrip topics --config FILE` \
                         creates it"
                    );
                }
                return name_unfit(&settings, &compacted).await;
            }
            // Those who need the cluster tell of it.
            Err(error) => tracing::debug!(%error, "topics not looked at"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Whoever deletes a message relies on how its topic is configured.
async fn name_unfit(settings: &KafkaSettings, specs: &[TopicSpec]) {
    if specs.is_empty() {
        return;
    }
    let outcomes = create_topics(settings, specs, true).await.unwrap_or_default();
    for TopicOutcome { name, result } in outcomes {
        if let TopicResult::Exists { differences } = result
            && !differences.is_empty()
        {
            let differences = differences.join("; ");
            tracing::warn!(
                topic = name,
                differences,
                "what is deleted from this topic may stay: `roundtrip topics --config FILE --check`"
            );
        }
    }
}

/// Creates what is missing and says what differs; with `check` it changes nothing, and either is a
/// failure.
pub(super) async fn run(config: &Config, dry_run: bool, check: bool) -> Result<(), Exit> {
    let outcomes = create_topics(&kafka_settings(config), &specs(config), dry_run || check).await;
    let outcomes = outcomes.map_err(Exit::failed)?;
    let slow = slow(config).await?;
    let one = |outcome| described(outcome, &settings(config, &outcome.name));
    let brokers = slow.iter().map(|line| format!("{line}\n"));
    let said = say(&outcomes.iter().map(one).chain(brokers).collect::<String>());
    let any = |is: fn(&TopicResult) -> bool| outcomes.iter().any(|outcome| is(&outcome.result));
    if any(|result| matches!(result, TopicResult::Failed(_))) {
        return Err(Exit::failed("not every topic is there"));
    }
    if check && any(|result| !result.is_as_configured()) {
        return Err(Exit::failed("not every topic is as configured"));
    }
    if check && !slow.is_empty() {
        return Err(Exit::failed("not every broker compacts as gone_within needs it"));
    }
    said
}

/// The brokers that compact too seldom for what is to be gone soonest.
async fn slow(config: &Config) -> Result<Vec<String>, Exit> {
    let times = config.services.values().filter_map(|service| service.deleted_within());
    let Some(shortest) = times.min() else { return Ok(Vec::new()) };
    let pause_max = Compaction::within(shortest).pause_max();
    slow_cleaners(&kafka_settings(config), pause_max).await.map_err(Exit::failed)
}

/// What a topic of which messages can be deleted has to be set to.
fn settings(config: &Config, topic: &str) -> Vec<Setting> {
    let mut services = config.services.values().filter(|service| service.request_topic == topic);
    let gone_within = services.find_map(|service| service.deleted_within());
    let settings = gone_within.map(|time| Compaction::within(time).settings().into());
    settings.unwrap_or_default()
}

fn described(TopicOutcome { name, result }: &TopicOutcome, settings: &[Setting]) -> String {
    let set = || -> String {
        let line = |Setting { name, value, why }: &Setting| format!("  {name}={value}: {why}\n");
        settings.iter().map(line).collect()
    };
    match result {
        TopicResult::Created => format!("{name}: created\n{}", set()),
        TopicResult::WouldCreate => format!("{name}: would be created\n{}", set()),
        TopicResult::Exists { differences } if differences.is_empty() => {
            format!("{name}: exists as configured\n")
        }
        TopicResult::Exists { differences } => {
            let lines: String = differences.iter().map(|line| format!("  {line}\n")).collect();
            format!("{name}: exists and differs\n{lines}")
        }
        TopicResult::Failed(why) => format!("{name}: failed: {why}\n"),
    }
}
