//! Which member of a group reads which partition. Of `n` members, the one that came `p mod n`th
//! reads partition `p`. A partition moves once its reader has let go of it, as in Kafka's
//! cooperative protocol.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use super::log::{Record, Topic};
use crate::bus::Lag;

/// The members of a group and the progress of its partitions.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// In the order in which they came.
    members: BTreeMap<u64, Member>,
    partitions: BTreeMap<i32, Progress>,
}

#[derive(Debug, Default)]
struct Member {
    reading: BTreeMap<i32, Reading>,
    joined: bool,
    /// Its partitions have been given to others, which it is yet to be told.
    lost: bool,
    /// Whether it is told when it has had all of a partition.
    tells_ends: bool,
    /// The partition it has had a record of last: the next one is another's.
    last: i32,
}

/// How far a member has got in a partition.
#[derive(Debug)]
struct Reading {
    position: i64,
    paused: bool,
    /// It has had everything, and been told.
    ended: bool,
    /// It is to be read from its beginning.
    rewinds: bool,
    /// Of the topic that is read.
    generation: u64,
}

/// How far the group has got in a partition. Offsets of records to be read next.
#[derive(Debug, Default)]
struct Progress {
    reader: Option<u64>,
    stored: i64,
    committed: i64,
    /// Of the topic in which these offsets mean something.
    generation: u64,
}

/// The next event of a member.
#[derive(Debug)]
pub(super) enum Step {
    Assigned(Vec<i32>),
    Revoked { partitions: Vec<i32>, lost: bool },
    Rewound(Vec<i32>),
    Ended(i32),
    Record { partition: i32, offset: i64, record: Arc<Record> },
}

impl Group {
    pub(super) fn join(&mut self, member: u64) {
        self.members.insert(member, Member::default());
    }

    /// Lets go of what the member has; what it stored is committed only if it takes its leave.
    pub(super) fn leave(&mut self, member: u64, orderly: bool) {
        self.members.remove(&member);
        for progress in self.partitions.values_mut().filter(|p| p.reader == Some(member)) {
            progress.release(orderly);
        }
    }

    pub(super) fn lose_all(&mut self) {
        self.partitions.values_mut().for_each(|progress| progress.release(false));
        self.members.values_mut().for_each(|member| member.lost = true);
    }

    pub(super) fn commit(&mut self, member: u64) {
        for progress in self.partitions.values_mut().filter(|p| p.reader == Some(member)) {
            progress.committed = progress.stored;
        }
    }

    pub(super) fn store(&mut self, member: u64, partition: i32, offset: i64) {
        if let Some(progress) = self.partitions.get_mut(&partition)
            && progress.reader == Some(member)
        {
            progress.stored = offset;
        }
    }

    pub(super) fn set_paused(&mut self, member: u64, partition: i32, paused: bool) {
        let member = self.members.get_mut(&member);
        if let Some(reading) = member.and_then(|member| member.reading.get_mut(&partition)) {
            reading.paused = paused;
        }
    }

    pub(super) fn tell_ends(&mut self, member: u64) {
        if let Some(member) = self.members.get_mut(&member) {
            member.tells_ends = true;
        }
    }

    pub(super) fn rewind_one(&mut self, member: u64, partition: i32) {
        let member = self.members.get_mut(&member);
        if let Some(reading) = member.and_then(|member| member.reading.get_mut(&partition)) {
            reading.rewinds = true;
        }
    }

    pub(super) fn lag(&self, member: u64, topic: &Topic) -> Vec<Lag> {
        let reading = self.members.get(&member).into_iter().flat_map(|member| &member.reading);
        reading
            .map(|(&partition, reading)| Lag {
                partition,
                records: (topic.end(partition) - reading.position).max(0),
            })
            .collect()
    }

    /// The next event for the member, if there is one.
    pub(super) fn step(&mut self, id: u64, topic: &Topic) -> Option<Step> {
        for partition in 0..topic.partition_count() {
            self.partitions.entry(partition).or_default();
        }
        self.revoke(id)
            .or_else(|| self.assign(id, topic))
            .or_else(|| self.rewind(id, topic))
            .or_else(|| self.read(id, topic))
    }

    /// Begins anew where the topic is another one by now.
    fn rewind(&mut self, id: u64, topic: &Topic) -> Option<Step> {
        let mut rewound = Vec::new();
        for (&partition, reading) in &mut self.members.get_mut(&id)?.reading {
            if reading.generation != topic.generation || reading.rewinds {
                let generation = topic.generation;
                *reading =
                    Reading { position: 0, ended: false, rewinds: false, generation, ..*reading };
                rewound.push(partition);
            }
        }
        for partition in &rewound {
            self.partitions.entry(*partition).or_default().begin_in(topic);
        }
        (!rewound.is_empty()).then_some(Step::Rewound(rewound))
    }

    fn revoke(&mut self, id: u64) -> Option<Step> {
        let owners: Vec<u64> = self.members.keys().copied().collect();
        let member = self.members.get_mut(&id)?;
        let lost = std::mem::take(&mut member.lost);
        let keeps = |partition: &i32| !lost && owner(&owners, *partition) == Some(id);
        let partitions: Vec<i32> = member
            .reading
            .extract_if(.., |partition, _| !keeps(partition))
            .map(|(p, _)| p)
            .collect();
        for (partition, progress) in &mut self.partitions {
            if !lost && partitions.contains(partition) {
                progress.release(true);
            }
        }
        (!partitions.is_empty()).then_some(Step::Revoked { partitions, lost })
    }

    fn assign(&mut self, id: u64, topic: &Topic) -> Option<Step> {
        let owners: Vec<u64> = self.members.keys().copied().collect();
        let member = self.members.get_mut(&id)?;
        let mut assigned = Vec::new();
        for (&partition, progress) in &mut self.partitions {
            if progress.reader.is_none() && owner(&owners, partition) == Some(id) {
                progress.reader = Some(id);
                progress.begin_in(topic);
                let (position, generation) = (progress.committed, topic.generation);
                let (paused, ended, rewinds) = (false, false, false);
                let reading = Reading { position, paused, ended, rewinds, generation };
                member.reading.insert(partition, reading);
                assigned.push(partition);
            }
        }
        let first = !std::mem::replace(&mut member.joined, true);
        (first || !assigned.is_empty()).then_some(Step::Assigned(assigned))
    }

    fn read(&mut self, id: u64, topic: &Topic) -> Option<Step> {
        let member = self.members.get_mut(&id)?;
        let after_last = (Bound::Excluded(member.last), Bound::Unbounded);
        let in_turn = member.reading.range(after_last).chain(member.reading.range(..=member.last));
        let next =
            in_turn.filter(|(_, reading)| !reading.paused).find_map(|(&partition, reading)| {
                let (offset, record) = topic.read(partition, reading.position)?;
                Some((partition, offset, record))
            });
        let Some((partition, offset, record)) = next else {
            let mut silent = member.reading.iter_mut().filter(|(_, reading)| !reading.ended);
            let (&partition, reading) = silent.next().filter(|_| member.tells_ends)?;
            reading.ended = true;
            return Some(Step::Ended(partition));
        };
        member.last = partition;
        let reading = member.reading.get_mut(&partition)?;
        reading.position = offset + 1;
        reading.ended = false;
        Some(Step::Record { partition, offset, record })
    }
}

impl Progress {
    /// Offsets of another topic mean nothing in this one.
    fn begin_in(&mut self, topic: &Topic) {
        if self.generation != topic.generation {
            *self = Self { reader: self.reader, generation: topic.generation, ..Self::default() };
        }
    }

    fn release(&mut self, commit: bool) {
        self.reader = None;
        if commit {
            self.committed = self.stored;
        }
        self.stored = self.committed;
    }
}

/// The member that has to read the partition.
fn owner(members: &[u64], partition: i32) -> Option<u64> {
    members.get(usize::try_from(partition).ok()?.checked_rem(members.len())?).copied()
}
