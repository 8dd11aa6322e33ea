//! Creates topics and compares those that exist with what they should be. Changes none that exists:
//! more partitions would move keys, and a configuration may be somebody's decision.

mod cleaner;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rdkafka::{
    ClientContext,
    admin::{
        AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier,
        ResourceSpecifier, TopicReplication,
    },
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    metadata::MetadataTopic,
};

use super::{KafkaSettings, StartError, log::ClientLog};

pub use cleaner::slow_cleaners;

/// How long the cluster has for its first answer: whoever waits for it is in front of a terminal.
const ANSWER_PATIENCE: Duration = Duration::from_secs(4);

/// How long it has for each question once it has answered.
const PATIENCE: Duration = Duration::from_secs(15);

/// How many events a client may deliver before the attempt is given up.
const COMPLAINTS_MAX: usize = 100;

/// Kafka's word for "the broker's default".
const BROKER_DEFAULT: i32 = -1;

/// What a topic should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicSpec {
    /// Topic name.
    pub name: String,
    /// Number of partitions; `None`: the broker's default, and any number where it exists.
    pub partitions: Option<i32>,
    /// Replicas of each partition; `None`: the broker's default, and any number where it exists.
    pub replication: Option<i32>,
    /// Topic configuration, such as `cleanup.policy`; what is not named may be anything.
    pub config: Vec<(String, String)>,
}

/// What has become of a [`TopicSpec`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicOutcome {
    /// Topic name.
    pub name: String,
    /// What was done, or with a dry run, what would be done.
    pub result: TopicResult,
}

/// See [`TopicOutcome`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicResult {
    /// It was not there, and now it is.
    Created,
    /// It is not there, and the broker would create it.
    WouldCreate,
    /// It is there, and was left as it is.
    Exists {
        /// One sentence for each difference from what it should be.
        differences: Vec<String>,
    },
    /// The broker refused, or did not answer.
    Failed(String),
}

impl TopicResult {
    /// The topic is there, and nothing of it differs.
    pub const fn is_as_configured(&self) -> bool {
        match self {
            Self::Exists { differences } => differences.is_empty(),
            Self::Created => true,
            Self::WouldCreate | Self::Failed(_) => false,
        }
    }
}

/// Creates those of the topics that do not exist; with `dry_run` it only asks the broker whether it
/// would. The outcomes are in the order of `specs`.
///
/// # Errors
/// The client cannot be set up, or the cluster does not answer at all.
pub async fn create_topics(
    settings: &KafkaSettings,
    specs: &[TopicSpec],
    dry_run: bool,
) -> Result<Vec<TopicOutcome>, AdminError> {
    let existing = existing_topics(settings, AdminContext::new(false)).await?;
    let admin = administer(settings)?;
    let mut outcomes = Vec::with_capacity(specs.len());
    for spec in specs {
        let result = match existing.get(&spec.name) {
            Some(topic) => {
                let name = OwnedResourceSpecifier::Topic(spec.name.clone());
                match configuration(&admin, name).await {
                    Ok(config) => {
                        TopicResult::Exists { differences: differences(spec, topic, &config) }
                    }
                    Err(error) => TopicResult::Failed(error.to_string()),
                }
            }
            None => create(&admin, spec, dry_run).await,
        };
        outcomes.push(TopicOutcome { name: spec.name.clone(), result });
    }
    Ok(outcomes)
}

/// Which of these topics do not exist.
///
/// # Errors
/// The client cannot be set up, or the cluster does not answer.
pub async fn missing_topics(
    settings: &KafkaSettings,
    names: &BTreeSet<String>,
) -> Result<Vec<String>, AdminError> {
    // The node's other clients log what is wrong with the cluster.
    let existing = existing_topics(settings, AdminContext::new(true)).await?;
    Ok(names.iter().filter(|name| !existing.contains_key(*name)).cloned().collect())
}

/// Why nothing could be said about any topic.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AdminError {
    /// No client can be made.
    #[error(transparent)]
    Client(#[from] StartError),
    /// No broker has answered: which, and why.
    #[error("kafka cannot be reached: {0}")]
    Unreachable(String),
}

type Admin = AdminClient<AdminContext>;
type Asking = BaseConsumer<AdminContext>;

struct AdminContext {
    log: ClientLog,
    /// Other clients log what is wrong with the cluster.
    quiet: bool,
}

impl AdminContext {
    fn new(quiet: bool) -> Self {
        Self { log: ClientLog::new("topics".to_owned()), quiet }
    }
}

impl ClientContext for AdminContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if !self.quiet {
            self.log.line(level, facility, message);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if !self.quiet {
            self.log.error(&error, reason);
        }
    }
}

impl ConsumerContext for AdminContext {}

/// What a topic has, as the metadata tells it.
#[derive(Clone, Copy, Debug)]
struct Shape {
    partitions: usize,
    /// Of the partition that has the fewest.
    replicas: usize,
}

impl Shape {
    fn of(topic: &MetadataTopic) -> Self {
        let partitions = topic.partitions();
        let replicas = partitions.iter().map(|partition| partition.replicas().len()).min();
        Self { partitions: partitions.len(), replicas: replicas.unwrap_or(0) }
    }
}

fn administer(settings: &KafkaSettings) -> Result<Admin, StartError> {
    let config = settings.client_config(&[], &[]);
    Ok(AdminClient::from_config_and_context(&config, AdminContext::new(false))?)
}

/// All topics that there are.
async fn existing_topics(
    settings: &KafkaSettings,
    context: AdminContext,
) -> Result<BTreeMap<String, Shape>, AdminError> {
    let topics = |asking: &Asking| {
        let metadata = asking.fetch_metadata(None, ANSWER_PATIENCE)?;
        let topics = metadata.topics().iter();
        Ok(topics.map(|topic| (topic.name().to_owned(), Shape::of(topic))).collect())
    };
    ask(settings, context, topics).await
}

/// Asks the cluster by a client which hears why it gets no answer: one for administration hands over
/// nothing but answers.
async fn ask<T: Send + 'static>(
    settings: &KafkaSettings,
    context: AdminContext,
    question: impl FnOnce(&Asking) -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, AdminError> {
    let config = settings.client_config(&[], &[]);
    let asking: Asking = config.create_with_context(context).map_err(StartError)?;
    let look = move || question(&asking).map_err(|error| (error, hear_why(&asking)));
    let found = tokio::task::spawn_blocking(look).await;
    found.unwrap_or(Err((KafkaError::Canceled, None))).map_err(|(error, why)| {
        let silence = || format!("no answer from {}: {error}", settings.bootstrap_servers);
        AdminError::Unreachable(why.unwrap_or_else(silence))
    })
}

/// Why a client gets no answer, by the events that it has left.
fn hear_why(client: &Asking) -> Option<String> {
    for _ in 0..COMPLAINTS_MAX {
        drop(client.poll(Duration::ZERO));
        if let Some(why) = client.context().log.disconnected() {
            return Some(why);
        }
    }
    None
}

async fn configuration(
    admin: &Admin,
    wanted: OwnedResourceSpecifier,
) -> Result<BTreeMap<String, String>, KafkaError> {
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    let asked = match &wanted {
        OwnedResourceSpecifier::Topic(name) => ResourceSpecifier::Topic(name),
        OwnedResourceSpecifier::Group(name) => ResourceSpecifier::Group(name),
        OwnedResourceSpecifier::Broker(id) => ResourceSpecifier::Broker(*id),
    };
    let resources = admin.describe_configs(&[asked], &options).await?;
    for resource in resources {
        let ConfigResource { specifier, entries } = resource.map_err(KafkaError::AdminOp)?;
        if specifier == wanted {
            let values = entries.into_iter().map(|e| (e.name, e.value.unwrap_or_default()));
            return Ok(values.collect());
        }
    }
    Ok(BTreeMap::new())
}

async fn create(admin: &Admin, spec: &TopicSpec, dry_run: bool) -> TopicResult {
    let topic = NewTopic {
        name: &spec.name,
        num_partitions: spec.partitions.unwrap_or(BROKER_DEFAULT),
        replication: TopicReplication::Fixed(spec.replication.unwrap_or(BROKER_DEFAULT)),
        config: spec.config.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
    };
    let options = AdminOptions::new()
        .request_timeout(Some(PATIENCE))
        .operation_timeout(Some(PATIENCE))
        .validate_only(dry_run);
    match admin.create_topics([&topic], &options).await {
        Ok(results) => match results.into_iter().next() {
            Some(Ok(_)) if dry_run => TopicResult::WouldCreate,
            Some(Ok(_)) => TopicResult::Created,
            // Somebody else has created it meanwhile, perhaps another node's deployment.
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {
                TopicResult::Exists { differences: Vec::new() }
            }
            Some(Err((_, code))) => TopicResult::Failed(code.to_string()),
            None => TopicResult::Failed("the broker said nothing about it".to_owned()),
        },
        Err(error) => TopicResult::Failed(error.to_string()),
    }
}

/// In what a topic is not what it should be, one sentence each.
fn differences(spec: &TopicSpec, is: &Shape, config: &BTreeMap<String, String>) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, is: &str, should: &str| {
        if is != should {
            differences.push(format!("{what} is {is}, should be {should}"));
        }
    };
    if let Some(partitions) = spec.partitions {
        compare("number of partitions", &is.partitions.to_string(), &partitions.to_string());
    }
    if let Some(replication) = spec.replication {
        compare("replication factor", &is.replicas.to_string(), &replication.to_string());
    }
    for (key, should) in &spec.config {
        compare(key, config.get(key).map_or("unknown to the broker", String::as_str), should);
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_can_differ() {
        let is = Shape { partitions: 6, replicas: 1 };
        let config = BTreeMap::from([
            ("cleanup.policy".to_owned(), "delete".to_owned()),
            ("segment.ms".to_owned(), "1000".to_owned()),
        ]);
        let mut spec = TopicSpec { name: "replies".to_owned(), ..TopicSpec::default() };
        assert_eq!(differences(&spec, &is, &config), [""; 0]);
        spec.partitions = Some(12);
        spec.replication = Some(1);
        spec.config = vec![
            ("cleanup.policy".to_owned(), "compact".to_owned()),
            ("segment.ms".to_owned(), "1000".to_owned()),
            ("made.up".to_owned(), "1".to_owned()),
        ];
        assert_eq!(
            differences(&spec, &is, &config),
            [
                "number of partitions is 6, should be 12",
                "cleanup.policy is delete, should be compact",
                "made.up is unknown to the broker, should be 1",
            ]
        );
    }
}
