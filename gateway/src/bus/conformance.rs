//! What every bus must do, checked alike on each: call [`checks!`] with a [`Bed`].
//!
//! Owns no broker: it is given one. A check panics with what was expected.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{Consumer, Outgoing, Position, Producer};

#[cfg(test)]
pub(super) use self::reader::{Reader, Seen};
pub use self::{
    members::{
        a_group_goes_on_where_it_stored, a_member_that_gets_nothing_is_told_so,
        members_share_the_partitions_and_hand_them_over,
    },
    positions::{
        a_partition_is_read_again_from_its_beginning, a_paused_partition_waits_alone,
        a_topic_made_anew_is_read_from_its_beginning, records_come_from,
    },
    records::{
        deliveries_are_told_once_and_a_full_queue_at_once, oversized_records_are_refused,
        records_come_as_they_were_written, the_suffix_of_a_key_does_not_count,
    },
};

mod members;
mod positions;
mod reader;
mod records;

/// Everything must happen within this time. Rebalances of the mock broker take three session
/// time-outs.
const DEADLINE: Duration = Duration::from_secs(40);

/// A bus to be checked, and the means to set it up and to break it.
#[async_trait(?Send)]
pub trait Bed {
    /// A producer whose queue takes `queue` records.
    fn producer(&self, queue: usize) -> Arc<dyn Producer>;

    /// A member of the group.
    fn consumer(&self, group: &str, topic: &str) -> Box<dyn Consumer>;

    /// Creates a topic under a new name.
    async fn topic(&self, partitions: i32) -> String;

    /// Takes the bus away, or brings it back.
    async fn set_reachable(&self, reachable: bool);
}

/// A bed whose topics can be deleted.
#[async_trait(?Send)]
pub trait Mutable: Bed {
    /// Deletes a topic and creates it again, under the same name.
    async fn make_anew(&self, topic: &str, partitions: i32);
}

/// Makes a test of each check. `bed` makes a [`Bed`] that is left alone, `doomed` one that is taken
/// away for a while; a bed may serve several tests at a time, a doomed one is its test's own.
#[macro_export]
macro_rules! bus_checks {
    (bed: $bed:expr, doomed: $doomed:expr) => {
        $crate::bus::conformance::checks!($bed;
            records_come_as_they_were_written,
            the_suffix_of_a_key_does_not_count,
            a_group_goes_on_where_it_stored,
            members_share_the_partitions_and_hand_them_over,
            a_member_that_gets_nothing_is_told_so,
            a_paused_partition_waits_alone,
            a_partition_is_read_again_from_its_beginning,
            oversized_records_are_refused,
        );
        $crate::bus::conformance::checks!($doomed;
            deliveries_are_told_once_and_a_full_queue_at_once,
        );
    };
    ($bed:expr; $($check:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $check() {
                $crate::bus::conformance::$check(&$bed).await;
            }
        )*
    };
}
pub use bus_checks as checks;

/// A record without a key and headers.
pub fn plain<'a>(topic: &'a str, partition: i32, value: &'a [u8]) -> Outgoing<'a> {
    let (partition, value) = (Some(partition), Some(value));
    Outgoing { topic, partition, key: None, key_suffix_bytes: 0, value, headers: &[] }
}

/// Writes a record, and waits until the broker has acknowledged it.
pub async fn write(producer: &dyn Producer, record: &Outgoing<'_>) -> Position {
    let (told, mut delivery) = mpsc::channel(1);
    let on_delivery = Box::new(move |result| told.try_send(result).expect("told once"));
    producer.produce(record, on_delivery).expect("the queue has room");
    let told = timeout_at(Instant::now() + DEADLINE, delivery.recv()).await;
    told.expect("delivery in time").expect("told before it is dropped").expect("recorded")
}

/// Waits until `holds` returns true, without blocking the runtime.
pub(super) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain waited until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
