//! What a record of a view's topic means: it is written to the registry as the latest event of its
//! key, and answers the requests that wait for its state.
//!
//! Each answer is a reply, and takes the way of any reply that this node has read and somebody else may
//! wait for. The event's offset is kept back until all of them have arrived: a wait is forgotten then,
//! and no sooner. A node that dies before leaves both the event and the waits, and the next reader
//! answers them again.

use std::sync::Arc;

use registry::{Event, EventPlace};
use tokio::time::Instant;

pub use self::writer::EventWriter;
use super::{Forwarding, dispatch::foreign};
use crate::{
    bus::{ConsumerControl, Incoming},
    peer::{REPLY_BYTES_MAX, format::reply_bytes},
    relay::{
        offsets::{Content, OffsetGuard, OffsetTracker, Record},
        reading::{Handled, Role},
        views::{self, View},
    },
    telemetry::{LogThrottle, Telemetry},
    wire::Reply,
};

mod writer;

/// What is done with the events of one view.
#[derive(Debug)]
pub struct Events {
    view: Arc<View>,
    writer: Arc<EventWriter>,
    forwarding: Arc<Forwarding>,
    control: Arc<dyn ConsumerControl>,
    telemetry: Arc<Telemetry>,
    topic: Box<str>,
    unusable: LogThrottle,
}

impl Events {
    /// The events of this view.
    pub fn new(
        view: &Arc<View>,
        writer: &Arc<EventWriter>,
        forwarding: &Arc<Forwarding>,
        control: &Arc<dyn ConsumerControl>,
        telemetry: &Arc<Telemetry>,
    ) -> Self {
        view.is_read_by(control);
        Self {
            view: Arc::clone(view),
            writer: Arc::clone(writer),
            forwarding: Arc::clone(forwarding),
            control: Arc::clone(control),
            telemetry: Arc::clone(telemetry),
            topic: "".into(),
            unusable: LogThrottle::default(),
        }
    }

    fn read(&self, record: &Incoming<'_>) -> Result<Event, &'static str> {
        let key = record.key.ok_or("without_key")?;
        let length = record.value.map_or(0, <[u8]>::len);
        if reply_bytes(length + key.len(), std::iter::empty()) > REPLY_BYTES_MAX {
            return Err("too_large");
        }
        let media_type =
            record.headers.iter().rfind(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let media_type = media_type.and_then(|(_, value)| *value).filter(|value| !value.is_empty());
        let headers = media_type.map(|value| ("content-type".into(), value.to_vec().into()));
        let content = record.value.map(|value| {
            let headers = headers.into_iter().collect();
            views::write(&Reply { headers, payload: value.to_vec().into(), ..Reply::default() })
        });
        Ok(Event {
            key: self.view.key(key),
            place: EventPlace {
                topic: self.topic.clone(),
                partition: record.partition,
                offset: record.offset,
                at_ms: record.at_ms.unwrap_or_default(),
            },
            state: record.value.and_then(|value| self.view.state_of(value)),
            content,
        })
    }

    fn look_at_topic(&mut self) {
        if let Some(topic) = self.control.topic_id()
            && *topic != *self.topic
        {
            self.topic = topic.into();
        }
    }
}

impl Role for Events {
    fn on_record(&mut self, record: &Incoming<'_>, window: &OffsetTracker) -> Handled {
        match self.read(record) {
            Ok(event) => {
                self.writer.put(window.guard(record.offset, Record::of_event(event)));
                Handled::Waits
            }
            Err(reason) => {
                let (view, partition, offset) = (&self.view.name, record.partition, record.offset);
                self.telemetry.record_skipped(reason);
                if let Some(muted) = self.unusable.tick(Instant::now()) {
                    tracing::warn!(%view, partition, offset, reason, muted, "no good event");
                }
                Handled::Done
            }
        }
    }

    fn handle_again(&mut self, guard: OffsetGuard) {
        match guard.record().content {
            Content::Event(_) => self.writer.put(guard),
            Content::Reply { .. } => self.forwarding.take(foreign(guard)),
        }
    }

    fn owns(&mut self, partitions: &[i32], _: Option<i32>) {
        self.look_at_topic();
        self.view.build().reads(partitions);
    }

    fn rewound(&mut self, partitions: &[i32]) {
        self.look_at_topic();
        self.view.build().rewound(partitions);
    }

    fn reached_end(&mut self, partition: i32, window: &OffsetTracker) {
        self.view.build().reached_end(partition, window);
    }

    fn tend(&mut self, partition: i32, window: &OffsetTracker) {
        self.look_at_topic();
        self.view.build().tend(partition, window);
    }
}
