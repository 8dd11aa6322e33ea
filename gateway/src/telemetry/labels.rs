//! The label sets of the metrics, and the values that are known beforehand. Whoever counts under a
//! new value puts it here, into PROTOCOL.md's table, and nowhere else.

use prometheus_client::encoding::EncodeLabelSet;

/// What `roundtrip_limit_hits_total` counts.
pub(super) const LIMITS: &[&str] = &[
    "connections_max",
    "descriptors",
    "frame_bytes_max",
    "in_flight_max",
    "in_flight_per_connection_max",
    "mailbox_bytes_max",
    "mailbox_frames_max",
    "message_bytes_max",
    "outbox_bytes_max",
    "stream_bytes_max",
    "peer_queue",
    "producer_queue",
    "requests_per_second_max",
    "response_bytes_max",
    "window",
    "window_node",
];

/// The statuses of requests that no route has seen.
pub(super) const HTTP_REFUSALS: &[u16] = &[400, 405, 408, 414, 417, 431, 501, 503, 505];

/// Why answers are given up.
pub(super) const FRAMES_ABANDONED: &[&str] = &[
    "mailbox_full",
    "node_lost",
    "node_stopped",
    "not_handled",
    "not_resumable",
    "session_ended",
    "window_over",
];

/// Why a record of the reply topic is no reply.
pub(super) const RECORDS_SKIPPED: &[&str] =
    &["malformed_correlation", "too_large", "uncorrelated", "without_key"];

/// The calls of the registry.
pub(super) const OPERATIONS: &[&str] = &[
    "announce",
    "back_up",
    "begin_waits",
    "claim",
    "find_latest",
    "find_marks",
    "expect_results",
    "find_results",
    "find_routes",
    "find_sessions",
    "forget_waits",
    "put_marks",
    "put_routes",
    "record",
    "remove_routes",
    "write_events",
    "store_results",
];

/// What comes of forwarding.
pub(super) const FORWARDS: &[&str] = &["delivered", "failed", "unknown"];

/// What keeps a batch of records from being read.
pub(super) const CONSUMER_ERRORS: [&str; 5] =
    ["corrupt", "too_large", "undecodable", "unsupported", "stalled"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) service: String,
    pub(super) edge: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StageLabels {
    pub(super) service: String,
    pub(super) stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ServiceLabels {
    pub(super) service: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReplyLabels {
    pub(super) service: String,
    pub(super) way: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ForwardLabels {
    pub(super) peer: String,
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LimitLabels {
    pub(super) limit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StatusLabels {
    pub(super) status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct EntryLabels {
    pub(super) entry: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabels {
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ResultLabels {
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StateLabels {
    pub(super) state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OperationLabels {
    pub(super) operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PartitionLabels {
    pub(super) topic: String,
    pub(super) partition: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CloseLabels {
    pub(super) code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ConsumerErrorLabels {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) reason: &'static str,
}
