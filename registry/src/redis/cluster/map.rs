//! Which master has which slots of a cluster, as far as is known, and a link to each master.
//!
//! Sorts commands by the master that is asked. A map is never changed: another one takes its place.

use std::sync::Arc;

use futures_util::{
    FutureExt,
    future::{join_all, select_ok},
};
use redis::{Cmd, Pipeline};
use tokio::time::Instant;

use super::slots::{self, Slots};
use crate::{
    error::{Cause, RegistryError, Trouble},
    redis::{
        link::{Answer, Link, Told},
        target::{Address, Seeds},
        trouble,
    },
};

/// Which master has which slots, as far as is known.
#[derive(Default)]
pub(super) struct Map {
    /// In order.
    pub(super) slots: Arc<[Slots]>,
    pub(super) masters: Vec<Arc<Master>>,
}

/// One master.
pub(super) struct Master {
    pub(super) address: Address,
    pub(super) link: Link,
}

/// The part of a batch that one master is asked for.
pub(super) struct Lane {
    pub(super) master: Arc<Master>,
    pub(super) commands: Pipeline,
    /// The positions of the commands in the batch.
    pub(super) places: Vec<usize>,
    /// Each is only for this once.
    is_asking: bool,
}

impl Map {
    /// The map of these slots. Who was known before keeps its link.
    pub(super) fn new(
        slots: Arc<[Slots]>,
        seeds: &Seeds,
        known: &[Arc<Master>],
        besides: Option<&Arc<Master>>,
    ) -> Self {
        let mut masters: Vec<Arc<Master>> = Vec::new();
        for Slots { master: address, .. } in &*slots {
            if masters.iter().all(|master| master.address != *address) {
                let is_it = |master: &&Arc<Master>| master.address == *address;
                let had = known.iter().chain(besides).find(is_it).cloned();
                masters.push(had.unwrap_or_else(|| Master::new(seeds, address.clone())));
            }
        }
        Self { slots, masters }
    }

    /// The master at this address.
    pub(super) fn at(&self, address: &Address) -> Option<&Arc<Master>> {
        self.masters.iter().find(|master| master.address == *address)
    }

    /// Which master is asked for which of these commands. A command whose slot no master has is in
    /// no lane.
    pub(super) fn lanes(&self, commands: impl Iterator<Item = (usize, Cmd)>) -> Vec<Lane> {
        let mut lanes: Vec<Lane> = Vec::with_capacity(self.masters.len());
        for (at, command) in commands {
            let Some(address) = self.master_of(slots::slot_of(&command)) else { continue };
            let lane = lanes.iter_mut().find(|lane| lane.master.address == *address);
            match lane {
                Some(lane) => lane.add(at, command),
                None => {
                    let master = self.at(address).expect("each has a link");
                    lanes.push(Lane::new(Arc::clone(master), false, [(at, command)]));
                }
            }
        }
        lanes
    }

    fn master_of(&self, slot: u16) -> Option<&Address> {
        let after = self.slots.partition_point(|slots| slots.first <= slot);
        let slots = self.slots.get(after.checked_sub(1)?)?;
        (slot <= slots.last).then_some(&slots.master)
    }

    /// Asks every master.
    pub(super) async fn everywhere(&self, command: &Pipeline, end: Instant) -> Vec<Told> {
        join_all(self.masters.iter().map(|master| master.link.tell(command, end))).await
    }
}

impl Master {
    /// A master to which a link is being opened.
    pub(super) fn new(seeds: &Seeds, address: Address) -> Arc<Self> {
        let link = Link::new(seeds.server(&address));
        Arc::new(Self { address, link })
    }

    /// Who has which slots, by its word. One that the others have lost sight of does not know.
    pub(super) async fn slots(&self) -> Result<Arc<[Slots]>, RegistryError> {
        let mut question = Pipeline::with_capacity(2);
        question.cmd("CLUSTER").arg("INFO");
        question.cmd("CLUSTER").arg("SLOTS");
        let mut answers = self.link.send(&question, None).await?.into_iter();
        let mut next = || answers.next().unwrap_or_default();
        let (info, slots) = (next(), next());
        let failed =
            |why: &str| Err(trouble::unreachable(self.link.label(), Cause::Other(why.to_owned())));
        if slots::says_down(&info) {
            return failed("it says that the cluster is down");
        }
        match slots::read_slots(&self.link.judge(slots)?, &self.address) {
            Some(slots) => Ok(slots.into()),
            None => failed("it knows no master that has slots"),
        }
    }
}

impl Lane {
    /// What this master is asked for.
    pub(super) fn new(
        master: Arc<Master>,
        is_asking: bool,
        commands: impl IntoIterator<Item = (usize, Cmd)>,
    ) -> Self {
        let mut lane = Self { master, commands: Pipeline::new(), places: Vec::new(), is_asking };
        commands.into_iter().for_each(|(at, command)| lane.add(at, command));
        lane
    }

    fn add(&mut self, at: usize, command: Cmd) {
        if self.is_asking {
            self.commands.cmd("ASKING");
        }
        self.commands.add_command(command);
        self.places.push(at);
    }

    /// The second attempt of what was asked of another master before: one answer for each place.
    pub(super) async fn ask_again(&self) -> Vec<Answer> {
        match self.master.link.send(&self.commands, None).await {
            Ok(told) => {
                // The answers to ASKING stand before the others.
                let told = told.into_iter().skip(self.is_asking.into());
                let told = told.step_by(1 + usize::from(self.is_asking));
                told.map(|answer| self.master.link.judge(answer)).collect()
            }
            Err(error) => vec![Err(error); self.places.len()],
        }
    }
}

/// Asks all these masters at once who has which slots, and takes the first answer; where there is
/// none, those of whom the URL tells.
pub(super) async fn ask_all(
    masters: Vec<Arc<Master>>,
    seeds: Arc<Seeds>,
) -> Result<Arc<[Slots]>, RegistryError> {
    if let Some(Ok(slots)) = first_answer(masters).await {
        return Ok(slots);
    }
    let masters = seeds.addresses().map(|address| Master::new(&seeds, address)).collect();
    match first_answer(masters).await.expect("a URL has an address") {
        Err(RegistryError::Unreachable(Trouble { cause, .. })) => {
            Err(trouble::unreachable(seeds.label(), cause))
        }
        told => told,
    }
}

async fn first_answer(masters: Vec<Arc<Master>>) -> Option<Result<Arc<[Slots]>, RegistryError>> {
    let calls = masters.iter().map(|master| master.slots().boxed());
    match masters.is_empty() {
        true => None,
        false => Some(select_ok(calls).await.map(|(slots, _)| slots)),
    }
}
