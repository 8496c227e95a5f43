//! Who reads what: the ground on which it is decided which nodes are datasets.

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;

use super::leaf::{Leaf, LeafTable, NodeId};
use super::streams::Node;

/// Who reads each node, among the nodes that some output depends on and those that are remembered.
pub(super) struct Readers {
    streams: Vec<u32>,
    windows: Vec<u32>,
    needed: Vec<bool>,
    /// Nodes that add to accumulators, by themselves or by what is inlined in them, and that something reads which has
    /// rows less often.
    slowed: Vec<bool>,
}

impl Readers {
    pub(super) fn count(nodes: &[Node]) -> Self {
        let mut readers = Self {
            streams: vec![0; nodes.len()],
            windows: vec![0; nodes.len()],
            needed: nodes
                .iter()
                .map(|node| !node.outputs.is_empty() || !node.remembered.is_empty())
                .collect(),
            slowed: vec![false; nodes.len()],
        };
        let mut accumulates = vec![false; nodes.len()];
        for (i, node) in nodes.iter().enumerate() {
            accumulates[i] = node.layout.accumulating().next().is_some();
            for leaf in leaves(&node.plan) {
                if let Leaf::Stream(read) = leaf.leaf
                    && accumulates[read.0]
                {
                    accumulates[i] = true;
                    readers.slowed[read.0] |= nodes[read.0].slide != node.slide;
                }
            }
        }
        for (i, node) in nodes.iter().enumerate().rev() {
            if !readers.needed[i] {
                continue;
            }
            for leaf in leaves(&node.plan) {
                let (count, read) = match leaf.leaf {
                    Leaf::Stream(read) => (&mut readers.streams, read),
                    Leaf::Window { node: read, .. } => (&mut readers.windows, read),
                    Leaf::Source(_) | Leaf::Dataset { .. } | Leaf::Table(_) => continue,
                };
                count[read.0] += 1;
                readers.needed[read.0] = true;
            }
        }
        readers
    }

    fn all(&self, id: NodeId, node: &Node) -> u32 {
        self.streams[id.0] + self.windows[id.0] + u32::from(!node.outputs.is_empty())
    }

    /// Whether the node has a plan of its own, rather than being inlined.
    pub(super) fn is_planned(&self, id: NodeId, node: &Node) -> bool {
        let is_own =
            node.stateful || node.kept || self.slowed[id.0] || node.layout.is_sealed() || !node.remembered.is_empty();
        let inlined = !is_own && self.streams[id.0] == 1 && self.all(id, node) == 1;
        self.needed[id.0] && !inlined
    }

    /// Whether it is known before its readers are planned that the node's rows are kept.
    pub(super) fn is_dataset(&self, id: NodeId, node: &Node) -> bool {
        if !node.remembered.is_empty() {
            return true;
        }
        let read = self.streams[id.0] + self.windows[id.0];
        // State goes on once in each batch, whoever reads it and when; so does counting.
        read > 0 && (node.stateful || node.kept || self.slowed[id.0] || self.all(id, node) > 1)
    }
}

fn leaves(plan: &LogicalPlan) -> Vec<LeafTable> {
    let mut leaves = Vec::new();
    // The closure never fails.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            leaves.extend(LeafTable::of(scan));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    leaves
}
