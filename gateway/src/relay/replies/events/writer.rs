//! Writes the events of all views to the registry, in batches and in order, and answers whoever
//! waits for them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use registry::{Event, Registry, RequestId, ViewKey};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use super::super::{Forwarding, dispatch::foreign};
use crate::{
    relay::{
        cluster::RegistryHealth,
        offsets::{Content, Fate, OffsetGuard, OffsetTracker},
        views::{self, EVENT_TTL, Waits},
    },
    tasks::locked,
    telemetry::{LogThrottle, Telemetry},
};

/// How many events go in one round trip, and how many of their bytes.
const BATCH_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Until what could not be written is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// Between two looks at answers that are on their way.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The events to write. Bounded by the windows of the partitions from which they were read.
#[derive(Debug)]
pub struct EventWriter {
    queue: Mutex<Vec<OffsetGuard>>,
    filled: Notify,
    forwarding: Arc<Forwarding>,
    waits: Arc<Waits>,
    registry: Arc<dyn Registry>,
    health: Arc<RegistryHealth>,
    telemetry: Arc<Telemetry>,
}

/// Requests that an event answers, until that is done.
#[derive(Debug)]
struct Answered {
    key: ViewKey,
    requests: Vec<RequestId>,
    window: OffsetTracker,
    offset: i64,
}

impl EventWriter {
    /// Nothing is to be written.
    pub fn new(
        forwarding: &Arc<Forwarding>,
        waits: &Arc<Waits>,
        registry: &Arc<dyn Registry>,
        health: &Arc<RegistryHealth>,
        telemetry: &Arc<Telemetry>,
    ) -> Self {
        Self {
            queue: Mutex::default(),
            filled: Notify::new(),
            forwarding: Arc::clone(forwarding),
            waits: Arc::clone(waits),
            registry: Arc::clone(registry),
            health: Arc::clone(health),
            telemetry: Arc::clone(telemetry),
        }
    }

    /// Queues an event, with the guard of its offset.
    pub(super) fn put(&self, guard: OffsetGuard) {
        locked(&self.queue).push(guard);
        self.filled.notify_one();
    }

    /// Writes events for as long as the node lives.
    pub async fn run(&self) {
        let mut answered: Vec<Answered> = Vec::new();
        let mut failed = LogThrottle::default();
        loop {
            let look = async {
                match answered.is_empty() {
                    true => std::future::pending().await,
                    false => sleep(LOOK_INTERVAL).await,
                }
            };
            tokio::select! {
                biased;
                () = self.filled.notified() => {}
                () = look => {}
            }
            answered.retain(|answered| self.is_waited_for(answered));
            let mut left = std::mem::take(&mut *locked(&self.queue));
            while !left.is_empty() {
                let batch = first_of(&mut left);
                let again = self.write(batch, &mut answered, &mut failed).await;
                if !again.is_empty() {
                    sleep(RETRY_INTERVAL).await;
                    left.splice(..0, again);
                }
            }
        }
    }

    /// Writes a batch. Returns what could not be written.
    async fn write(
        &self,
        batch: Vec<OffsetGuard>,
        answered: &mut Vec<Answered>,
        failed: &mut LogThrottle,
    ) -> Vec<OffsetGuard> {
        let events: Vec<Event> = batch.iter().filter_map(event_of).cloned().collect();
        let started = Instant::now();
        let answers = self.registry.write_events(&events, EVENT_TTL).await;
        self.telemetry.registry_call("write_events", started.elapsed());
        self.health.heard(&answers);
        let mut again = Vec::new();
        for ((guard, event), answer) in batch.into_iter().zip(events).zip(answers) {
            match answer {
                Ok(requests) => answered.extend(self.answer(guard, event, requests)),
                Err(error) => {
                    if let Some(muted) = failed.tick(Instant::now()) {
                        tracing::warn!(%error, muted, "events are not written; tried again");
                    }
                    again.push(guard);
                }
            }
        }
        again
    }

    fn answer(
        &self,
        guard: OffsetGuard,
        event: Event,
        requests: Vec<RequestId>,
    ) -> Option<Answered> {
        let Some(reply) = event.content.as_ref().and_then(views::read_content) else {
            guard.done();
            return None;
        };
        if requests.is_empty() {
            guard.done();
            return None;
        }
        let (window, offset) = guard.place();
        let (key, window) = (event.key, window.clone());
        let content =
            |request: &RequestId| Content::Reply { request: *request, reply: reply.clone() };
        for share in guard.share(requests.iter().map(content).collect()) {
            self.forwarding.take(foreign(share));
        }
        Some(Answered { key, requests, window, offset })
    }

    /// Forgets the waits whose answers have arrived.
    fn is_waited_for(&self, Answered { key, requests, window, offset }: &Answered) -> bool {
        match window.fate(*offset) {
            Fate::Waits => true,
            Fate::Elsewhere => false,
            Fate::Handled => {
                requests.iter().for_each(|request| self.waits.forget(key.clone(), *request));
                false
            }
        }
    }
}

fn event_of(guard: &OffsetGuard) -> Option<&Event> {
    match &guard.record().content {
        Content::Event(event) => Some(event),
        Content::Reply { .. } => None,
    }
}

/// Takes a batch out.
fn first_of(queue: &mut Vec<OffsetGuard>) -> Vec<OffsetGuard> {
    let mut bytes = 0;
    let fits = |guard: &&OffsetGuard| {
        let content = event_of(guard).and_then(|event| event.content.as_ref());
        bytes += content.map_or(0, bytes::Bytes::len);
        bytes <= BATCH_BYTES_MAX
    };
    let count = queue.iter().take(BATCH_MAX).take_while(fits).count().max(1);
    let rest = queue.split_off(count.min(queue.len()));
    std::mem::replace(queue, rest)
}
