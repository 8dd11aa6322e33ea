//! Who is in the cluster: announces this node, and knows which peers are alive.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use registry::{
    Announcement, EntryKind, Generation, NodeEntry, NodeId, NodeRef, NodeState, Registry,
    RegistryError,
};
use tokio::{sync::Notify, time::Instant};

use super::{
    health::RegistryHealth,
    known::{Known, Nodes},
    tag::NodeTag,
};
use crate::{peer::spoken, relay::surroundings::Surroundings, tasks::locked, telemetry::Telemetry};

/// How often a node refreshes its entry in the node table.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
/// How long an entry lives without a refresh: a node that is silent for so long counts as dead.
const NODE_TTL: Duration = Duration::from_secs(6);
/// How long it takes until all live nodes have noticed that the registry has lost something, and
/// have written it again.
const RECOVERY_TIME: Duration = Duration::from_secs(4);
/// The pause between two attempts while the registry cannot be reached.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// What this node knows of the cluster.
#[derive(Debug)]
pub struct Membership {
    this: NodeRef,
    url: String,
    state: Mutex<NodeState>,
    registry: Arc<dyn Registry>,
    /// Whether the registry answers, judged by the latest call of any part of this node.
    pub health: Arc<RegistryHealth>,
    telemetry: Arc<Telemetry>,
    known: ArcSwap<Known>,
    /// Tells that the table was read again, and may have changed.
    read: Notify,
    changed: Notify,
    announced: AtomicBool,
    /// Why the last announcement failed; `None` if it did not.
    trouble: Mutex<Option<RegistryError>>,
    /// How many unreadable entries of each kind had been counted when it was last looked at.
    unreadable: Mutex<[u64; EntryKind::ALL.len()]>,
    /// From this time on all live nodes have written what they hold again, whatever the table had
    /// lost before; `None` until this node is announced.
    complete_from: Mutex<Option<Instant>>,
    table: Mutex<Table>,
}

/// What the latest announcement has shown of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableState {
    /// Its generation, where it has one.
    pub generation: Option<Generation>,
    /// Whether it lacks what this node holds, which has to be written again. Reported once.
    pub lacks_ours: bool,
}

/// What is known about the table's completeness.
#[derive(Debug, Default)]
struct Table {
    generation: Option<Generation>,
    /// Until this time, live nodes are writing again what it has lost.
    recovers_until: Option<Instant>,
    /// Whether this node still has to do so.
    lacks_ours: bool,
}

impl Table {
    /// Takes both in one step, so that what is written again is never said to be of the former one.
    fn take_state(&mut self) -> TableState {
        let lacks_ours = std::mem::take(&mut self.lacks_ours);
        TableState { generation: self.generation, lacks_ours }
    }
}

/// Another node runs under this node's name, and has started later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another node with the same node_id has started")]
pub struct Superseded;

impl Membership {
    /// A node that has not announced itself.
    pub fn new(around: &Surroundings) -> Self {
        Self {
            this: around.node.clone(),
            url: around.url.clone(),
            state: Mutex::new(NodeState::Starting),
            registry: Arc::clone(&around.registry),
            health: Arc::default(),
            telemetry: Arc::clone(&around.telemetry),
            known: ArcSwap::default(),
            read: Notify::new(),
            changed: Notify::new(),
            announced: AtomicBool::new(false),
            trouble: Mutex::default(),
            unreadable: Mutex::default(),
            complete_from: Mutex::default(),
            table: Mutex::default(),
        }
    }

    /// Changes this node's entry, which the others read, at once.
    pub fn set_state(&self, state: NodeState) {
        if std::mem::replace(&mut *locked(&self.state), state) != state {
            self.changed.notify_one();
        }
    }

    /// Whether this node has been announced at least once.
    pub fn is_announced(&self) -> bool {
        self.announced.load(Ordering::Relaxed)
    }

    /// What is wrong with the registry or a part of it, as of the latest announcement.
    pub fn trouble(&self) -> Option<RegistryError> {
        locked(&self.trouble).clone()
    }

    /// A peer's entry, if that very run of it is alive.
    pub fn find(&self, node: &NodeRef) -> Option<NodeEntry> {
        self.known.load().nodes.get(&node.id).filter(|entry| entry.node == *node).cloned()
    }

    /// The names of the other nodes that are alive.
    pub fn peers(&self) -> Vec<NodeId> {
        let known = self.known.load();
        known.nodes.keys().filter(|id| **id != self.this.id).cloned().collect()
    }

    /// The other nodes that are alive, in the order of their names.
    pub fn others(&self) -> Vec<NodeEntry> {
        let known = self.known.load();
        let others = known.nodes.values().filter(|entry| entry.node.id != self.this.id);
        let mut others: Vec<NodeEntry> = others.cloned().collect();
        others.sort_unstable_by(|one, other| one.node.id.cmp(&other.node.id));
        others
    }

    /// Waits until the table has been read once more. For one task only. Cancel safe.
    pub(super) async fn read_again(&self) {
        self.read.notified().await;
    }

    /// The one live peer that has this node tag; `None` if there is none, or more than one. Never
    /// this node.
    pub fn find_tagged(&self, tag: NodeTag) -> Option<NodeRef> {
        self.known.load().by_tag.get(&tag)?.clone()
    }

    /// Reads from the registry who is alive, and whether it has gone back to an earlier state.
    ///
    /// # Errors
    /// What the registry says; what was known before stays.
    pub async fn refresh(&self) -> Result<(), RegistryError> {
        let (nodes, generation) = tokio::join!(self.registry.nodes(), self.registry.generation());
        let nodes = nodes?;
        match generation {
            Ok(generation) => self.saw(generation),
            // A part of it cannot be asked, and was not while this node ran.
            Err(error) => tracing::debug!(%error, "the registry's generation is not known"),
        }
        let unread = nodes.unread;
        let mut nodes: Nodes =
            nodes.entries.into_iter().map(|entry| (entry.node.id.clone(), entry)).collect();
        // A peer whose entry cannot be read is still alive, at the address that was known before.
        for entry in unread.iter().filter_map(|node| self.find(node)) {
            nodes.insert(entry.node.id.clone(), entry);
        }
        if self.is_announced() && !nodes.contains_key(&self.this.id) {
            self.has_lost();
        }
        if self.is_incomplete() {
            // Peers that are missing there have not had their turn yet.
            for (id, entry) in &self.known.load().nodes {
                nodes.entry(id.clone()).or_insert_with(|| entry.clone());
            }
        }
        self.known.store(Arc::new(Known::new(nodes, &self.this)));
        self.read.notify_one();
        Ok(())
    }

    /// Whether the registry may have lost what live nodes hold, be it before this node came. While
    /// it may, neither a missing route nor a missing node means anything.
    pub fn is_incomplete(&self) -> bool {
        locked(&self.complete_from).is_none_or(|from| Instant::now() < from)
    }

    /// Whether the registry is known to have lost something that live nodes hold, and they may not
    /// have written all of it again. (A node that has just come cannot know: see
    /// [`Membership::is_incomplete`].)
    pub fn is_recovering(&self) -> bool {
        let is_time = |until| Instant::now() < until;
        let has_peers = || self.known.load().nodes.keys().any(|id| *id != self.this.id);
        locked(&self.table).recovers_until.is_some_and(is_time) && has_peers()
    }

    /// The registry's generation, as it was seen last.
    pub fn generation(&self) -> Option<Generation> {
        locked(&self.table).generation
    }

    /// The registry is of this generation now. If it was of another one before, it may have gone
    /// back to an earlier state.
    pub fn saw(&self, generation: Option<Generation>) {
        // A registry that no longer has a generation has not changed for that reason.
        let Some(generation) = generation else { return };
        let before = locked(&self.table).generation.replace(generation);
        match before {
            Some(before) if before != generation => self.has_lost(),
            // What was written meanwhile does not say in which generation it was.
            None if self.is_announced() => self.lacks_ours(),
            Some(_) | None => {}
        }
    }

    /// The registry has lost a part of what it held.
    fn has_lost(&self) {
        self.doubt();
        locked(&self.table).recovers_until = Some(Instant::now() + RECOVERY_TIME);
        self.lacks_ours();
    }

    /// The registry may lack what this node holds.
    fn lacks_ours(&self) {
        locked(&self.table).lacks_ours = true;
        self.changed.notify_one();
    }

    /// The registry has lost what it held, or may have. Each live node announces itself, and writes
    /// again what it holds, within the time after which it would count as dead.
    fn doubt(&self) {
        *locked(&self.complete_from) = Some(Instant::now() + NODE_TTL);
    }

    /// Announces this node for as long as it lives, or until another node takes its name. `heard`
    /// is called with what each announcement has shown of the table.
    ///
    /// # Errors
    /// [`Superseded`]: this node must stop.
    pub async fn run(&self, heard: impl Fn(TableState)) -> Result<(), Superseded> {
        // The clock of a former run may have been ahead: that run counts as the later one until its
        // entry has expired. A run that lives would go on announcing itself.
        let patience = Instant::now() + NODE_TTL + ANNOUNCE_INTERVAL;
        loop {
            let result = self.announce(&heard).await;
            self.tell(result.as_ref().err().cloned().or_else(|| self.registry.trouble()));
            let pause = match result {
                Ok(Announcement::Superseded)
                    if self.is_announced() || patience <= Instant::now() =>
                {
                    return Err(Superseded);
                }
                Ok(Announcement::Superseded) => RETRY_INTERVAL,
                Ok(_) => ANNOUNCE_INTERVAL,
                Err(error) => {
                    tracing::debug!(%error, "not announced");
                    RETRY_INTERVAL
                }
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Logs what is wrong with the registry, once per change, and which entries could not be read.
    fn tell(&self, error: Option<RegistryError>) {
        let before = std::mem::replace(&mut *locked(&self.trouble), error.clone());
        if let Some(error) = error
            && before.as_ref() != Some(&error)
        {
            tracing::warn!(%error, "the registry does not do what it should");
        }
        let unreadable = self.registry.unreadable();
        let mut counted = locked(&self.unreadable);
        for (kind, counted) in EntryKind::ALL.into_iter().zip(counted.iter_mut()) {
            let (count, last) = unreadable.of(kind);
            if *counted == 0 && count > 0 {
                let entry = kind.as_str();
                tracing::warn!(
                    entry,
                    at = last,
                    "an entry of the registry cannot be read; skipped"
                );
            }
            self.telemetry.registry_unreadable(kind, count.saturating_sub(*counted));
            *counted = count;
        }
    }

    /// Takes this node out of the table.
    pub async fn leave(&self) {
        if let Err(error) = self.registry.leave(&self.this).await {
            tracing::debug!(%error, "not taken out of the node table; the entry will expire");
        }
    }

    async fn announce(&self, heard: &impl Fn(TableState)) -> Result<Announcement, RegistryError> {
        let entry = NodeEntry {
            node: self.this.clone(),
            url: self.url.clone(),
            state: *locked(&self.state),
            speaks: spoken(),
        };
        let started = Instant::now();
        let result = self.registry.announce(&entry, NODE_TTL).await;
        self.telemetry.registry_call("announce", started.elapsed());
        self.health.heard(std::slice::from_ref(&result));
        let announcement = result?;
        if announcement == Announcement::Fresh {
            self.doubt();
            if self.is_announced() {
                self.has_lost();
            }
        }
        self.refresh().await?;
        if announcement != Announcement::Superseded {
            self.announced.store(true, Ordering::Relaxed);
        }
        let state = locked(&self.table).take_state();
        if state.lacks_ours {
            tracing::warn!("the registry may lack what this node holds; writing it again");
        }
        heard(state);
        Ok(announcement)
    }
}

#[cfg(test)]
mod tests {
    use registry::{MemoryRegistry, NodeTable};

    use super::*;
    use crate::{
        peer::SPOKEN,
        relay::bed::{self, Ground},
    };

    fn node(id: &str, incarnation: u64) -> NodeRef {
        NodeRef { id: NodeId::parse(id).unwrap(), incarnation }
    }

    fn member(this: NodeRef, registry: Arc<dyn Registry>) -> Membership {
        let ground = Ground { registry, ..Ground::default() };
        Membership::new(&Surroundings { node: this, ..bed::surroundings(ground) })
    }

    /// A run of `id` that has the node tag of `other`.
    fn twin(id: &str, other: &NodeRef) -> NodeRef {
        let mut runs = (1..).map(|incarnation| node(id, incarnation));
        runs.find(|run| NodeTag::of(run) == NodeTag::of(other)).unwrap()
    }

    /// What the first of these nodes finds by the node tag of each of them.
    async fn by_tag(nodes: &[NodeRef]) -> Vec<Option<NodeRef>> {
        let registry = Arc::new(MemoryRegistry::new());
        for node in nodes {
            let url = "http://127.0.0.1:1".to_owned();
            let entry =
                NodeEntry { node: node.clone(), url, state: NodeState::Ready, speaks: SPOKEN };
            registry.announce(&entry, NODE_TTL).await.unwrap();
        }
        let membership = member(nodes[0].clone(), registry);
        membership.refresh().await.unwrap();
        nodes.iter().map(|node| membership.find_tagged(NodeTag::of(node))).collect()
    }

    #[tokio::test]
    async fn what_the_table_has_lost_is_told_once_with_its_generation() {
        let registry = Arc::new(MemoryRegistry::new());
        let membership = member(node("gw-1", 1), registry);
        let lack = || {
            let TableState { generation, lacks_ours } = locked(&membership.table).take_state();
            (generation, lacks_ours)
        };
        membership.saw(Some(Generation(1)));
        assert_eq!(lack(), (Some(Generation(1)), false));
        membership.saw(Some(Generation(2)));
        assert_eq!(lack(), (Some(Generation(2)), true));
        assert_eq!(lack(), (Some(Generation(2)), false));
    }

    #[tokio::test]
    async fn a_peer_is_found_by_its_tag_and_this_node_is_not() {
        let (this, peer) = (node("gw-1", 1), node("gw-2", 1));
        assert_eq!(by_tag(&[this, peer.clone()]).await, [None, Some(peer)]);
    }

    /// How a node ends if another run, whose clock is ahead, has its name; `lives` says whether
    /// that run goes on announcing itself.
    async fn after_a_later_run(lives: bool) -> (Result<(), tokio::time::error::Elapsed>, bool) {
        let (this, later) = (node("gw-1", 5), node("gw-1", 10_005));
        let registry = Arc::new(MemoryRegistry::new());
        let url = "http://127.0.0.1:1".to_owned();
        let entry = NodeEntry { node: later, url, state: NodeState::Ready, speaks: SPOKEN };
        registry.announce(&entry, NODE_TTL).await.unwrap();
        let membership = member(this, Arc::clone(&registry) as _);
        let run = async {
            assert_eq!(membership.run(|_| {}).await, Err(Superseded));
        };
        let living = async {
            loop {
                if lives {
                    registry.announce(&entry, NODE_TTL).await.unwrap();
                }
                tokio::time::sleep(ANNOUNCE_INTERVAL).await;
            }
        };
        let both = async {
            tokio::select! {
                () = run => {}
                () = living => {}
            }
        };
        (tokio::time::timeout(NODE_TTL * 3, both).await, membership.is_announced())
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_set_back_keeps_nobody_from_starting_again() {
        let (ended, is_announced) = after_a_later_run(false).await;
        assert!(ended.is_err() && is_announced, "the dead run's entry ends");
        let (ended, is_announced) = after_a_later_run(true).await;
        assert!(ended.is_ok() && !is_announced, "a run that lives keeps its name");
    }

    #[tokio::test]
    async fn a_tag_of_two_peers_names_none() {
        let (this, peer, other) = (node("gw-1", 1), node("gw-2", 1), node("gw-3", 1));
        let (one, two) = (twin("gw-4", &peer), twin("gw-5", &peer));
        let all = [this, peer, other.clone(), one, two];
        assert_eq!(by_tag(&all).await, [None, None, Some(other), None, None]);
    }

    #[tokio::test]
    async fn a_peer_with_the_tag_of_this_node_is_found_by_it() {
        let this = node("gw-1", 1);
        let peer = twin("gw-2", &this);
        assert_eq!(by_tag(&[this, peer.clone()]).await, [Some(peer.clone()), Some(peer)]);
    }
}
