//! Brings replies home that nobody on this node waits for: forwards them, in order, to the node
//! that waits. The mark in a reply's id names it; where that leads nowhere, the registry is asked.
//!
//! Every stray holds its partition's offset back until somebody has said what became of it. What
//! cannot be looked up or delivered yet waits; it is never dropped for that reason.

use std::{sync::Arc, time::Duration};

use registry::{Answers, NodeRef, Registry, RequestId, Route};
use tokio::time::Instant;

use crate::{
    relay::{
        checkpoints::Checkpoints,
        cluster::{Membership, NodeTag, RegistryHealth},
        environment::Environment,
        requests::{
            Completion, Delivery, Requests,
            foreign::{ForeignReply, LookupQueue, Wants},
        },
        services::Services,
        session::Sessions,
        surroundings::Surroundings,
    },
    telemetry::{Telemetry, Way},
};

mod from_peers;
mod moved;
mod sender;
mod senders;

use senders::PeerSenders;

/// Look-ups in one round trip.
const LOOKUPS_MAX: usize = 512;
/// A route may be slower than its reply: "no route" is final only for ids older than this.
const SETTLING_TIME: Duration = Duration::from_secs(2);
/// How long every reply without a route is looked up again, however old its id.
const SECOND_LOOK: Duration = Duration::from_millis(100);
/// How much the clocks of two nodes may differ: an id tells when it was chosen by the clock of the node
/// that chose it, so a younger one than this may be as young as any.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(60);
/// First and last pause between two look-ups of the same young id.
const LOOKUP_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
/// Until what the registry could not answer is asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// The way home for strays. Shared by the reader and the tasks that bring them home.
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
    inbox: Arc<LookupQueue>,
    lines: Arc<PeerSenders>,
}

/// A stray without a route that may still get one.
#[derive(Debug)]
struct Waiting {
    stray: ForeignReply,
    next: Instant,
    pause: Duration,
    /// Until then what is missing may be about to be written: the registry could not be asked before.
    doubtful_until: Instant,
}

impl Forwarding {
    /// Nothing on its way.
    pub fn new(around: &Surroundings, requests: &Requests, membership: &Arc<Membership>) -> Self {
        let (services, completion) = (&requests.services, requests.completion());
        let inbox = Arc::clone(&completion.foreign);
        let lines = Arc::new(PeerSenders::new(around, services, membership, &inbox));
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
            inbox,
            lines,
        }
    }

    /// Takes a newly found stray over: it goes to the peer that its mark names, at once, or is
    /// looked up.
    pub fn take(&self, stray: ForeignReply) {
        let mark = NodeTag::read(stray.request);
        let left = match mark.and_then(|mark| self.membership.find_marked(mark)) {
            Some(peer) => self.lines.push(&peer, stray),
            None => Some(stray),
        };
        if let Some(stray) = left {
            self.inbox.put([stray]);
        }
    }

    /// Asks whose strays are, and sends them there, for as long as the node lives.
    pub async fn run(self: Arc<Self>) {
        let mut waiting: Vec<Waiting> = Vec::new();
        loop {
            let next = waiting.iter().map(|waiting| waiting.next).min();
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.inbox.filled() => {}
                () = due => {}
            }
            let now = Instant::now();
            let mut batch: Vec<Waiting> = waiting.extract_if(.., |w| w.next <= now).collect();
            for mut stray in self.inbox.take() {
                let is_early = std::mem::take(&mut stray.is_early);
                let pause = (LOOKUP_PAUSE.0 * (1 << stray.unread.min(8))).min(LOOKUP_PAUSE.1);
                let item = Waiting { stray, next: now, pause, doubtful_until: now };
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
        // What it waits for may have come here meanwhile, with its session.
        let batch: Vec<Waiting> =
            batch.into_iter().filter_map(|item| self.deliver_here(item)).collect();
        if batch.is_empty() {
            return;
        }
        let requests: Vec<RequestId> = batch.iter().map(|w| w.stray.request).collect();
        let answers = self.find_routes(&requests).await;
        // Two answers need a second look at the registry, once for the whole batch: a node not heard
        // of yet may be new, and "no route" may mean that the registry has lost everything.
        let is_doubtful = |(item, answer): (&Waiting, &Result<Option<Route>, _>)| match answer {
            Ok(Some(route)) => route.node != self.node && !self.is_alive(&route.node),
            Ok(None) => self.is_settled(item),
            Err(_) => false,
        };
        let is_sure = !batch.iter().zip(&answers).any(is_doubtful) || self.is_refreshed().await;
        let is_complete = is_sure && !self.membership.is_incomplete();
        let mut moved = Vec::new();
        for (mut item, answer) in batch.into_iter().zip(answers) {
            // That it cannot be asked is no answer.
            let Ok(route) = answer else {
                waiting.push(item.unasked());
                continue;
            };
            let Some(route) = route else {
                match is_complete && self.is_settled(&item) {
                    true => self.unrouted(item.stray),
                    false => waiting.push(item.later()),
                }
                continue;
            };
            item.stray.wants = wants(&route, item.stray.wants.as_ref());
            let is_there = route.node != self.node
                && !item.stray.is_denied_by(&route.node)
                && self.is_alive(&route.node);
            if is_there {
                waiting.extend(self.forward(item, &route.node));
                continue;
            }
            // Its session may have come here since it was read.
            let Some(item) = self.deliver_here(item) else { continue };
            let is_lost = route.node == self.node || item.stray.is_denied_by(&route.node);
            match &item.stray.wants {
                Some(_) => moved.push(item),
                None if is_complete || is_lost => self.give_up(item.stray, &route.node),
                None => waiting.push(item.later()),
            }
        }
        if !moved.is_empty() {
            self.follow(moved, waiting).await;
        }
    }

    /// Delivers a stray for which somebody waits here after all; else it comes back.
    fn deliver_here(&self, mut item: Waiting) -> Option<Waiting> {
        let stray = &mut item.stray;
        let hold = &mut stray.hold;
        let reply = &stray.reply;
        let delivery = self.completion.deliver(
            stray.request,
            |_| Way::Local,
            None,
            |_| hold.take(),
            |service| reply.passing(|name| service.passes_to_client(name)),
        );
        match delivery {
            Delivery::Unknown => return Some(item),
            // It holds its offset itself.
            Delivery::Kept(_) => {}
            Delivery::Delivered => item.stray.done(),
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

    /// Asks anew who is alive, and whether the registry has lost anything; false where that is not to
    /// be had.
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

    /// Sends a stray to a node; it comes back for now when that node's queue is full.
    fn forward(&self, item: Waiting, node: &NodeRef) -> Option<Waiting> {
        let Waiting { stray, next, pause, doubtful_until } = item;
        let stray = self.lines.push(node, stray)?;
        Some(Waiting { stray, next, pause, doubtful_until }.later())
    }

    /// The HTTP call that it answers is over: it has ended on its node, or with it.
    fn give_up(&self, stray: ForeignReply, node: &NodeRef) {
        if *node != self.node && !self.is_alive(node) {
            self.telemetry.frames_abandoned("node_lost", 1);
        }
        self.unrouted(stray);
    }

    /// Whether a route that is missing will not come any more, if the registry has lost nothing.
    fn is_settled(&self, item: &Waiting) -> bool {
        let stray = &item.stray;
        let young_ms = (SETTLING_TIME + CLOCKS_APART_MAX).as_millis() as u64;
        let now_ms = self.environment.unix_ms();
        let is_old = stray.request.unix_ms().saturating_add(young_ms) < now_ms;
        let search = if is_old { SECOND_LOOK } else { SETTLING_TIME };
        stray.read_at.elapsed() >= search && !item.is_doubtful()
    }

    /// Nobody waits for it any more.
    fn unrouted(&self, stray: ForeignReply) {
        tracing::debug!(request = %stray.request, "nobody waits for the reply");
        self.services.reply_went(Way::Unrouted);
        stray.done();
    }
}

fn wants(route: &Route, before: Option<&Wants>) -> Option<Wants> {
    let client_id = route.client_id.clone().unwrap_or_default();
    let epoch = before.and_then(|before| before.epoch);
    route.session.map(|session| Wants { session, client_id, epoch })
}

impl Waiting {
    fn later(self) -> Self {
        let pause = (self.pause * 2).min(LOOKUP_PAUSE.1);
        Self { next: Instant::now() + self.pause, pause, ..self }
    }

    /// The registry could not be asked. When it can be, whoever could not write what is missing there
    /// has to have his turn first.
    fn unasked(self) -> Self {
        let next = Instant::now() + RETRY_INTERVAL;
        Self { next, doubtful_until: next + SETTLING_TIME, ..self }
    }

    fn is_doubtful(&self) -> bool {
        Instant::now() < self.doubtful_until
    }
}

#[cfg(test)]
mod tests;
