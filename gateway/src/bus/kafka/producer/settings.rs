//! What a producer is configured with.

use rdkafka::ClientConfig;

use super::{super::KafkaSettings, lanes::Limits};

const QUEUE_RECORDS: &str = "queue.buffering.max.messages";
const QUEUE_KBYTES: &str = "queue.buffering.max.kbytes";
const RECORD_BYTES: &str = "message.max.bytes";

/// What a producer begins with; see `CONFIGURATION.md` of librdkafka for the names.
const DEFAULTS: &[(&str, &str)] = &[
    // A request waits for nobody: at low rates each is sent alone, under load librdkafka batches
    // what has piled up behind the requests in flight. At 1,000 requests a second a millisecond
    // took the median from 0.7 to 2.8 ms and saved a seventh of the CPU.
    ("linger.ms", "0"),
    ("compression.codec", "none"),
    // A request carries one partition's batch, so with fewer in flight the partitions of a broker
    // wait for each other: 12 partitions at a round trip of 5 ms took 51 ms with 1, 6 ms with 5.
    ("max.in.flight.requests.per.connection", "5"),
    // The back-pressure: full after 100,000 records or 128 MiB. What is kept back counts as well,
    // the bytes for themselves.
    (QUEUE_RECORDS, "100000"),
    (QUEUE_KBYTES, "131072"),
    // librdkafka's own default.
    (RECORD_BYTES, "1000000"),
    // Later than this nobody waits for the reply any more.
    ("message.timeout.ms", "10000"),
    // Shorter than a request's usual time-out, so that a missing topic is told as what it is.
    ("topic.metadata.propagation.max.ms", "2000"),
];

/// What the user cannot change: the guarantees of [`Producer`] rest on it, unless said otherwise.
const FIXED: &[(&str, &str)] = &[
    ("acks", "all"),
    ("enable.idempotence", "true"),
    // The partition is chosen by `partitioning`, which goes before any `partitioner`.
    // Else a broker is connected to only once there is something to send to it, which a partition that is
    // paused has not: it would wait for a connection, and the connection for it.
    ("enable.sparse.connections", "false"),
    // Nobody reads a producer's; `kafka.properties` may ask for the consumer's more often.
    ("statistics.interval.ms", "0"),
];

pub(super) fn config(settings: &KafkaSettings) -> ClientConfig {
    settings.client_config(DEFAULTS, FIXED)
}

/// How many records a producer takes, and what its lanes may keep back.
pub(super) fn limits(config: &ClientConfig) -> (usize, Limits) {
    let limit = |key| config.get(key).and_then(|value| value.parse().ok()).unwrap_or(usize::MAX);
    let lanes = Limits {
        bytes_max: limit(QUEUE_KBYTES).saturating_mul(1024),
        record_bytes_max: limit(RECORD_BYTES),
    };
    (limit(QUEUE_RECORDS), lanes)
}
