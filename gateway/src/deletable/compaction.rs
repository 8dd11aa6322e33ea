//! How a topic has to be configured so that what was deleted is gone in time, whole: value, key, and
//! finally the tombstone.
//!
//! What Kafka does, step by step, and how long each of it takes at most. `w` is an eighth of the time
//! in which all has to be over.
//!
//! 1. The segment that is written to is never compacted, and another one is begun only when something
//!    is written after its time (`segment.ms`, or `max.compaction.lag.ms` where that is less). On a
//!    topic to which nobody writes nothing would ever go. So each node writes a record that means
//!    nothing to each partition, once per [`Compaction::pace`]: `w` + `w`.
//! 2. The cleaner takes up a partition with a segment that is older than `max.compaction.lag.ms`,
//!    whatever its dirty ratio, within `log.cleaner.backoff.ms` of the broker (15 s). It leaves the
//!    tombstone, and notes when that may go: `delete.retention.ms`, 2 `w`.
//! 3. The files that it has replaced are still there for `file.delete.delay.ms`.
//! 4. What takes the tombstone away is another run of the cleaner, for which 1 and 2 are to happen once
//!    more: 2 `w`.
//!
//! Which leaves 2 `w`: one for the pauses of the cleaner, [`Compaction::pause_max`] each, and one for
//! its work and for outages.

use std::time::Duration;

/// Into how many parts the time is divided.
const PARTS: u32 = 8;
/// Kafka's own default of `file.delete.delay.ms`.
const FILES_MAX: Duration = Duration::from_secs(60);

/// The times of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    part: Duration,
}

/// One setting of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Kafka's name of it.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// What it is for.
    pub why: &'static str,
}

impl Compaction {
    /// The times with which a deleted message is gone within this time.
    pub fn within(gone_within: Duration) -> Self {
        Self { part: gone_within / PARTS }
    }

    /// How often something has to be written to each partition, also where nobody else does.
    pub const fn pace(self) -> Duration {
        self.part
    }

    /// How long a broker's cleaner may pause: it has to run twice, and its work takes time as well.
    pub fn pause_max(self) -> Duration {
        self.part / 2
    }

    /// What a topic has to be set to.
    pub fn settings(self) -> [Setting; 7] {
        let setting = |name, value, why| Setting { name, value, why };
        let ms = |name, duration: Duration, why| {
            setting(name, duration.as_millis().max(1).to_string(), why)
        };
        [
            setting("cleanup.policy", "compact".to_owned(), "a tombstone deletes its message"),
            ms("segment.ms", self.part, "the segment that is written to is never compacted"),
            ms(
                "max.compaction.lag.ms",
                self.part,
                "older segments are compacted, however little has changed",
            ),
            setting("min.compaction.lag.ms", "0".to_owned(), "and no segment is too young"),
            ms(
                "delete.retention.ms",
                self.part * 2,
                "how long a reader may be away and still see a deletion; then its tombstone goes too",
            ),
            ms(
                "file.delete.delay.ms",
                (self.part / 2).min(FILES_MAX),
                "files that were compacted are removed so much later",
            ),
            setting(
                "message.timestamp.type",
                "LogAppendTime".to_owned(),
                "all of these go by the broker's clock, and not by a writer's",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(compaction: Compaction, name: &str) -> u64 {
        let found = compaction.settings().into_iter().find(|setting| setting.name == name);
        found.unwrap().value.parse().unwrap()
    }

    #[test]
    fn all_steps_together_leave_a_quarter_of_the_time() {
        for seconds in [10, 60, 24 * 60 * 60, 365 * 24 * 60 * 60] {
            let whole = seconds * 1000;
            let compaction = Compaction::within(Duration::from_secs(seconds));
            let pace = compaction.pace().as_millis() as u64;
            let roll = ms(compaction, "segment.ms") + pace;
            assert!(ms(compaction, "max.compaction.lag.ms") <= ms(compaction, "segment.ms"));
            assert!(2 * roll + ms(compaction, "delete.retention.ms") <= whole * 3 / 4);
            // The files go while the tombstone is kept.
            let files = ms(compaction, "file.delete.delay.ms");
            assert!(files <= pace && files <= 60_000);
            assert!(2 * compaction.pause_max().as_millis() as u64 <= whole / 8);
        }
    }

    #[test]
    fn each_setting_is_there_once() {
        let settings = Compaction::within(Duration::from_secs(80)).settings();
        let mut names: Vec<&str> = settings.iter().map(|setting| setting.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), settings.len());
        assert_eq!(ms(Compaction::within(Duration::from_secs(80)), "segment.ms"), 10_000);
    }
}
