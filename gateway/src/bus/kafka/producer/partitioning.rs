//! The partition of a record, which librdkafka asks for once it knows how many there are: Java's default
//! choice over the key, without the bytes at its end that do not count.
//!
//! Asked then, and not computed when a record comes, it holds for a topic whose partitions are not
//! known yet, and for one that is given more: librdkafka looks at the topic again every five minutes,
//! as Java's producers do, so all of them go on to choose the same. librdkafka hands over a topic and a
//! key and nothing else of the record, so what is to be left out is noted for the topic before.

use std::{collections::HashMap, time::SystemTime};

use arc_swap::ArcSwap;
use rdkafka::producer::Partitioner;

use crate::bus::{Outgoing, partitioner::partition_without};

/// How many bytes at the end of the keys do not count, for each topic that has such keys.
#[derive(Default)]
pub(super) struct Partitioning(ArcSwap<HashMap<String, usize>>);

impl Partitioning {
    /// Notes what kind of keys a topic has, before the first record of it goes.
    pub(super) fn learn(&self, record: &Outgoing<'_>) {
        let suffix_bytes = record.key_suffix_bytes;
        if suffix_bytes == 0 || self.0.load().get(record.topic) == Some(&suffix_bytes) {
            return;
        }
        self.0.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.insert(record.topic.to_owned(), suffix_bytes);
            known
        });
    }
}

impl Partitioner for Partitioning {
    fn partition(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        partitions: i32,
        _is_available: impl Fn(i32) -> bool,
    ) -> i32 {
        let Some(key) = key else { return any(partitions) };
        let suffix_bytes = self.0.load().get(topic).copied().unwrap_or(0);
        partition_without(key, suffix_bytes, partitions)
    }
}

/// Some partition for a record without a key, of which this gateway writes none.
fn any(partitions: i32) -> i32 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i32::try_from(now.as_micros() % partitions.max(1) as u128).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::partitioner::partition_for;

    #[test]
    fn only_a_topic_of_which_it_is_known_has_a_suffix() {
        let partitioning = Partitioning::default();
        let choose = |topic, key: Option<&[u8]>| partitioning.partition(topic, key, 1000, |_| true);
        let record = |topic, key_suffix_bytes| Outgoing {
            topic,
            partition: None,
            key: None,
            key_suffix_bytes,
            value: None,
            headers: &[],
        };
        partitioning.learn(&record("plain", 0));
        partitioning.learn(&record("with", 4));
        assert_eq!(choose("plain", Some(b"key-1234")), partition_for(b"key-1234", 1000));
        assert_eq!(choose("with", Some(b"key-1234")), partition_for(b"key-", 1000));
        assert_eq!(choose("with", Some(b"key")), partition_for(b"", 1000), "shorter than that");
        assert!((0..1000).contains(&choose("with", None)));
    }
}
