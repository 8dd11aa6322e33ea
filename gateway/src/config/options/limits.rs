//! The options that bound what one client and what one node may use up.

use std::time::Duration;

use super::{
    super::{
        LimitsConfig, SessionConfig,
        kinds::{Count, Period, Size},
        reader::Section,
    },
    HOUR,
};

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;

pub(super) fn session(section: &mut Section<'_>) -> SessionConfig {
    SessionConfig {
        ping_interval: section.defaulted(
            "ping_interval",
            &Period { ms_min: 100, ms_max: HOUR },
            Duration::from_secs(25),
            "Time between two WebSocket pings. Keep it under the idle time-out of every proxy on \
             the way.",
        ),
        pong_timeout: section.defaulted(
            "pong_timeout",
            &Period { ms_min: 100, ms_max: HOUR },
            Duration::from_secs(10),
            "How long a pong may take; later, the connection is closed with 4000.",
        ),
        outbox_bytes_max: section.defaulted(
            "outbox_bytes_max",
            &Size { bytes_max: 1024 * MIB },
            MIB as usize,
            "Bytes of frames that wait for a client that reads too slowly. Over it, the \
             connection is closed with 4001, counted by \
             `roundtrip_limit_hits_total{limit=\"outbox_bytes_max\"}`. One frame of any size \
             always fits an empty outbox.",
        ),
        resume_window: section.defaulted(
            "resume_window",
            &Period { ms_min: 100, ms_max: HOUR },
            Duration::from_secs(60),
            "How long a session lives without a connection: for as long its client may come back, \
             to any node, and gets all it has missed.",
        ),
        mailbox_bytes_max: section.defaulted(
            "mailbox_bytes_max",
            &Size { bytes_max: 1024 * MIB },
            MIB as usize,
            "Bytes of frames that a session may gather while it has no connection. Over it, the \
             session ends: its client is told `resumed:false` when it comes back.",
        ),
        mailbox_frames_max: section.defaulted(
            "mailbox_frames_max",
            &Count { min: 1, max: 1_000_000 },
            1000,
            "The same in frames.",
        ),
    }
}

pub(super) fn limits(section: &mut Section<'_>) -> LimitsConfig {
    const MANY: Count<usize> = Count { min: 1, max: 10_000_000 };
    LimitsConfig {
        message_bytes_max: section.defaulted(
            "message_bytes_max",
            &Size { bytes_max: 256 * MIB },
            (900 * KIB) as usize,
            "Bytes of one request's payload. Over it, the request is answered with `too_large`; \
             the connection stays. The default fits a broker with default settings.",
        ),
        frame_bytes_max: section.defaulted(
            "frame_bytes_max",
            &Size { bytes_max: 512 * MIB },
            (2 * MIB) as usize,
            "Bytes of one WebSocket message, however it is fragmented. Over it, the connection is \
             closed with 1009. Must be over `message_bytes_max`. A payload of that size in base64 \
             takes 4/3 of it, and the rest of the message has to fit as well.",
        ),
        requests_per_second_max: section.defaulted(
            "requests_per_second_max",
            &Count { min: 0, max: 1_000_000 },
            0,
            "Requests per second of one connection, with a burst of twice as many. Over it, a \
             request is answered with `rate_limited` and `retry_after_ms`. 0: no limit.",
        ),
        in_flight_per_connection_max: section.defaulted(
            "in_flight_per_connection_max",
            &MANY,
            256,
            "Requests of one connection that wait for their reply. Over it, a request is answered \
             with `overloaded`.",
        ),
        in_flight_max: section.defaulted(
            "in_flight_max",
            &MANY,
            100_000,
            "Requests of the whole node that wait for their reply. Over it, a request is answered \
             with `overloaded`.",
        ),
        connections_max: section.defaulted(
            "connections_max",
            &MANY,
            100_000,
            "Connections of the node. Over it, a handshake is refused with HTTP 503 and \
             `Retry-After`.",
        ),
        stream_bytes_max: section.defaulted(
            "stream_bytes_max",
            &Size { bytes_max: 1024 * MIB },
            (4 * MIB) as usize,
            "Bytes of parts of streamed replies that wait for one client (for one HTTP call). From half \
             of it on, what comes next of the stream waits in Kafka, for two seconds at most; a stream \
             whose client does not catch up ends with `overloaded`, counted by \
             `roundtrip_limit_hits_total{limit=\"stream_bytes_max\"}`. Also the most that an HTTP \
             caller gets as one JSON array.",
        ),
    }
}
