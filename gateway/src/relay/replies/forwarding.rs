//! Forwards foreign replies, in order, to the nodes that wait for them. The node tag in a reply's
//! id names the node; where no live peer has that tag, the registry is asked.
//!
//! Every foreign reply holds its partition's offset back until it is known what became of it. What
//! cannot be looked up or delivered yet waits, and is never dropped for that reason.

use std::{sync::Arc, time::Duration};

use registry::{Answers, NodeRef, Registry, RequestId, Route};
use tokio::time::{Instant, sleep_until};

use crate::{
    relay::{
        checkpoints::Checkpoints,
        cluster::{Membership, NodeTag, RegistryHealth},
        environment::Environment,
        requests::{
            Completion, Reception, Requests,
            foreign::{ForeignReply, LookupQueue, Wants},
            parts::Room,
        },
        services::Services,
        session::Sessions,
        surroundings::Surroundings,
    },
    telemetry::{ReplyPath, Telemetry},
};

mod from_peers;
mod moved;
mod sender;
mod senders;
mod stored;

use senders::PeerSenders;
use stored::Unwanted;

/// How many look-ups go in one round trip.
const LOOKUPS_MAX: usize = 512;
/// A route may be slower than its reply: "no route" is final only for ids older than this.
const ROUTE_DELAY_MAX: Duration = Duration::from_secs(2);
/// How long every reply without a route is looked up again, however old its id.
const SECOND_LOOK: Duration = Duration::from_millis(100);
/// How much the clocks of two nodes may differ. An id says when it was chosen by the clock of
/// another node, so one that looks younger than this may be quite new.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(60);
/// First and last pause between two look-ups of the same young id.
const LOOKUP_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
/// Until what the registry could not answer is asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// The pause between two looks for a node that may be asleep.
const RARE_INTERVAL: Duration = Duration::from_secs(1);

/// Forwards foreign replies. Shared by the reader and the tasks that forward.
#[derive(Debug)]
pub struct Forwarding {
    node: NodeRef,
    services: Arc<Services>,
    completion: Arc<Completion>,
    sessions: Arc<Sessions>,
    checkpoints: Arc<Checkpoints>,
    membership: Arc<Membership>,
    registry: Arc<dyn Registry>,
    health: Arc<RegistryHealth>,
    environment: Arc<Environment>,
    telemetry: Arc<Telemetry>,
    lookups: Arc<LookupQueue>,
    senders: Arc<PeerSenders>,
}

/// A foreign reply without a route that may still get one.
#[derive(Debug)]
struct Waiting {
    foreign: ForeignReply,
    next: Instant,
    pause: Duration,
    /// Until then what is missing may be about to be written: the registry could not be asked
    /// before.
    doubtful_until: Instant,
    /// Whether the registry has said that it is not expected as a result.
    is_no_result: bool,
}

impl Forwarding {
    /// Nothing is being forwarded.
    pub fn new(around: &Surroundings, requests: &Requests, membership: &Arc<Membership>) -> Self {
        let (services, completion) = (&requests.services, requests.completion());
        let lookups = Arc::clone(&completion.foreign);
        let senders = Arc::new(PeerSenders::new(around, services, membership, &lookups));
        Self {
            node: around.node.clone(),
            services: Arc::clone(services),
            completion: Arc::clone(completion),
            sessions: Arc::clone(&completion.sessions),
            checkpoints: Arc::clone(&completion.checkpoints),
            membership: Arc::clone(membership),
            registry: Arc::clone(&around.registry),
            health: Arc::clone(&membership.health),
            environment: Arc::clone(&around.environment),
            telemetry: Arc::clone(&around.telemetry),
            lookups,
            senders,
        }
    }

    /// Takes a new foreign reply over. It is queued for the peer that its node tag names, or is
    /// looked up.
    pub fn take(&self, foreign: ForeignReply) {
        let tag = NodeTag::read(foreign.request);
        let left = match tag.and_then(|tag| self.membership.find_tagged(tag)) {
            Some(peer) => self.senders.push(&peer, foreign),
            None => Some(foreign),
        };
        if let Some(foreign) = left {
            self.lookups.put([foreign]);
        }
    }

    /// Looks up which nodes wait for foreign replies, and forwards them, for as long as the node
    /// lives.
    pub async fn run(self: Arc<Self>) {
        let mut waiting: Vec<Waiting> = Vec::new();
        loop {
            let next = waiting.iter().map(|waiting| waiting.next).min();
            tokio::select! {
                biased;
                () = self.lookups.filled() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
            let now = Instant::now();
            let mut batch: Vec<Waiting> = waiting.extract_if(.., |w| w.next <= now).collect();
            for mut foreign in self.lookups.take() {
                let is_early = std::mem::take(&mut foreign.is_early);
                let pause = (LOOKUP_PAUSE.0 * (1 << foreign.unread.min(8))).min(LOOKUP_PAUSE.1);
                let (doubtful_until, is_no_result) = (now, false);
                let item = Waiting { foreign, next: now, pause, doubtful_until, is_no_result };
                match is_early {
                    true => waiting.push(item.later()),
                    false => batch.push(item),
                }
            }
            while !batch.is_empty() {
                let rest = batch.split_off(batch.len().min(LOOKUPS_MAX));
                self.look_up(std::mem::replace(&mut batch, rest), &mut waiting).await;
            }
        }
    }

    async fn look_up(&self, batch: Vec<Waiting>, waiting: &mut Vec<Waiting>) {
        // The session that waits for it may have come here meanwhile.
        let batch: Vec<Waiting> =
            batch.into_iter().filter_map(|item| self.deliver_here(item)).collect();
        if batch.is_empty() {
            return;
        }
        let requests: Vec<RequestId> = batch.iter().map(|w| w.foreign.request).collect();
        let answers = self.find_routes(&requests).await;
        // Two answers need a second look at the registry, once for the whole batch: a node not
        // heard of yet may be new, and "no route" may mean that the registry has lost everything.
        let is_doubtful = |(item, answer): (&Waiting, &Result<Option<Route>, _>)| match answer {
            Ok(Some(route)) => route.node != self.node && !self.is_alive(&route.node),
            Ok(None) => self.is_final(item),
            Err(_) => false,
        };
        let is_sure = !batch.iter().zip(&answers).any(is_doubtful) || self.is_refreshed().await;
        let is_complete = is_sure && !self.membership.is_incomplete();
        let (mut moved, mut unwanted) = (Vec::new(), Vec::new());
        for (mut item, answer) in batch.into_iter().zip(answers) {
            // That it cannot be asked is no answer.
            let Ok(route) = answer else {
                waiting.push(item.unasked());
                continue;
            };
            let Some(route) = route else {
                let is_final = is_complete && self.is_final(&item);
                match is_final || !item.is_no_result {
                    true => unwanted.push(Unwanted { item, is_final, node: None }),
                    false => waiting.push(item.later()),
                }
                continue;
            };
            item.foreign.wants = wants(&route, item.foreign.wants.as_ref());
            let is_there = route.node != self.node
                && !item.foreign.is_denied_by(&route.node)
                && self.is_alive(&route.node);
            if is_there {
                waiting.extend(self.forward(item, &route.node));
                continue;
            }
            // Its session may have come here since it was read.
            let Some(item) = self.deliver_here(item) else { continue };
            let is_lost = route.node == self.node || item.foreign.is_denied_by(&route.node);
            match &item.foreign.wants {
                Some(_) => moved.push(item),
                None if is_complete || is_lost => {
                    unwanted.push(Unwanted { item, is_final: true, node: Some(route.node) });
                }
                None => waiting.push(item.later()),
            }
        }
        if !moved.is_empty() {
            self.follow(moved, waiting).await;
        }
        if !unwanted.is_empty() {
            self.store(unwanted, waiting).await;
        }
    }

    /// Delivers a foreign reply for which somebody here waits after all; otherwise returns it.
    fn deliver_here(&self, mut item: Waiting) -> Option<Waiting> {
        if self.completion.streams().room(item.foreign.request, item.foreign.reply.item.part)
            == Room::Crowded
        {
            return Some(item);
        }
        let foreign = &mut item.foreign;
        let guard = &mut foreign.guard;
        let reply = &foreign.reply;
        let reception = self.completion.deliver(
            foreign.request,
            |_| ReplyPath::Local,
            None,
            |_| guard.take(),
            |service| reply.passing(|name| service.passes_to_client(name)),
        );
        match reception {
            Reception::Unknown => return Some(item),
            // The session keeps the guard of its offset.
            Reception::Kept(_) | Reception::Crowded(Some(_)) => {}
            Reception::Delivered | Reception::Crowded(None) => item.foreign.done(),
            Reception::Over => self.unrouted(item.foreign),
        }
        None
    }

    async fn find_routes(&self, requests: &[RequestId]) -> Answers<Option<Route>> {
        let started = Instant::now();
        let answers = self.registry.find_routes(requests).await;
        self.telemetry.registry_call("find_routes", started.elapsed());
        self.health.heard(&answers);
        if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
            tracing::debug!(%error, "routes not found");
        }
        answers
    }

    /// Asks anew who is alive, and whether the registry has lost anything; false where that is not
    /// to be had.
    async fn is_refreshed(&self) -> bool {
        let outcome = self.membership.refresh().await;
        if let Err(error) = &outcome {
            tracing::debug!(%error, "node table not read");
        }
        outcome.is_ok()
    }

    fn is_alive(&self, node: &NodeRef) -> bool {
        self.membership.find(node).is_some()
    }

    /// Queues a foreign reply for a node; returns it, to be tried later, if that node's queue is
    /// full.
    fn forward(&self, item: Waiting, node: &NodeRef) -> Option<Waiting> {
        let Waiting { foreign, next, pause, doubtful_until, is_no_result } = item;
        let foreign = self.senders.push(node, foreign)?;
        Some(Waiting { foreign, next, pause, doubtful_until, is_no_result }.later())
    }

    /// The HTTP call that the reply answers is over: it has ended on its node, or with it.
    fn give_up(&self, foreign: ForeignReply, node: &NodeRef) {
        if *node != self.node && !self.is_alive(node) {
            self.telemetry.frames_abandoned("node_lost", 1);
        }
        self.unrouted(foreign);
    }

    /// Whether a route that is missing will not come any more, if the registry has lost nothing.
    fn is_final(&self, item: &Waiting) -> bool {
        let foreign = &item.foreign;
        let young_ms = (ROUTE_DELAY_MAX + CLOCKS_APART_MAX).as_millis() as u64;
        let now_ms = self.environment.unix_ms();
        let is_old = foreign.request.unix_ms().saturating_add(young_ms) < now_ms;
        let search = if is_old { SECOND_LOOK } else { ROUTE_DELAY_MAX };
        foreign.read_at.elapsed() >= search && !item.is_doubtful()
    }

    /// Nobody waits for the reply any more.
    fn unrouted(&self, foreign: ForeignReply) {
        tracing::debug!(request = %foreign.request, "nobody waits for the reply");
        self.services.count_reply(ReplyPath::Unrouted);
        foreign.done();
    }
}

fn wants(route: &Route, before: Option<&Wants>) -> Option<Wants> {
    let client_id = route.client_id.clone().unwrap_or_default();
    let epoch = before.and_then(|before| before.epoch);
    let may_be_part = route.may_be_part;
    route.session.map(|session| Wants { session, client_id, may_be_part, epoch })
}

impl Waiting {
    fn later(self) -> Self {
        let pause = (self.pause * 2).min(LOOKUP_PAUSE.1);
        Self { next: Instant::now() + self.pause, pause, ..self }
    }

    /// There may be many of these, for long.
    fn rarely(self) -> Self {
        Self { next: Instant::now() + RARE_INTERVAL, ..self }
    }

    /// The registry could not be asked. When it can be, whoever could not write what is missing
    /// there has to have his turn first.
    fn unasked(self) -> Self {
        let next = Instant::now() + RETRY_INTERVAL;
        Self { next, doubtful_until: next + ROUTE_DELAY_MAX, ..self }
    }

    fn is_doubtful(&self) -> bool {
        Instant::now() < self.doubtful_until
    }
}

#[cfg(test)]
mod tests;
