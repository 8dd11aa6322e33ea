//! Whether all of a view is in the registry.
//!
//! A partition counts as built when somebody has read it from its first record to its end, and written
//! all of that. Whoever has done so leaves a *mark*, with the generation of the registry that took it and
//! the topic's id; where there is no such mark, or it is of another generation or topic, the partition's
//! reader begins at its beginning. Half-way through a mark's life it does so too: so no entry ends
//! whose event is still in the topic.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use registry::{Generation, Registry};

use super::EVENT_TTL;
use crate::{
    bus::ConsumerControl, relay::offsets::OffsetTracker, tasks::locked, telemetry::Telemetry,
};
use tokio::time::Instant;

/// What is known of a view's partitions.
#[derive(Debug, Default)]
pub(in crate::relay) struct Build(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Those that this node reads.
    read: BTreeMap<i32, Part>,
    /// Those that are not built, as of the last look; none before the first.
    missing: Option<Vec<i32>>,
    has_been_whole: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    again: Again,
    /// The generation of the registry in which it was begun.
    generation: Option<Generation>,
    /// It has been read to its end once.
    is_current: bool,
}

/// How far a partition is that is read from its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Again {
    /// It is not: it is read on from where its last reader was.
    #[default]
    No,
    /// The consumer has been told to.
    Asked,
    /// It is on its way.
    Reads,
    /// It has been read; everything below this offset is being written.
    Read(Option<i64>),
    /// Everything is written: the mark is missing.
    Written,
}

/// What a mark says.
#[derive(Debug, PartialEq, Eq)]
struct Mark {
    generation: Option<u64>,
    topic: Option<String>,
    /// When the partition was built, by its reader's clock, in milliseconds since the Unix epoch.
    built_ms: u64,
}

impl Mark {
    /// Words that are not known are passed over; without a time it is none.
    fn parse(text: &str) -> Option<Self> {
        let mut mark = Self { generation: None, topic: None, built_ms: 0 };
        for word in text.split(' ') {
            match word.split_once('=') {
                Some(("g", generation)) => mark.generation = Some(generation.parse().ok()?),
                Some(("t", topic)) => mark.topic = Some(topic.to_owned()),
                Some(("b", built_ms)) => mark.built_ms = built_ms.parse().ok()?,
                _ => {}
            }
        }
        (mark.built_ms > 0).then_some(mark)
    }

    fn write(&self) -> String {
        let mut text = format!("b={}", self.built_ms);
        if let Some(generation) = self.generation {
            text.push_str(&format!(" g={generation}"));
        }
        if let Some(topic) = &self.topic {
            text.push_str(&format!(" t={topic}"));
        }
        text
    }

    /// Whether what it says is still so. What is not known on either side is.
    fn holds(&self, generation: Option<Generation>, topic: Option<&str>) -> bool {
        let same_run = self.generation.zip(generation).is_none_or(|(of, is)| of == is.0);
        let same_topic = self.topic.as_deref().zip(topic).is_none_or(|(of, is)| of == is);
        same_run && same_topic
    }

    fn is_old(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.built_ms) > EVENT_TTL.as_millis() as u64 / 2
    }
}

/// What a look is made with.
pub(super) struct Look<'a> {
    pub(super) registry: &'a dyn Registry,
    pub(super) telemetry: &'a Telemetry,
    /// The registry's.
    pub(super) generation: Option<Generation>,
    pub(super) now_ms: u64,
}

impl Build {
    /// These partitions are read from now on.
    pub(in crate::relay) fn reads(&self, partitions: &[i32]) {
        let state = &mut *locked(&self.0);
        state.read.retain(|partition, _| partitions.contains(partition));
        for partition in partitions {
            state.read.entry(*partition).or_default();
        }
    }

    /// These are read from their beginnings.
    pub(in crate::relay) fn rewound(&self, partitions: &[i32]) {
        let state = &mut *locked(&self.0);
        for partition in partitions {
            if let Some(part) = state.read.get_mut(partition) {
                (part.again, part.is_current) = (Again::Reads, false);
            }
        }
    }

    /// This one has been read to its end.
    pub(in crate::relay) fn reached_end(&self, partition: i32, window: &OffsetTracker) {
        if let Some(part) = locked(&self.0).read.get_mut(&partition) {
            part.is_current = true;
            if part.again == Again::Reads {
                part.again = Again::Read(window.read());
            }
        }
    }

    /// Looks whether what was read has been written.
    pub(in crate::relay) fn tend(&self, partition: i32, window: &OffsetTracker) {
        if let Some(part) = locked(&self.0).read.get_mut(&partition)
            && let Again::Read(until) = part.again
            && window.committable() >= until
        {
            part.again = Again::Written;
        }
    }

    /// What is missing, as of the last look.
    pub(super) fn missing(&self) -> Option<Vec<i32>> {
        let state = locked(&self.0);
        match &state.missing {
            Some(missing) if missing.is_empty() => None,
            missing => Some(missing.clone().unwrap_or_default()),
        }
    }

    /// The same in words, and what of it is read here and has not been read to its end.
    pub(super) fn trouble(&self) -> Option<String> {
        let state = locked(&self.0);
        let behind: Vec<&i32> =
            state.read.iter().filter(|(_, part)| !part.is_current).map(|(p, _)| p).collect();
        match &state.missing {
            None => Some("it has not been looked at yet".to_owned()),
            Some(missing) if !missing.is_empty() => {
                Some(format!("partitions {missing:?} are built"))
            }
            Some(_) if !behind.is_empty() => Some(format!("partitions {behind:?} are read on")),
            Some(_) => None,
        }
    }

    pub(super) fn has_been_whole(&self) -> bool {
        locked(&self.0).has_been_whole
    }

    /// One look at the marks: writes those that are due, and has partitions read again.
    pub(super) async fn look(
        &self,
        view: &Arc<str>,
        control: &dyn ConsumerControl,
        &Look { registry, telemetry, generation, now_ms }: &Look<'_>,
    ) {
        let Some(count) = control.partition_count().filter(|count| *count > 0) else { return };
        let topic = control.topic_id();
        let started = Instant::now();
        let all: Vec<(Arc<str>, i32)> =
            (0..count).map(|number| (Arc::clone(view), number)).collect();
        let found = registry.find_marks(&all).await;
        telemetry.registry_call("find_marks", started.elapsed());
        let Ok(mut marks) = registry::all(found) else { return };
        let mark = Mark { generation: generation.map(|g| g.0), topic, built_ms: now_ms };
        let topic = mark.topic.as_deref();
        let due: Vec<i32> = self.written(generation);
        let written: Vec<_> =
            due.iter().map(|number| (Arc::clone(view), *number, mark.write().into())).collect();
        if !written.is_empty() {
            let started = Instant::now();
            let answers = registry.put_marks(&written, EVENT_TTL).await;
            telemetry.registry_call("put_marks", started.elapsed());
            for ((_, number, mark), _) in
                written.into_iter().zip(answers).filter(|(_, answer)| answer.is_ok())
            {
                tracing::info!(view = &**view, partition = number, "a part of a view is complete");
                self.set(number, Again::Written, Again::No, None);
                if let Some(place) = usize::try_from(number).ok().and_then(|n| marks.get_mut(n)) {
                    *place = Some(mark);
                }
            }
        }
        let marks: Vec<Option<Mark>> =
            marks.iter().map(|mark| mark.as_deref().and_then(Mark::parse)).collect();
        let holds = |mark: &Option<Mark>| mark.as_ref().is_some_and(|m| m.holds(generation, topic));
        for (number, mark) in (0..).zip(&marks) {
            let is_due = !holds(mark) || mark.as_ref().is_some_and(|mark| mark.is_old(now_ms));
            // Noted first: the reader may be told at once.
            if is_due
                && self.set(number, Again::No, Again::Asked, generation)
                && !control.rewind(number)
            {
                self.set(number, Again::Asked, Again::No, None);
            }
        }
        let missing: Vec<i32> =
            (0..).zip(&marks).filter(|(_, mark)| !holds(mark)).map(|(number, _)| number).collect();
        let is_whole = missing.is_empty();
        locked(&self.0).missing = Some(missing);
        if is_whole && self.trouble().is_none() {
            locked(&self.0).has_been_whole = true;
        }
    }

    /// The partitions that have been written whole. Those that were begun in another generation of the
    /// registry begin once more.
    fn written(&self, generation: Option<Generation>) -> Vec<i32> {
        let state = &mut *locked(&self.0);
        let mut written = Vec::new();
        for (number, part) in &mut state.read {
            if part.again == Again::Written {
                match part.generation == generation {
                    true => written.push(*number),
                    false => part.again = Again::No,
                }
            }
        }
        written
    }

    /// Goes from one state to another, if the partition is in the first.
    fn set(&self, number: i32, from: Again, to: Again, generation: Option<Generation>) -> bool {
        let state = &mut *locked(&self.0);
        let Some(part) = state.read.get_mut(&number).filter(|part| part.again == from) else {
            return false;
        };
        part.again = to;
        part.generation = generation;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI32, Ordering};

    use bytes::Bytes;
    use registry::{Event, EventPlace, MemoryRegistry, ViewKey};

    use super::*;
    use crate::{
        bus::{Lag, Trouble},
        relay::offsets::{Budget, OffsetGuard, Record},
    };

    /// A consumer of one partition, which counts how often it was to begin anew.
    #[derive(Debug, Default)]
    struct Rewinds(AtomicI32);

    impl ConsumerControl for Rewinds {
        fn store(&self, _: i32, _: i64) {}

        fn pause(&self, _: i32) {}

        fn resume(&self, _: i32) {}

        fn rewind(&self, _: i32) -> bool {
            self.0.fetch_add(1, Ordering::Relaxed);
            true
        }

        fn topic_id(&self) -> Option<String> {
            Some("x".to_owned())
        }

        fn partition_count(&self) -> Option<i32> {
            Some(1)
        }

        fn lag(&self) -> Vec<Lag> {
            Vec::new()
        }

        fn troubles(&self) -> Vec<Trouble> {
            Vec::new()
        }
    }

    /// A view of which this node reads the only partition.
    struct Bed {
        build: Build,
        control: Rewinds,
        registry: MemoryRegistry,
        window: OffsetTracker,
    }

    impl Bed {
        fn new() -> Self {
            let window = OffsetTracker::new(&Budget::default());
            let bed = Self {
                build: Build::default(),
                control: Rewinds::default(),
                registry: MemoryRegistry::new(),
                window,
            };
            bed.build.reads(&[0]);
            bed
        }

        /// Looks in this generation of the registry; returns how often the reader began anew so far.
        async fn look(&self, generation: u64, now_ms: u64) -> i32 {
            let (registry, telemetry) = (&self.registry, &Telemetry::new());
            let generation = Some(Generation(generation));
            let look = Look { registry, telemetry, generation, now_ms };
            self.build.look(&"orders".into(), &self.control, &look).await;
            self.control.0.load(Ordering::Relaxed)
        }

        fn guard(&self, offset: i64) -> OffsetGuard {
            let key = ViewKey { view: "orders".into(), key: Bytes::from_static(b"1") };
            let place = EventPlace { topic: "x".into(), partition: 0, offset, at_ms: 0 };
            let event = Event { key, place, state: None, content: None };
            self.window.guard(offset, Record::of_event(event))
        }
    }

    #[tokio::test]
    async fn a_partition_is_built_when_all_of_it_has_been_written() {
        let bed = Bed::new();
        assert_eq!(bed.build.missing(), Some(vec![]), "nobody has looked");
        assert_eq!(bed.look(7, 1).await, 1);
        assert_eq!(bed.build.missing(), Some(vec![0]));
        bed.build.reached_end(0, &bed.window);
        bed.build.tend(0, &bed.window);
        assert_eq!(bed.look(7, 2).await, 1, "what ended there was the reading before");
        assert_eq!(bed.build.missing(), Some(vec![0]));

        bed.build.rewound(&[0]);
        let waiting = bed.guard(3);
        bed.build.reached_end(0, &bed.window);
        let later = bed.guard(4);
        bed.build.tend(0, &bed.window);
        bed.look(7, 3).await;
        assert_eq!(bed.build.missing(), Some(vec![0]), "one event has not been written");
        waiting.done();
        bed.build.tend(0, &bed.window);
        assert_eq!(bed.look(7, 4).await, 1);
        assert_eq!((bed.build.missing(), bed.build.trouble()), (None, None));
        assert!(bed.build.has_been_whole());
        later.done();

        // Another node that takes the partition over reads on, and is behind until it has had all of it.
        bed.build.reads(&[]);
        bed.build.reads(&[0]);
        assert_eq!(bed.look(7, 5).await, 1);
        assert!(bed.build.missing().is_none() && bed.build.trouble().is_some());
        bed.build.reached_end(0, &bed.window);
        assert_eq!(bed.build.trouble(), None);
    }

    #[tokio::test]
    async fn what_a_registry_had_before_is_built_again() {
        let bed = Bed::new();
        bed.look(7, 1).await;
        bed.build.rewound(&[0]);
        bed.build.reached_end(0, &bed.window);
        bed.build.tend(0, &bed.window);
        // The half that was written first may be lost.
        assert_eq!(bed.look(8, 2).await, 2);
        assert_eq!(bed.build.missing(), Some(vec![0]));
        bed.build.rewound(&[0]);
        bed.build.reached_end(0, &bed.window);
        bed.build.tend(0, &bed.window);
        assert_eq!(bed.look(8, 3).await, 2);
        assert_eq!(bed.build.missing(), None);

        // Old, and complete all the same.
        let half_ms = EVENT_TTL.as_millis() as u64 / 2;
        assert_eq!(bed.look(8, half_ms).await, 2);
        assert_eq!(bed.look(8, half_ms + 10).await, 3);
        assert_eq!(bed.build.missing(), None);
        assert_eq!(bed.look(8, half_ms + 20).await, 3, "it is on its way");
        assert_eq!(bed.look(9, half_ms + 30).await, 3);
        assert_eq!(bed.build.missing(), Some(vec![0]), "of another generation it is none");
    }

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let mark = Mark { generation: Some(7), topic: Some("x".to_owned()), built_ms: 9 };
        assert_eq!(Mark::parse(&mark.write()), Some(mark));
        let bare = Mark { generation: None, topic: None, built_ms: 9 };
        assert_eq!(Mark::parse("zone=a b=9 what"), Some(bare));
        assert_eq!(Mark::parse("g=7 t=x"), None);
        assert_eq!(Mark::parse("b=x"), None);
    }

    #[test]
    fn a_mark_holds_in_its_generation_and_topic() {
        let mark = Mark { generation: Some(7), topic: Some("x".to_owned()), built_ms: 9 };
        assert!(mark.holds(Some(Generation(7)), Some("x")) && mark.holds(None, None));
        assert!(!mark.holds(Some(Generation(8)), Some("x")));
        assert!(!mark.holds(Some(Generation(7)), Some("y")));
        let half_ms = EVENT_TTL.as_millis() as u64 / 2;
        assert!(!mark.is_old(half_ms) && mark.is_old(half_ms + 10));
    }
}
