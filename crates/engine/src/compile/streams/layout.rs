//! Where the rows of a node are: in how many partitions, and which are together.
//!
//! A node whose layout is its own matter is *sealed*: it has a physical plan of its own, which the plans of its readers
//! contain as it is. All other nodes leave to planning where their rows are.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use tidemill_dstream::Line;

use super::{Elaborator, Faults, Site};
use crate::accumulate::Added;
use crate::compile::leaf::{Leaf, LeafTable, NodeId};
use crate::glom::glommed;
use crate::registry::BatchesFunction;

/// What the layout of a node's rows is to be.
#[derive(Clone, Debug, Default)]
pub(in crate::compile) struct Layout {
    pub(in crate::compile) sealed: bool,
    /// The number of partitions for which the plan is made; `None`: the job's.
    pub(in crate::compile) partitions: Option<u32>,
    /// What happens behind the plan, in this order.
    pub(in crate::compile) finish: Vec<Finish>,
}

/// What happens to rows partition by partition, or moves them to others.
#[derive(Clone, Debug)]
pub(in crate::compile) enum Finish {
    /// By the hash of the columns at these places; `None`: into as many partitions as the job has.
    ByHash {
        columns: Vec<usize>,
        partitions: Option<u32>,
    },
    /// In so many partitions; by the hash of these columns if they are not in as many already.
    Partitions {
        columns: Vec<usize>,
        partitions: u32,
    },
    /// Evenly over so many.
    Evenly(u32),
    /// Over so many files.
    Files(u32),
    /// In one partition.
    Gather,
    Glom,
    /// A registered function of record batches.
    Batches(BatchesFunction),
    /// An `accumulate` step, by its number within the job.
    Accumulate {
        operator: u32,
        added: Arc<[Added]>,
    },
}

impl Layout {
    /// The node has a plan of its own.
    pub(in crate::compile) fn is_sealed(&self) -> bool {
        self.sealed || self.partitions.is_some() || !self.finish.is_empty()
    }

    /// The `accumulate` steps behind the plan.
    pub(in crate::compile) fn accumulating(&self) -> impl Iterator<Item = u32> {
        self.finish.iter().filter_map(|finish| match finish {
            Finish::Accumulate { operator, .. } => Some(*operator),
            _ => None,
        })
    }

    /// The columns of the rows behind a plan with these columns.
    pub(super) fn schema(&self, plan: SchemaRef) -> SchemaRef {
        self.finish.iter().fold(plan, |schema, finish| match finish {
            Finish::Glom => glommed(&schema),
            // It was asked before, and gave some.
            Finish::Batches(function) => function.schema(&schema).unwrap_or(schema),
            Finish::ByHash { .. }
            | Finish::Partitions { .. }
            | Finish::Evenly(_)
            | Finish::Files(_)
            | Finish::Gather
            | Finish::Accumulate { .. } => schema,
        })
    }
}

/// There is no stream without partitions.
pub(super) fn check_partitions(site: Site<'_>, partitions: u32) -> Result<(), Faults> {
    if partitions > 0 {
        return Ok(());
    }
    let place = site.place.child("partitions", Line(None));
    Err(vec![place.diagnostic("is 0, it has to be at least 1")])
}

impl Elaborator<'_> {
    /// A plan of a node with these rows and this layout.
    pub(super) fn laid_out(
        &mut self,
        site: Site<'_>,
        plan: LogicalPlan,
        layout: Layout,
    ) -> Result<LogicalPlan, Faults> {
        let node = self.push(&site.behind(), site.place.clone(), plan);
        self.nodes[node.0].layout = layout;
        self.leaf(node)
            .scan(&site.stream.name)
            .map_err(|e| vec![site.place.explain(&e, self.state)])
    }

    /// The result of a step with the number of partitions that it asks for, if it does. Its first columns are the keys;
    /// without keys the result is one record, which is in one partition.
    pub(super) fn sized(
        &mut self,
        site: Site<'_>,
        input: LogicalPlan,
        partitions: Option<u32>,
        keys: usize,
        build: impl FnOnce(&mut Self, LogicalPlan) -> Result<LogicalPlan, Faults>,
    ) -> Result<LogicalPlan, Faults> {
        let Some(partitions) = partitions else {
            return build(self, input);
        };
        check_partitions(site, partitions)?;
        if keys == 0 {
            return build(self, input);
        }
        let input = self.settled(site, input)?;
        let plan = build(self, input)?;
        let columns = (0..keys).collect();
        let layout = Layout {
            partitions: Some(partitions),
            finish: vec![Finish::Partitions { columns, partitions }],
            ..Layout::default()
        };
        self.laid_out(site, plan, layout)
    }

    /// The same rows, where they are in the job's number of partitions if anything moves them.
    pub(super) fn settled(&mut self, site: Site<'_>, plan: LogicalPlan) -> Result<LogicalPlan, Faults> {
        if self.is_narrow(&plan) {
            return Ok(plan);
        }
        let (node, leaf) = self.split(site, plan);
        self.nodes[node.0].layout.sealed = true;
        leaf.scan(&site.stream.name)
            .map_err(|e| vec![site.place.explain(&e, self.state)])
    }

    /// Whether planning moves no rows of a plan.
    pub(super) fn is_narrow(&self, plan: &LogicalPlan) -> bool {
        let mut narrow = true;
        // The closure never fails.
        let _ = plan.apply_with_subqueries(|node| {
            narrow &= match node {
                LogicalPlan::Projection(_)
                | LogicalPlan::Filter(_)
                | LogicalPlan::Unnest(_)
                | LogicalPlan::SubqueryAlias(_)
                | LogicalPlan::Union(_) => true,
                LogicalPlan::TableScan(scan) => match LeafTable::of(scan).map(|leaf| leaf.leaf) {
                    Some(Leaf::Stream(NodeId(node))) => {
                        let node = &self.nodes[node];
                        node.layout.is_sealed() || node.narrow
                    }
                    _ => true,
                },
                _ => false,
            };
            Ok(match narrow {
                true => TreeNodeRecursion::Continue,
                false => TreeNodeRecursion::Stop,
            })
        });
        narrow
    }
}
