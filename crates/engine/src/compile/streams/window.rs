//! Windows, and in how many batches a stream has rows.

use std::time::Duration;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use tidemill_dstream::Diagnostic;

use super::Elaborator;
use crate::compile::diagnose::Place;
use crate::compile::leaf::{Leaf, LeafTable, NodeId};

impl Elaborator<'_> {
    /// A plan that reads what a node gave in the last batches. Length and slide are multiples of the slide of the node.
    pub(super) fn window(
        &self,
        node: NodeId,
        length: Duration,
        slide: Option<Duration>,
        stream: &str,
        place: &Place,
    ) -> Result<LogicalPlan, Diagnostic> {
        let parent = &self.nodes[node.0];
        let interval = self.graph.batch_interval;
        let unit = interval * parent.slide;
        let slide = slide.unwrap_or(unit);
        for (what, duration) in [("length", length), ("slide", slide)] {
            if duration.is_zero() || duration.as_nanos() % unit.as_nanos().max(1) != 0 {
                return Err(place
                    .diagnostic(format!(
                        "{what} {duration:?} is not a multiple of {unit:?}, at which its input has rows"
                    ))
                    .hint(format!(
                        "{:?} is one",
                        unit * (duration.as_nanos() / unit.as_nanos().max(1) + 1) as u32
                    )));
            }
        }
        let batches = (length.as_nanos() / interval.as_nanos().max(1)) as u32;
        let slide = (slide.as_nanos() / interval.as_nanos().max(1)) as u32;
        let leaf = if batches == parent.slide {
            // The window is the batch.
            Leaf::Stream(node)
        } else {
            Leaf::Window { node, batches }
        };
        let table = LeafTable {
            leaf,
            slide,
            label: format!("{} of the last {batches} batches", parent.name),
            schema: parent.schema(),
            physical: None,
        };
        table.scan(stream).map_err(|e| place.explain(&e, self.state))
    }
}

/// In how many batches a plan has rows: in those in which everything that it reads has some.
pub(super) fn slide_of(plan: &LogicalPlan) -> u32 {
    let mut slide = 1;
    // The closure never fails.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some(leaf) = LeafTable::of(scan)
        {
            slide = least_common_multiple(slide, leaf.slide.max(1));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    slide
}

fn least_common_multiple(a: u32, b: u32) -> u32 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}
