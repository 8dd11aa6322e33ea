//! The options of the broker and of our topics.

use super::super::{
    IsolationLevel, KafkaConfig, checks,
    kinds::{Count, Text, Word},
    places,
    reader::{Preset, Section},
};

pub(super) fn kafka(section: &mut Section<'_>) -> KafkaConfig {
    section.accept_unused(&["push_topic"]);
    const TOPIC: Text = Text { name: "topic name", check: checks::topic };
    KafkaConfig {
        bootstrap_servers: section.required(
            "bootstrap_servers",
            &Text { name: "`host:port`, several with commas", check: places::bootstrap_servers },
            "Brokers to begin with; the others are found through them.",
        ),
        reply_topic: section.defaulted(
            "reply_topic",
            &TOPIC,
            "roundtrip.replies".to_owned(),
            "Topic on which services answer. Read by all nodes, which share its partitions.",
        ),
        group_id: section.defaulted(
            "group_id",
            &Text { name: "string", check: checks::group_id },
            "roundtrip".to_owned(),
            "Consumer group of the cluster: the same on all its nodes, and no other cluster's.",
        ),
        isolation_level: section.defaulted(
            "isolation_level",
            &Word(&[
                ("read_committed", IsolationLevel::ReadCommitted),
                ("read_uncommitted", IsolationLevel::ReadUncommitted),
            ]),
            IsolationLevel::ReadCommitted,
            "Which replies of services that answer in transactions are read. `read_committed`: \
             those of committed transactions; while a transaction is open on a partition, all \
             later replies on it wait. `read_uncommitted`: all at once, those of transactions \
             that are aborted later as well.",
        ),
        reply_partitions: section.defaulted(
            "reply_partitions",
            &Count { min: 1, max: 10_000 },
            12,
            "How many partitions `roundtrip topics` gives the reply topic. A good number is four \
             times the nodes there will be. A topic that exists keeps what it has.",
        ),
        replication_factor: section.option(
            "replication_factor",
            &Count { min: 1, max: 32_767 },
            Preset::Absent("the broker's default"),
            "How many replicas `roundtrip topics` gives the topics it creates.",
        ),
        properties: section.properties(
            "properties",
            "Handed to librdkafka as they are, over our own settings; see its `CONFIGURATION.md`. \
             A dot needs no quotes here. Some are refused, see below. Not shown are values whose name has `password`, `secret`, \
             `token` or `key` in it.",
        ),
    }
}
