//! Calls every peer once, as soon as it is in the node table, so that the log names a peer that
//! cannot be called before any reply is waiting for it. Decides only when to call; `peer::health`
//! reports the outcome.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use registry::{NodeEntry, NodeRef};
use tokio::time::{Instant, sleep_until};

use super::Membership;
use crate::{peer::PeerLink, telemetry::Telemetry};

/// How long a peer may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// First and last pause between two calls of a peer that does not answer.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How many calls are under way at a time.
const CALLS_MAX: usize = 16;

/// Which peers have been called, and when the others are due.
#[derive(Debug)]
pub struct Greetings {
    telemetry: Arc<Telemetry>,
    membership: Arc<Membership>,
    link: Arc<dyn PeerLink>,
    peers: HashMap<NodeRef, Greeting>,
}

#[derive(Clone, Copy, Debug)]
enum Greeting {
    Due { at: Instant, pause: Duration },
    Answered,
}

impl Greetings {
    /// No peer has been called yet.
    pub fn new(
        membership: &Arc<Membership>,
        link: Arc<dyn PeerLink>,
        telemetry: &Arc<Telemetry>,
    ) -> Self {
        let (telemetry, membership) = (Arc::clone(telemetry), Arc::clone(membership));
        Self { telemetry, membership, link, peers: HashMap::new() }
    }

    /// Calls each new peer, for as long as the node lives.
    pub async fn run(mut self) {
        loop {
            let due = self.due();
            let link = &self.link;
            let calls = due
                .into_iter()
                .map(async |peer: NodeEntry| (link.greet(&peer, PATIENCE).await, peer.node));
            let answers: Vec<_> = stream::iter(calls).buffer_unordered(CALLS_MAX).collect().await;
            for (answer, node) in answers {
                if let Err(error) = &answer {
                    self.telemetry.forwarded(node.id.as_str(), "failed", 1);
                    tracing::debug!(peer = %node, %error, "it has not answered its first call");
                }
                self.note(&node, answer.is_ok());
            }
            let next = self.peers.values().filter_map(Greeting::at).min();
            tokio::select! {
                biased;
                () = self.membership.read_again() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// The peers that are due, out of those that live. A peer that was restarted counts as a new
    /// one.
    fn due(&mut self) -> Vec<NodeEntry> {
        let (now, live) = (Instant::now(), self.membership.others());
        let runs: HashSet<&NodeRef> = live.iter().map(|entry| &entry.node).collect();
        self.peers.retain(|node, _| runs.contains(node));
        let first = Greeting::Due { at: now, pause: PAUSE.0 };
        let mut is_due = |entry: &NodeEntry| {
            let greeting = self.peers.entry(entry.node.clone()).or_insert(first);
            greeting.at().is_some_and(|at| at <= now)
        };
        live.into_iter().filter(|entry| is_due(entry)).collect()
    }

    fn note(&mut self, node: &NodeRef, has_answered: bool) {
        let Some(greeting) = self.peers.get_mut(node) else { return };
        if has_answered {
            *greeting = Greeting::Answered;
        } else if let Greeting::Due { at, pause } = greeting {
            *at = Instant::now() + *pause;
            *pause = (*pause * 2).min(PAUSE.1);
        }
    }
}

impl Greeting {
    fn at(&self) -> Option<Instant> {
        match self {
            Self::Due { at, .. } => Some(*at),
            Self::Answered => None,
        }
    }
}
