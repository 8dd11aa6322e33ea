//! Finds out which partition is not read on, and why; and where reading can go on.
//!
//! Blocks: the consumer's watch calls it, and only where something speaks for it. What it finds the
//! reader is told in its turn.

use rdkafka::{Offset, consumer::Consumer as _, error::KafkaResult};

use super::{
    Client,
    context::Context,
    probe::{Sight, asking, look},
    watch::PATIENCE,
};
use crate::bus::{
    Unreadable, UnreadableReason,
    kafka::{rebalance::Untold, unreadable},
};

/// One look at every partition that is read.
///
/// # Errors
/// No answer: to be repeated.
pub(super) fn examine(client: &Client) -> KafkaResult<()> {
    let context: &Context = client.context();
    let complaints = context.suspicions().take_offsets();
    let (read, asking) = (context.rebalances().read(), asking(&context.probe)?);
    for partition in read {
        let (first, end) = asking.fetch_watermarks(&context.topic, partition, PATIENCE)?;
        let position = position(client, partition)?.unwrap_or(first).max(first);
        if position < end {
            examine_position(client, partition, position, end)?;
        } else {
            context.stuck().remove(&partition);
        }
        // librdkafka may have stepped over a batch by itself, when it had another one behind it.
        for &offset in complaints.iter().filter(|offset| (first..position).contains(offset)) {
            if let Found::Batch(batch) = find(context, partition, offset, end)? {
                context.tell(Untold::Unreadable(batch));
            }
        }
    }
    Ok(())
}

/// What is at a place.
enum Found {
    /// What can be read.
    Nothing,
    /// What cannot.
    Batch(Unreadable),
    /// It cannot be told.
    Silence,
}

fn examine_position(client: &Client, partition: i32, at: i64, end: i64) -> KafkaResult<()> {
    let context: &Context = client.context();
    let batch = match find(context, partition, at, end)? {
        Found::Batch(batch) => batch,
        Found::Silence if context.suspicions().stands(partition) => Unreadable {
            topic: context.topic.clone(),
            partition,
            offset: at,
            next: None,
            reason: UnreadableReason::Stalled,
            cause: format!("there are records up to offset {end}, and none of them comes"),
        },
        Found::Silence | Found::Nothing => {
            context.stuck().remove(&partition);
            return Ok(());
        }
    };
    let is_news = context.stuck().insert(partition, batch.clone()).as_ref() != Some(&batch);
    if is_news || batch.next.is_some() {
        context.tell(Untold::Unreadable(batch));
    }
    Ok(())
}

/// Looks at a place, and where there is a batch that cannot be read, for its end.
fn find(context: &Context, partition: i32, at: i64, end: i64) -> KafkaResult<Found> {
    let see = |offset| look(&context.probe, &context.topic, partition, offset);
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
    let topic = context.topic.clone();
    Ok(Found::Batch(Unreadable { topic, partition, offset: start, next, reason, cause }))
}

/// Where the reader is in a partition: at what it has not had, else at what the group has not.
fn position(client: &Client, partition: i32) -> KafkaResult<Option<i64>> {
    let context: &Context = client.context();
    let positions = client.position()?;
    let position = positions.find_partition(&context.topic, partition);
    Ok(match position.map(|element| element.offset()) {
        Some(Offset::Offset(offset)) => Some(offset),
        _ => context.offsets().committed_of(partition),
    })
}
