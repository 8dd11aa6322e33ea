//! Finds out which partition cannot be read on, why, and where reading can go on.
//!
//! Blocks: the consumer's watch calls it, and only if there is a reason to suspect something. It
//! uses clients of its own, so that it delays no others. The reader learns the result in its turn.

use rdkafka::{consumer::Consumer as _, error::KafkaResult};

use super::{
    limits::ANSWER,
    probe::{Sight, asking, look},
    reading::Reading,
};
use crate::bus::{
    Unreadable, UnreadableReason,
    kafka::{rebalance::Untold, unreadable},
};

/// One look at every partition that is read.
pub(super) struct Examination<'a> {
    pub(super) reading: &'a Reading,
    /// Where the reader is in a partition, if that is known.
    pub(super) position: &'a dyn Fn(i32) -> KafkaResult<Option<i64>>,
    /// Whether the answer is still wanted: nothing follows from a look that was broken off.
    pub(super) goes_on: &'a dyn Fn() -> bool,
}

/// What is found at an offset.
enum Found {
    /// What can be read.
    Nothing,
    /// What cannot.
    Batch(Unreadable),
    /// The answer is not known.
    Silence,
}

impl Examination<'_> {
    /// No answer; the look has to be repeated.
    /// No answer: to be repeated.
    pub(super) fn carry_out(&self) -> KafkaResult<()> {
        let reading = self.reading;
        let complaints = reading.suspicions().take_offsets();
        let (read, asking) = (reading.rebalances().read(), asking(&reading.probe)?);
        for partition in read {
            if !(self.goes_on)() {
                break;
            }
            let (first, end) = asking.fetch_watermarks(&reading.topic, partition, ANSWER)?;
            let position = (self.position)(partition)?.unwrap_or(first).max(first);
            if position < end {
                self.examine(partition, position, end)?;
            } else {
                reading.stuck().remove(&partition);
            }
            // librdkafka may have stepped over a batch by itself, when it had another one behind it.
            for &offset in complaints.iter().filter(|offset| (first..position).contains(offset)) {
                if let Found::Batch(batch) = self.find(partition, offset, end)?
                    && (self.goes_on)()
                {
                    reading.tell(Untold::Unreadable(batch));
                }
            }
        }
        Ok(())
    }

    fn examine(&self, partition: i32, at: i64, end: i64) -> KafkaResult<()> {
        let reading = self.reading;
        let found = self.find(partition, at, end)?;
        if !(self.goes_on)() {
            return Ok(());
        }
        let batch = match found {
            Found::Batch(batch) => batch,
            Found::Silence if reading.suspicions().stands(partition) => Unreadable {
                topic: reading.topic.clone(),
                partition,
                offset: at,
                next: None,
                reason: UnreadableReason::Stalled,
                cause: format!("there are records up to offset {end}, and none of them comes"),
            },
            Found::Silence | Found::Nothing => {
                reading.stuck().remove(&partition);
                return Ok(());
            }
        };
        let is_news = reading.stuck().insert(partition, batch.clone()).as_ref() != Some(&batch);
        if is_news || batch.next.is_some() {
            reading.tell(Untold::Unreadable(batch));
        }
        Ok(())
    }

    /// Looks at a place, and where there is a batch that cannot be read, for its end.
    fn find(&self, partition: i32, at: i64, end: i64) -> KafkaResult<Found> {
        let Reading { topic, probe, .. } = self.reading;
        let see = |offset| look(probe, topic, partition, offset, self.goes_on);
        let (reason, begins, cause) = match see(at)? {
            Sight::Readable => return Ok(Found::Nothing),
            Sight::Nothing => return Ok(Found::Silence),
            Sight::Unreadable { reason, offset, cause } => (reason, offset, cause),
        };
        let start = begins.unwrap_or(at).max(at);
        let next = unreadable::after(start, end, |offset| match see(offset) {
            Ok(Sight::Readable) => Some(false),
            // Another one begins there.
            Ok(Sight::Unreadable { offset: Some(other), .. }) => Some(other <= start),
            Ok(Sight::Unreadable { offset: None, .. }) => Some(true),
            Ok(Sight::Nothing) | Err(_) => None,
        });
        let topic = topic.clone();
        Ok(Found::Batch(Unreadable { topic, partition, offset: start, next, reason, cause }))
    }
}
