//! The options of one backend service.

use std::time::Duration;

use super::{
    super::{
        Dialect, RespondOnConfig, ServiceConfig, ViewConfig, checks,
        kinds::{Flag, List, Period, Text, Word},
        reader::{Preset, Section},
    },
    HOUR,
};

const DAY: u64 = 24 * HOUR;

pub(in crate::config) const GONE_WITHIN_DEFAULT: Duration = Duration::from_millis(DAY);

pub(super) fn service(section: &mut Section<'_>) -> ServiceConfig {
    const PERIOD: Period = Period { ms_min: 1, ms_max: DAY };
    ServiceConfig {
        request_topic: section.required(
            "request_topic",
            &Text { name: "topic name", check: checks::topic },
            "Topic on which the service reads requests. Services may share one; it is never the \
             reply topic. Topics whose names differ only in `.` and `_` are one to Kafka, and \
             refused.",
        ),
        timeout: section.defaulted(
            "timeout",
            &PERIOD,
            Duration::from_secs(5),
            "How long a request waits for its reply when the client does not say. Then it is \
             answered with `timeout`, counted by \
             `roundtrip_requests_total{outcome=\"timeout\"}`.",
        ),
        timeout_max: section.defaulted(
            "timeout_max",
            &PERIOD,
            Duration::from_secs(60),
            "The longest wait a client may ask for; more is cut to this. Not under `timeout`. Also the \
             longest that a streamed reply may take in all.",
        ),
        stream_idle_timeout: section.defaulted(
            "stream_idle_timeout",
            &PERIOD,
            Duration::from_secs(10),
            "How long the next part of a streamed reply may take, once the first has come. Then the \
             request is answered with `timeout`.",
        ),
        dialect: section.defaulted(
            "dialect",
            &Word(&[
                ("plain", Dialect::Plain),
                ("spring", Dialect::Spring),
                ("spring-binary", Dialect::SpringBinary),
                ("nest", Dialect::Nest),
            ]),
            Dialect::Plain,
            "Which framework's headers the service wants beside ours: none, Spring Kafka's \
             (`spring-binary`: with a correlation id of 16 raw bytes) or NestJS's.",
        ),
        allowed_headers: section.defaulted(
            "allowed_headers",
            &List(Text { name: "header name", check: checks::header }),
            Vec::new(),
            "Headers that pass between client and service, both ways; others are dropped. \
             `content-type` passes both ways without being listed, `traceparent` and `tracestate` \
             pass to the service. \
             Names are compared in lower case. \
             Refused are those beginning with `roundtrip-` or `kafka_`, and those that belong to \
             one connection, such as `content-length`.",
        ),
        dead_letter_topic: section.option(
            "dead_letter_topic",
            &Text { name: "topic name", check: checks::topic },
            Preset::Absent("none"),
            "Topic to which the service's framework writes the requests that it gives up, with their \
             headers. Each ends with `service_error` (502) and the exception's message. Services may \
             share one; it is no request topic and not the reply topic. It is read by a consumer \
             group of its own, `<kafka.group_id>.<topic>`.",
        ),
        deletable: deletable(section),
        gone_within: gone_within(section),
        respond_on: respond_on(section),
    }
}

/// The names of its options.
pub(in crate::config) const RESPOND_ON: [&str; 3] = ["view", "key", "until"];

fn respond_on(section: &mut Section<'_>) -> Option<RespondOnConfig> {
    let help = "If it is there, the service's requests get no reply record: each is answered with the \
                event that brings its entity into one of these states. All three are needed.";
    section.section("respond_on", help, |section| {
        let view = section.option(
            RESPOND_ON[0],
            &Text { name: "string", check: checks::text },
            Preset::Absent("none"),
            "The view whose events answer: one of `[views]`.",
        );
        let key = section.option(
            RESPOND_ON[1],
            &Text { name: "JSON pointer", check: checks::pointer },
            Preset::Absent("none"),
            "Where the request's payload has the key of the entity. A request without one is a \
             `bad_request`.",
        );
        let until = section.option(
            RESPOND_ON[2],
            &List(Text { name: "state", check: checks::state }),
            Preset::Absent("none"),
            "The states, any of which answers the request.",
        );
        let is_any = view.is_some() || key.is_some() || until.is_some();
        is_any.then(|| RespondOnConfig {
            view: view.unwrap_or_default(),
            key: key.unwrap_or_default(),
            until: until.unwrap_or_default(),
        })
    })
}

pub(super) fn view(section: &mut Section<'_>) -> ViewConfig {
    ViewConfig {
        topic: section.required(
            "topic",
            &Text { name: "topic name", check: checks::topic },
            "Topic of the events, keyed by the entities that they are about. It is best compacted: a \
             view is built from it anew when Redis has lost it, and once in three days. It is \
             read by a consumer group of its own, `<kafka.group_id>.view.<name>`.",
        ),
        state: section.defaulted(
            "state",
            &Text { name: "JSON pointer", check: checks::pointer },
            "/state".to_owned(),
            "Where an event has the state of its entity: a string, a number or a boolean.",
        ),
    }
}

fn deletable(section: &mut Section<'_>) -> bool {
    section.defaulted(
        "deletable",
        &Flag,
        false,
        "Whether a single request can be deleted from the topic, which has to be compacted: \
         `roundtrip topics` creates it so. Each record gets a key of its own then, which its \
         readers have to expect: see \
         [deletable messages](PROTOCOL.md#deletable-messages). Services that share a topic \
         have the same here.",
    )
}

fn gone_within(section: &mut Section<'_>) -> Duration {
    section.defaulted(
        "gone_within",
        &Period { ms_min: 10_000, ms_max: 365 * DAY },
        GONE_WITHIN_DEFAULT,
        "How long after its deletion a message may still be on a disk of Kafka's. The settings \
         of the topic follow from it: a short time makes Kafka compact the topic often. Under 4 \
         minutes the brokers need a shorter `log.cleaner.backoff.ms` than their 15 s: `topics` \
         looks at it. Without effect unless `deletable`.",
    )
}
