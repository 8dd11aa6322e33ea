//! The live nodes as they were in the table when it was last read, and which of them has a node tag.

use std::collections::HashMap;

use registry::{NodeEntry, NodeId, NodeRef};

use super::tag::NodeTag;

pub(super) type Nodes = HashMap<NodeId, NodeEntry>;

/// The live nodes, as they were in the table when it was last read.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) nodes: Nodes,
    /// The peers by their node tags; `None` if several peers have the same one.
    pub(super) by_tag: HashMap<NodeTag, Option<NodeRef>>,
}

impl Known {
    pub(super) fn new(nodes: Nodes, this: &NodeRef) -> Self {
        let mut by_tag = HashMap::with_capacity(nodes.len());
        for peer in nodes.values().map(|entry| &entry.node).filter(|node| *node != this) {
            by_tag
                .entry(NodeTag::of(peer))
                .and_modify(|one| *one = None)
                .or_insert_with(|| Some(peer.clone()));
        }
        Self { nodes, by_tag }
    }
}
