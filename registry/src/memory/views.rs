//! Views in this process's memory.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::{MemoryRegistry, expiring::Expiring};
use crate::{
    ids::RequestId,
    tables::{
        Answers,
        views::{
            After, Event, EventPlace, Latest, StateWait, VIEW_TTL_MAX, VIEW_TTL_MIN, ViewKey,
            ViewTable, Waiting,
        },
    },
};

/// All views.
#[derive(Clone, Debug, Default)]
pub(super) struct Views {
    events: Expiring<ViewKey, Held>,
    waits: Expiring<ViewKey, HashMap<RequestId, HeldWait>>,
    marks: Expiring<(Arc<str>, i32), Box<str>>,
}

#[derive(Clone, Debug)]
struct Held {
    place: EventPlace,
    state: Option<Box<str>>,
    content: Option<Bytes>,
}

#[derive(Clone, Debug)]
struct HeldWait {
    until: Vec<Box<str>>,
    after: Option<EventPlace>,
    not_before_ms: u64,
    end: Instant,
}

impl HeldWait {
    fn is_over_with(&self, place: &EventPlace, state: Option<&str>) -> bool {
        state.is_some_and(|state| self.until.iter().any(|until| **until == *state))
            && self.after.as_ref().is_none_or(|after| place.is_newer_than(after))
            && (place.at_ms == 0 || place.at_ms >= self.not_before_ms)
    }
}

impl Views {
    fn write(&mut self, event: &Event, now: Instant, ttl: Duration) -> Vec<RequestId> {
        let Event { key, place, state, content } = event;
        let stays =
            |held: &Held| held.place.is_newer_than(place) && !held.place.is_of_another_topic(place);
        if !self.events.get(key, now).is_some_and(stays) {
            let (place, state, content) = (place.clone(), state.clone(), content.clone());
            self.events.insert(key.clone(), Held { place, state, content }, now, ttl);
        }
        let Some(waits) = self.waits.get_mut(key, now).filter(|_| content.is_some()) else {
            return Vec::new();
        };
        waits.retain(|_, wait| wait.end > now);
        let is_over = |wait: &HeldWait| wait.is_over_with(place, state.as_deref());
        waits.iter().filter(|(_, wait)| is_over(wait)).map(|(request, _)| *request).collect()
    }

    fn begin(&mut self, wait: &StateWait, now: Instant) -> Waiting {
        let StateWait { key, request, until, after, not_before_ms, ttl } = wait;
        let ttl = (*ttl).clamp(VIEW_TTL_MIN, VIEW_TTL_MAX);
        let held = self.events.get(key, now);
        let latest = held.map(|held| held.place.clone());
        let (counts, after) = match after {
            After::Nothing => (None, latest),
            After::Present => (latest.clone(), latest),
            After::Place(place) => (Some(place.clone()), Some(place.clone())),
        };
        let (until, not_before_ms, end) = (until.clone(), *not_before_ms, now + ttl);
        let wait = HeldWait { until, after: counts, not_before_ms, end };
        if let Some(Held { place, state, content: Some(content) }) = held
            && wait.is_over_with(place, state.as_deref())
        {
            let (place, state, content) = (place.clone(), state.clone(), content.clone());
            return Waiting::Over(Latest { place, state, content });
        }
        let wait = HeldWait { after: after.clone(), ..wait };
        let mut waits = self.waits.get(key, now).cloned().unwrap_or_default();
        waits.retain(|_, wait| wait.end > now);
        waits.insert(*request, wait);
        let end = waits.values().map(|wait| wait.end).max().unwrap_or(end);
        self.waits.insert(key.clone(), waits, now, end - now);
        Waiting::Begun(after)
    }
}

#[async_trait]
impl ViewTable for MemoryRegistry {
    async fn write_events(&self, events: &[Event], ttl: Duration) -> Answers<Vec<RequestId>> {
        let (now, ttl) = (Instant::now(), ttl.clamp(VIEW_TTL_MIN, VIEW_TTL_MAX));
        let views = &mut self.lock().views;
        events.iter().map(|event| Ok(views.write(event, now, ttl))).collect()
    }

    async fn begin_waits(&self, waits: &[StateWait]) -> Answers<Waiting> {
        let now = Instant::now();
        let views = &mut self.lock().views;
        waits.iter().map(|wait| Ok(views.begin(wait, now))).collect()
    }

    async fn forget_waits(&self, waits: &[(ViewKey, RequestId)]) -> Answers<()> {
        let now = Instant::now();
        let views = &mut self.lock().views;
        for (key, request) in waits {
            if let Some(waiting) = views.waits.get_mut(key, now) {
                waiting.remove(request);
                if waiting.is_empty() {
                    views.waits.remove(key);
                }
            }
        }
        vec![Ok(()); waits.len()]
    }

    async fn find_latest(&self, keys: &[ViewKey]) -> Answers<Option<Latest>> {
        let now = Instant::now();
        let views = &self.lock().views;
        let find = |key| {
            let Held { place, state, content } = views.events.get(key, now)?;
            let (place, state) = (place.clone(), state.clone());
            content.clone().map(|content| Latest { place, state, content })
        };
        keys.iter().map(|key| Ok(find(key))).collect()
    }

    async fn put_marks(&self, marks: &[(Arc<str>, i32, Box<str>)], ttl: Duration) -> Answers<()> {
        let (now, ttl) = (Instant::now(), ttl.clamp(VIEW_TTL_MIN, VIEW_TTL_MAX));
        let views = &mut self.lock().views;
        for (view, partition, mark) in marks {
            views.marks.insert((Arc::clone(view), *partition), mark.clone(), now, ttl);
        }
        vec![Ok(()); marks.len()]
    }

    async fn find_marks(&self, of: &[(Arc<str>, i32)]) -> Answers<Option<Box<str>>> {
        let now = Instant::now();
        let views = &self.lock().views;
        of.iter().map(|place| Ok(views.marks.get(place, now).cloned())).collect()
    }
}
