//! The command `topics`, and which topics `serve` misses.

use std::{collections::BTreeSet, time::Duration};

use super::{Exit, say};
use crate::{
    app::kafka_settings,
    bus::kafka::{
        KafkaSettings,
        admin::{TopicOutcome, TopicResult, TopicSpec, create_topics, missing_topics},
    },
    config::Config,
};

/// How soon a cluster that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(5);

/// The topics that a configuration names.
pub(super) fn names(config: &Config) -> BTreeSet<String> {
    let requests = config.services.values().map(|service| service.request_topic.clone());
    let dead_letters = config.services.values().filter_map(|one| one.dead_letter_topic.clone());
    requests.chain(dead_letters).chain([config.kafka.reply_topic.clone()]).collect()
}

/// Tells the log of topics that do not exist, as soon as a broker answers.
pub(super) async fn name_missing(settings: KafkaSettings, names: BTreeSet<String>) {
    loop {
        match missing_topics(&settings, &names).await {
            Ok(missing) => {
                for topic in missing {
                    tracing::warn!(
                        topic,
                        "a configured topic does not exist: `roundtrip topics --config FILE` \
                         creates it"
                    );
                }
                return;
            }
            // Those who need the cluster tell of it.
            Err(error) => tracing::debug!(%error, "topics not looked at"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Creates what is missing and says what differs; with `check` it changes nothing, and either is a
/// failure.
pub(super) async fn run(config: &Config, dry_run: bool, check: bool) -> Result<(), Exit> {
    let replication = config.kafka.replication_factor;
    let reply_topic = &config.kafka.reply_topic;
    let spec = |name: String| TopicSpec {
        partitions: (name == *reply_topic).then_some(config.kafka.reply_partitions),
        name,
        replication,
        config: Vec::new(),
    };
    let specs: Vec<TopicSpec> = names(config).into_iter().map(spec).collect();
    let outcomes = create_topics(&kafka_settings(config), &specs, dry_run || check).await;
    let outcomes = outcomes.map_err(Exit::failed)?;
    let said = say(&outcomes.iter().map(described).collect::<String>());
    let any = |is: fn(&TopicResult) -> bool| outcomes.iter().any(|outcome| is(&outcome.result));
    if any(|result| matches!(result, TopicResult::Failed(_))) {
        return Err(Exit::failed("not every topic is there"));
    }
    match check && any(|result| !result.is_as_configured()) {
        true => Err(Exit::failed("not every topic is as configured")),
        false => said,
    }
}

fn described(TopicOutcome { name, result }: &TopicOutcome) -> String {
    match result {
        TopicResult::Created => format!("{name}: created\n"),
        TopicResult::WouldCreate => format!("{name}: would be created\n"),
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
