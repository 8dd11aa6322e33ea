//! The pings of one connection, and what their pongs prove. Plain state: sends nothing, and reads
//! no clock.
//!
//! A pong counts only as the answer to a ping of ours, whose payload it repeats (RFC 6455, section
//! 5.5.3): it comes from a client that has read the ping, and so all that was written before it. A
//! pong that nobody has asked for, as some clients send them to keep a connection open, proves
//! nothing of the kind.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

/// How many pings may wait for their pongs at a time: one after a welcome, one after the frames
/// that the client has missed, and one of the heartbeat.
const PINGS_MAX: usize = 3;

/// The pings without a pong, the oldest first.
#[derive(Debug)]
pub(super) struct Pings {
    out: VecDeque<Ping>,
    /// The next ping's payload: different from all others of this and of every other connection.
    next: u64,
    interval: Duration,
    patience: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Ping {
    payload: u64,
    at: Instant,
    /// The number of the last frame that was written before it.
    seq: u64,
}

impl Pings {
    /// Nothing has been sent. Pings go out every `interval`, and are answered within `patience`.
    pub(super) fn new(interval: Duration, patience: Duration) -> Self {
        Self { out: VecDeque::new(), next: rand::random(), interval, patience }
    }

    /// Whether a ping waits for its pong.
    pub(super) fn is_out(&self) -> bool {
        !self.out.is_empty()
    }

    /// The payload of the next ping, which goes out now, after the frame `seq`. `None` if enough
    /// pings wait already.
    pub(super) fn begin(&mut self, at: Instant, seq: u64) -> Option<Bytes> {
        if self.out.len() == PINGS_MAX {
            return None;
        }
        let payload = self.next;
        self.next = payload.wrapping_add(1);
        self.out.push_back(Ping { payload, at, seq });
        Some(Bytes::copy_from_slice(&payload.to_be_bytes()))
    }

    /// The last frame that the client certainly has, if this is the pong to a ping that was sent. A
    /// client may answer only the latest of several pings.
    pub(super) fn end(&mut self, payload: &[u8]) -> Option<(Instant, u64)> {
        let payload = u64::from_be_bytes(payload.try_into().ok()?);
        let at = self.out.iter().position(|ping| ping.payload == payload)?;
        self.out.drain(..=at).next_back().map(|ping| (ping.at, ping.seq))
    }

    /// When the heartbeat is due: when the oldest ping has waited for long enough, or, after the
    /// ping that was sent at `last`, when it is time for another one.
    pub(super) fn due(&self, last: Instant) -> Instant {
        match self.out.front() {
            Some(oldest) => oldest.at + self.patience,
            None => last + self.interval,
        }
    }

    /// Until when a client may leave out the pong that is due, if it sends anything else: it lives,
    /// and may be in the middle of a long message. There is an end to this, because a client that
    /// never answers a ping breaks the protocol.
    pub(super) fn due_at_last(&self) -> Option<Instant> {
        self.out.front().map(|oldest| oldest.at + self.interval + self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pings() -> Pings {
        Pings::new(Duration::from_secs(25), Duration::from_secs(10))
    }

    #[test]
    fn only_the_matching_pong_confirms_what_was_written_before_its_ping() {
        let (mut pings, now) = (pings(), Instant::now());
        let payload = pings.begin(now, 7).unwrap();
        for foreign in [&b""[..], b"keep-alive", &[0; 8], &payload[..7]] {
            assert_eq!(pings.end(foreign), None);
        }
        assert!(pings.is_out());
        assert_eq!(pings.end(&payload), Some((now, 7)));
        assert_eq!(pings.end(&payload), None, "once");
        let next = pings.begin(now, 8).unwrap();
        assert_ne!(next, payload);
        assert_eq!(pings.end(&payload), None, "late, it is not the next one's");
    }

    #[test]
    fn the_latest_pong_is_as_good_as_all() {
        let (mut pings, now) = (pings(), Instant::now());
        let payloads: Vec<Bytes> =
            (1..=3).map(|seq| pings.begin(now + Duration::from_secs(seq), seq).unwrap()).collect();
        assert_eq!(pings.begin(now, 4), None, "enough are out");
        assert_eq!(pings.end(&payloads[1]).map(|(_, seq)| seq), Some(2));
        assert_eq!(pings.end(&payloads[0]), None);
        assert_eq!(pings.end(&payloads[2]).map(|(_, seq)| seq), Some(3));
        assert!(!pings.is_out());
    }

    #[test]
    fn the_oldest_ping_decides_how_long_to_wait() {
        let (mut pings, now) = (pings(), Instant::now());
        let seconds = Duration::from_secs;
        assert_eq!(pings.due(now), now + seconds(25));
        assert_eq!(pings.due_at_last(), None);
        let first = pings.begin(now, 0).unwrap();
        pings.begin(now + seconds(4), 0).unwrap();
        assert_eq!(pings.due(now), now + seconds(10));
        assert_eq!(pings.due_at_last(), Some(now + seconds(35)));
        pings.end(&first).unwrap();
        assert_eq!(pings.due(now), now + seconds(14));
    }
}
