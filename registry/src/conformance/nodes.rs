//! What a [`crate::tables::NodeTable`] promises.

use std::time::Duration;

use super::{eventually, good, node_entry, same};
use crate::{
    tables::{Announcement, NodeEntry, NodeState, Registry},
    versions::Versions,
};

/// Longer than any check takes.
const LONG: Duration = Duration::from_secs(60);
/// Long enough to be seen, short enough to be waited for.
const SHORT: Duration = Duration::from_millis(500);

pub(super) async fn are_fresh_then_refreshed(registry: &impl Registry) {
    same(&nodes(registry).await, &Vec::new(), "an empty table has no nodes");
    let mut entry = node_entry("gw-1", 5);
    announce(registry, &entry, LONG, Announcement::Fresh).await;
    announce(registry, &entry, LONG, Announcement::Refreshed).await;

    entry.state = NodeState::Draining;
    entry.url = "https://other.example:1".to_owned();
    entry.speaks = Versions { lowest: 2, highest: 3 };
    announce(registry, &entry, LONG, Announcement::Refreshed).await;
    same(&nodes(registry).await, &vec![entry], "a refresh replaces state, URL and versions");
}

pub(super) async fn are_listed_as_announced_and_in_order(registry: &impl Registry) {
    let states = [NodeState::Ready, NodeState::Starting, NodeState::Draining, NodeState::Unknown];
    let longest = "n".repeat(64);
    let ids = ["b", "a-1", "Z_9", "a", "a.1", "0", "a10", "a9", &longest];
    let mut expected = Vec::new();
    for (index, id) in ids.into_iter().enumerate() {
        let url = format!("http://[::1]:90{index}/ \"%20\\ é?x=|1\n");
        let entry = NodeEntry { state: states[index % 4], url, ..node_entry(id, 1) };
        announce(registry, &entry, LONG, Announcement::Fresh).await;
        expected.push(entry);
    }
    expected.sort_by(|a, b| a.node.id.cmp(&b.node.id));
    same(&nodes(registry).await, &expected, "all nodes, ordered by their ids");
}

pub(super) async fn give_way_to_a_later_run(registry: &impl Registry) {
    let [former, later] = [node_entry("gw-1", 5), node_entry("gw-1", 6)];
    announce(registry, &former, LONG, Announcement::Fresh).await;
    announce(registry, &later, LONG, Announcement::Fresh).await;
    announce(registry, &former, LONG, Announcement::Superseded).await;
    same(&nodes(registry).await, &vec![later.clone()], "the later run stays, unchanged");
    announce(registry, &later, LONG, Announcement::Refreshed).await;
}

pub(super) async fn compare_whole_incarnations(registry: &impl Registry) {
    // 2^53 and the number after it are one number to whoever computes in floating point.
    let rising = [0, 9, 10, 1 << 53, (1 << 53) + 1, u64::MAX - 1, u64::MAX];
    for incarnation in rising {
        announce(registry, &node_entry("gw-1", incarnation), LONG, Announcement::Fresh).await;
    }
    for incarnation in &rising[..6] {
        let former = node_entry("gw-1", *incarnation);
        announce(registry, &former, LONG, Announcement::Superseded).await;
    }
    let expected = vec![node_entry("gw-1", u64::MAX)];
    same(&nodes(registry).await, &expected, "incarnations are compared and kept as whole numbers");
}

pub(super) async fn leave_as_one_run(registry: &impl Registry) {
    let [former, later, other] =
        [node_entry("gw-1", 5), node_entry("gw-1", 6), node_entry("gw-2", 5)];
    good(registry.leave(&former.node).await, "leave of a node that is not there");
    announce(registry, &later, LONG, Announcement::Fresh).await;
    announce(registry, &other, LONG, Announcement::Fresh).await;

    good(registry.leave(&former.node).await, "leave of a former run");
    let both = vec![later.clone(), other.clone()];
    same(&nodes(registry).await, &both, "a former run's leave leaves the later run");

    good(registry.leave(&later.node).await, "leave");
    same(&nodes(registry).await, &vec![other], "a node that left is not listed");
    announce(registry, &former, LONG, Announcement::Fresh).await;
    good(registry.leave(&later.node).await, "leave of a later run");
    same(&nodes(registry).await.len(), &2, "a later run's leave leaves the former run");
}

pub(super) async fn expire_unless_refreshed(registry: &impl Registry) {
    let [silent, lively] = [node_entry("silent", 1), node_entry("lively", 1)];
    good(registry.announce(&lively, SHORT).await, "announce");
    good(registry.announce(&lively, LONG).await, "announce");
    // Its short life begins last: once that has ended, the first one of the other node would have
    // ended, too.
    announce(registry, &silent, SHORT, Announcement::Fresh).await;
    let left = vec![lively];
    eventually("a node that is silent is not listed", async || nodes(registry).await == left).await;

    announce(registry, &silent, LONG, Announcement::Fresh).await;
    announce(registry, &silent, Duration::ZERO, Announcement::Refreshed).await;
    eventually("a refresh may shorten a life", async || nodes(registry).await == left).await;
    announce(registry, &silent, Duration::MAX, Announcement::Fresh).await;
    same(&nodes(registry).await.len(), &2, "no length of a life is refused");
}

pub(super) async fn are_not_held_off_by_an_expired_run(registry: &impl Registry) {
    let [former, later] = [node_entry("gw-1", 5), node_entry("gw-1", 6)];
    announce(registry, &later, SHORT, Announcement::Fresh).await;
    let empty = async || nodes(registry).await.is_empty();
    eventually("the only node has expired", empty).await;
    announce(registry, &former, LONG, Announcement::Fresh).await;
    same(&nodes(registry).await, &vec![former], "an expired run holds off nobody");
}

pub(super) async fn of_two_runs_at_once_keep_the_later(registry: &impl Registry) {
    for round in 0..50 {
        let name = format!("gw-{round}");
        let [former, later] = [node_entry(&name, 5), node_entry(&name, 6)];
        let (of_former, of_later) =
            tokio::join!(registry.announce(&former, LONG), registry.announce(&later, LONG));
        let (of_former, of_later) = (good(of_former, "announce"), good(of_later, "announce"));
        same(&of_later, &Announcement::Fresh, "the later of two runs is fresh");
        let possible = [Announcement::Fresh, Announcement::Superseded];
        assert!(possible.contains(&of_former), "the former of two runs was {of_former:?}");
        let found: Vec<_> = nodes(registry)
            .await
            .into_iter()
            .filter(|entry| entry.node.id == later.node.id)
            .collect();
        same(&found, &vec![later], "of two runs at once the later stays");
    }
}

async fn announce(
    registry: &impl Registry,
    entry: &NodeEntry,
    ttl: Duration,
    expected: Announcement,
) {
    let said = good(registry.announce(entry, ttl).await, "announce");
    same(&said, &expected, &format!("announce of {} for {ttl:?}", entry.node));
}

async fn nodes(registry: &impl Registry) -> Vec<NodeEntry> {
    let nodes = good(registry.nodes().await, "nodes");
    same(&nodes.unread, &Vec::new(), "what was announced can be read");
    nodes.entries
}
