//! The masters of a Redis Cluster. Each has a link of its own, so one that does not answer holds up
//! nothing that is asked of the others.
//!
//! Owns the map of who has which slots, and follows its changes. Never knows what a command means
//! beyond its first key.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, join_all},
};
use redis::Pipeline;
use tokio::time::{Instant, timeout_at};

use self::{
    map::{Lane, Map, Master, ask_all},
    slots::{Redirect, Slots},
};
use super::{
    limits,
    link::{Answer, Told},
    scripts::Lua,
    target::Seeds,
    trouble,
};
use crate::error::{Cause, RegistryError};

mod map;
mod slots;

/// The question which master has which slots, asked once for all who wait for the answer.
type Asking = Shared<BoxFuture<'static, Result<Arc<[Slots]>, RegistryError>>>;

/// A Redis Cluster.
pub(super) struct Cluster {
    seeds: Arc<Seeds>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    map: Arc<Map>,
    asking: Option<(Instant, Asking)>,
}

impl Cluster {
    /// A cluster of which nothing is known yet but where some of its servers may be.
    pub(super) fn new(seeds: Seeds) -> Self {
        Self { seeds: Arc::new(seeds), state: Mutex::default() }
    }

    /// Where it is, for people.
    pub(super) fn label(&self) -> &str {
        self.seeds.label()
    }

    /// Waits until it is known which masters can be reached. Cancel safe.
    pub(super) async fn decided(&self) {
        let map = self.map().await;
        join_all(map.masters.iter().map(|master| master.link.decided())).await;
    }

    /// Sends each command to the master that has its keys, those of one master in one round trip
    /// and in their order, and gives one answer for each.
    pub(super) async fn send(&self, batch: &Pipeline, script: Option<&Lua>) -> Vec<Answer> {
        let end = Instant::now() + limits::CALL_TIME_MAX;
        let map = timeout_at(end, self.map()).await.unwrap_or_default();
        let mut answers = vec![None; batch.len()];
        let lanes = map.lanes(batch.cmd_iter().cloned().enumerate());
        let calls = lanes.iter().map(|lane| self.ask(&map, lane, script, end));
        for (at, answer) in join_all(calls).await.into_iter().flatten() {
            answers[at] = Some(answer);
        }
        if answers.iter().any(Option::is_none) {
            timeout_at(end, self.refreshed(&map)).await.ok();
        }
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(self.nobody()))).collect()
    }

    /// Sends a command to every master that has slots.
    pub(super) async fn everywhere(&self, command: &Pipeline) -> Vec<Told> {
        let end = Instant::now() + limits::CALL_TIME_MAX;
        let map = timeout_at(end, self.map()).await.unwrap_or_default();
        let mut told = map.everywhere(command, end).await;
        if told.iter().any(|told| told.answer.is_err())
            && let Ok(present) = timeout_at(end, self.refreshed(&map)).await
            && !Arc::ptr_eq(&map, &present)
        {
            told = present.everywhere(command, end).await;
        }
        if told.is_empty() {
            let answer = Err(self.nobody());
            told.push(Told { at: self.label().into(), connections: (0, 0), answer });
        }
        let judge =
            |told: Told| Told { answer: told.answer.map_err(|error| self.partly(error)), ..told };
        told.into_iter().map(judge).collect()
    }

    /// What is the matter with a master, while another one can be reached.
    pub(super) fn trouble(&self) -> Option<RegistryError> {
        let map = Arc::clone(&self.state().map);
        let trouble = map.masters.iter().find_map(|master| master.link.trouble())?;
        Some(self.partly(trouble))
            .filter(|error| matches!(error, RegistryError::PartlyUnreachable(_)))
    }

    /// Carries out what one master is asked for; what has moved, or has a new master, a second time
    /// and there.
    async fn ask(
        &self,
        map: &Arc<Map>,
        lane: &Lane,
        script: Option<&Lua>,
        end: Instant,
    ) -> Vec<(usize, Answer)> {
        let mut answers = vec![None; lane.places.len()];
        let in_time = async {
            let left = self.ask_first(map, lane, script, &mut answers).await;
            let calls = left.iter().map(async |lane| (lane, lane.ask_again().await));
            for (lane, told) in join_all(calls).await {
                for (at, answer) in lane.places.iter().zip(told) {
                    answers[*at] = Some(answer.map_err(|error| self.partly(error)));
                }
            }
        };
        timeout_at(end, in_time).await.ok();
        let silent = |answer: Option<Answer>| {
            answer.unwrap_or_else(|| Err(self.partly(lane.master.link.silence())))
        };
        lane.places.iter().copied().zip(answers.into_iter().map(silent)).collect()
    }

    /// The first attempt; gives what is to be asked of others, by the places in this lane.
    async fn ask_first(
        &self,
        map: &Arc<Map>,
        lane: &Lane,
        script: Option<&Lua>,
        answers: &mut [Option<Answer>],
    ) -> Vec<Lane> {
        let Lane { master, commands, .. } = lane;
        let again = |at: usize| {
            let command = commands.cmd_iter().nth(at).expect("there are as many answers");
            (at, script.map_or_else(|| command.clone(), |script| script.by_text(command)))
        };
        let (mut left, mut down): (Vec<(Redirect, Vec<usize>)>, Vec<usize>) = Default::default();
        match master.link.send(commands, script).await {
            Ok(told) => {
                for (at, answer) in told.into_iter().enumerate() {
                    if let Some(redirect) = slots::read_redirect(&answer, &master.address) {
                        match left.iter_mut().find(|(to, _)| *to == redirect) {
                            Some((_, places)) => places.push(at),
                            None => left.push((redirect, vec![at])),
                        }
                        continue;
                    }
                    if slots::is_cluster_down(&answer) {
                        down.push(at);
                    }
                    let answer = master.link.judge(answer);
                    answers[at] = Some(answer.map_err(|error| self.partly(error)));
                }
            }
            Err(error) => {
                answers.fill(Some(Err(self.partly(error))));
                down.extend(0..answers.len());
            }
        }
        let redirected = join_all(left.into_iter().map(async |(redirect, places)| {
            let master = self.follow(map, &redirect).await;
            Lane::new(master, redirect.is_asking, places.into_iter().map(again))
        }));
        // Another one may have the slots by now of a master that does not do its work.
        let elsewhere = async {
            if down.is_empty() {
                return Vec::new();
            }
            let lanes = self.refreshed(map).await.lanes(down.into_iter().map(again));
            let is_other = |lane: &Lane| !Arc::ptr_eq(&lane.master, master);
            lanes.into_iter().filter(is_other).collect()
        };
        let (redirected, elsewhere) = tokio::join!(redirected, elsewhere);
        redirected.into_iter().chain(elsewhere).collect()
    }

    /// The map of slots; learns it if it is not known yet.
    async fn map(&self) -> Arc<Map> {
        let map = Arc::clone(&self.state().map);
        if map.slots.is_empty() { self.refreshed(&map).await } else { map }
    }

    /// A fresh map, for a caller that has found this one to be wrong. The servers are not asked
    /// again before [`limits::MAP_INTERVAL`] has passed.
    async fn refreshed(&self, known: &Arc<Map>) -> Arc<Map> {
        let asking = {
            let mut state = self.state();
            if !Arc::ptr_eq(&state.map, known) {
                return Arc::clone(&state.map);
            }
            match &state.asking {
                Some((_, asking)) if asking.peek().is_none() => asking.clone(),
                Some((at, _)) if at.elapsed() < limits::MAP_INTERVAL => return Arc::clone(known),
                _ => {
                    let masters = known.masters.clone();
                    let asking = ask_all(masters, Arc::clone(&self.seeds)).boxed().shared();
                    state.asking = Some((Instant::now(), asking.clone()));
                    asking
                }
            }
        };
        match asking.await {
            Ok(slots) => self.replace(known, slots, None),
            Err(_) => Arc::clone(known),
        }
    }

    /// The master to which a redirection leads. Whoever is said to have a slot knows who has which,
    /// and is asked before it gives an answer: what is read there is known to be of another master.
    async fn follow(&self, known: &Arc<Map>, redirect: &Redirect) -> Arc<Master> {
        let present = Arc::clone(&self.state().map);
        let there = present.at(&redirect.to).cloned();
        let is_news = there.is_none() || Arc::ptr_eq(&present, known);
        let master = there.unwrap_or_else(|| Master::new(&self.seeds, redirect.to.clone()));
        if !redirect.is_asking
            && is_news
            && let Ok(slots) = master.slots().await
        {
            self.replace(&present, slots, Some(&master));
        }
        master
    }

    /// Puts another map in the place of the known one, unless somebody has done so.
    fn replace(
        &self,
        known: &Arc<Map>,
        slots: Arc<[Slots]>,
        besides: Option<&Arc<Master>>,
    ) -> Arc<Map> {
        let mut state = self.state();
        if Arc::ptr_eq(&state.map, known) && known.slots != slots {
            state.map = Arc::new(Map::new(slots, &self.seeds, &known.masters, besides));
        }
        Arc::clone(&state.map)
    }

    /// What became of a command whose slot has no master, as far as is known.
    fn nobody(&self) -> RegistryError {
        let cause = match self.state().asking.as_ref().map(|(_, asking)| asking.peek().cloned()) {
            Some(Some(Err(error))) => return error,
            Some(Some(Ok(_))) => Cause::Other("no master has the slot".to_owned()),
            Some(None) | None => Cause::Silent,
        };
        self.partly(trouble::unreachable(self.label(), cause))
    }

    fn partly(&self, error: RegistryError) -> RegistryError {
        match error {
            RegistryError::Unreachable(trouble) if self.is_any_open() => {
                RegistryError::PartlyUnreachable(trouble)
            }
            error => error,
        }
    }

    fn is_any_open(&self) -> bool {
        self.state().map.masters.iter().any(|master| master.link.is_open())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of it is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
