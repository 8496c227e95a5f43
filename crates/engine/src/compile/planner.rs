//! Decides what is kept, and makes stages.
//!
//! A node is a *dataset* if more than one reader needs its rows, or if a window has to remember them batch by batch. A
//! node with a single reader is inlined in the reader's plan, so that DataFusion optimises across streams. Below an
//! aggregate over a window, panes are remembered instead of rows.
//!
//! Nodes are planned in their order, producers first; so are the stages of each, and stages are numbered as they come.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_expr::Partitioning;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use tidemill_dstream::plan::JobPlan;
use tidemill_dstream::{Diagnostic, JobGraph};
use tidemill_types::{DatasetId, SlotId};

use super::leaf::{Leaf, LeafTable, NodeId, Physical};
use super::readers::Readers;
use super::sql::estimated_rows;
use super::stages::{Purpose, Stages};
use super::streams::Node;
use crate::TableData;
use crate::panes;
use crate::rules::prepare;
use crate::session::STREAM_ROWS;
use crate::slot_scan::SlotScanExec;
use crate::windowed::{Window, WindowMergeExec};

/// The plan of a job and the templates of its stages.
pub(super) async fn plan(
    graph: &JobGraph,
    tables: &[TableData],
    state: &SessionState,
    nodes: Vec<Node>,
    partitions: u32,
) -> Result<(JobPlan, Vec<Bytes>), Diagnostic> {
    let readers = Readers::count(&nodes);
    let mut planner = Planner {
        tables,
        state,
        nodes: &nodes,
        partitions: partitions as usize,
        leaves: Vec::new(),
        ready: HashMap::new(),
        dataset_of: HashMap::new(),
        stages: Stages::default(),
    };
    for (i, node) in nodes.iter().enumerate() {
        let id = NodeId(i);
        if readers.is_planned(id, node) {
            let planned = planner.node(id, readers.is_dataset(id, node)).await;
            planned.map_err(|e| node.place.explain(&e, state))?;
        }
    }
    Ok(planner.stages.finish(graph, tables, partitions))
}

struct Planner<'a> {
    tables: &'a [TableData],
    state: &'a SessionState,
    nodes: &'a [Node],
    partitions: usize,
    /// By their number in the compilation.
    leaves: Vec<Leaf>,
    /// Plans of nodes that a window reads, until it is known how.
    ready: HashMap<NodeId, Arc<dyn ExecutionPlan>>,
    dataset_of: HashMap<NodeId, DatasetId>,
    stages: Stages,
}

impl Planner<'_> {
    async fn node(&mut self, id: NodeId, keep: bool) -> Result<()> {
        let node = &self.nodes[id.0];
        let logical = self.resolve(node.plan.clone())?;
        let physical = prepare(self.state.create_physical_plan(&logical).await?)?;
        let physical = self.with_panes(physical, node)?;
        self.remember_windows(&physical)?;
        let physical = spread_files(physical, node.files)?;
        if !keep && node.outputs.is_empty() {
            self.ready.insert(id, physical);
            return Ok(());
        }
        let purpose = Purpose {
            name: &node.name,
            every: node.slide,
            keep,
            outputs: &node.outputs,
        };
        if let Some(dataset) = self.stages.add(physical, &purpose, &self.leaves)? {
            self.dataset_of.insert(id, dataset);
        }
        Ok(())
    }

    /// The plan with every leaf in its final form: another node's plan, or something that can be scanned.
    fn resolve(&mut self, plan: LogicalPlan) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let LogicalPlan::TableScan(scan) = &plan else {
                return Ok(Transformed::no(plan));
            };
            let Some(table) = LeafTable::of(scan) else {
                return Ok(Transformed::no(plan));
            };
            let name = scan.table_name.clone();
            let inlined = match &table.leaf {
                Leaf::Stream(node) if !self.dataset_of.contains_key(node) => {
                    Some(self.resolve(self.nodes[node.0].plan.clone())?)
                }
                _ => None,
            };
            let resolved = match inlined {
                Some(inlined) => LogicalPlanBuilder::from(inlined).alias(name)?.build()?,
                None => self.scannable(table).scan(name.table())?,
            };
            Ok(Transformed::yes(resolved))
        })
        .data()
    }

    fn scannable(&mut self, table: LeafTable) -> LeafTable {
        let (leaf, partitions) = match &table.leaf {
            Leaf::Stream(node) => match self.dataset_of.get(node) {
                Some(dataset) => (
                    Leaf::Dataset {
                        dataset: *dataset,
                        batches: 1,
                    },
                    self.stages.partitions(*dataset),
                ),
                None => (table.leaf.clone(), self.partitions),
            },
            Leaf::Window { node, .. } => {
                let partitions = match (self.dataset_of.get(node), self.ready.get(node)) {
                    (Some(dataset), _) => self.stages.partitions(*dataset),
                    (None, Some(plan)) => plan.output_partitioning().partition_count(),
                    (None, None) => self.partitions,
                };
                (table.leaf.clone(), partitions)
            }
            Leaf::Table(_) => (table.leaf.clone(), 1),
            Leaf::Source(_) | Leaf::Dataset { .. } => (table.leaf.clone(), self.partitions),
        };
        let physical = Physical {
            rows: estimated_rows(&leaf, self.tables),
            slot: self.number(leaf.clone()),
            partitions,
        };
        LeafTable {
            leaf,
            physical: Some(physical),
            ..table
        }
    }

    fn number(&mut self, leaf: Leaf) -> SlotId {
        self.leaves.push(leaf);
        SlotId((self.leaves.len() - 1) as u32)
    }

    fn leaf(&self, scan: &SlotScanExec) -> &Leaf {
        &self.leaves[scan.slot().0 as usize]
    }

    /// Puts panes below every aggregate over a window that allows it.
    fn with_panes(&mut self, plan: Arc<dyn ExecutionPlan>, node: &Node) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_down(|plan| {
            let is_window = |scan: &SlotScanExec| matches!(self.leaf(scan), Leaf::Window { .. });
            let Some(aggregate) = panes::find(&plan, &is_window) else {
                return Ok(Transformed::no(plan));
            };
            let slide = self.pane(&aggregate, node)?;
            Ok(Transformed::new(slide, true, TreeNodeRecursion::Jump))
        })
        .data()
    }

    /// Makes the stages of a pane, and the plan of a slide over it.
    fn pane(&mut self, aggregate: &panes::PaneAggregate, node: &Node) -> Result<Arc<dyn ExecutionPlan>> {
        let window = aggregate
            .window
            .downcast_ref::<SlotScanExec>()
            .map(|scan| self.leaf(scan).clone());
        let Some(Leaf::Window { node: read, batches }) = window else {
            return internal_err!("a pane that is not over a window");
        };
        let batch = self.batch_of(read)?;
        let pane = aggregate.pane(&batch)?;
        let name = format!("{} panes", node.name);
        let schema = pane.schema();
        let dataset = self.kept(pane, &name, self.nodes[read.0].slide)?;
        self.stages.remember(dataset, batches);
        let slot = self.number(Leaf::Dataset { dataset, batches });
        let partitions = self.stages.partitions(dataset);
        let label = format!("{name} of the last {batches} batches");
        let scan = SlotScanExec::try_new(slot, label, schema, None, partitions, Some(STREAM_ROWS))?;
        let window = Window {
            batches,
            every: self.nodes[read.0].slide,
        };
        WindowMergeExec::over(aggregate.slide(Arc::new(scan))?, window, node.slide)
    }

    /// The plan of the current batch of a node that a window reads.
    fn batch_of(&mut self, node: NodeId) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(plan) = self.ready.get(&node) {
            return Ok(Arc::clone(plan));
        }
        let Some(dataset) = self.dataset_of.get(&node).copied() else {
            return internal_err!("{} was not planned", self.nodes[node.0].name);
        };
        let slot = self.number(Leaf::Dataset { dataset, batches: 1 });
        let partitions = self.stages.partitions(dataset);
        let name = &self.nodes[node.0].name;
        let schema = Arc::new(self.nodes[node.0].plan.schema().as_arrow().clone());
        Ok(Arc::new(SlotScanExec::try_new(
            slot,
            name,
            schema,
            None,
            partitions,
            Some(STREAM_ROWS),
        )?))
    }

    /// Makes datasets of what the plan reads as windows.
    fn remember_windows(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
        let mut windows = Vec::new();
        plan.apply(|node| {
            if let Some(scan) = node.downcast_ref::<SlotScanExec>()
                && let Leaf::Window { node, batches } = self.leaf(scan)
            {
                windows.push((scan.slot(), *node, *batches));
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        for (slot, id, batches) in windows {
            let dataset = match self.dataset_of.get(&id) {
                Some(dataset) => *dataset,
                None => self.keep(id)?,
            };
            self.stages.remember(dataset, batches);
            self.leaves[slot.0 as usize] = Leaf::Dataset { dataset, batches };
        }
        Ok(())
    }

    fn keep(&mut self, id: NodeId) -> Result<DatasetId> {
        let node = &self.nodes[id.0];
        let Some(plan) = self.ready.remove(&id) else {
            return internal_err!("{} was not planned", node.name);
        };
        let dataset = self.kept(plan, &node.name, node.slide)?;
        self.dataset_of.insert(id, dataset);
        Ok(dataset)
    }

    /// Makes stages whose rows are a dataset and nothing else.
    fn kept(&mut self, plan: Arc<dyn ExecutionPlan>, name: &str, every: u32) -> Result<DatasetId> {
        let purpose = Purpose {
            name,
            every,
            keep: true,
            outputs: &[],
        };
        match self.stages.add(plan, &purpose, &self.leaves)? {
            Some(dataset) => Ok(dataset),
            None => internal_err!("{name} is not kept"),
        }
    }
}

/// The plan with its rows spread over as many partitions as there are to be files.
fn spread_files(plan: Arc<dyn ExecutionPlan>, files: Option<u32>) -> Result<Arc<dyn ExecutionPlan>> {
    Ok(match files {
        None => plan,
        Some(1) => Arc::new(CoalescePartitionsExec::new(plan)),
        Some(n) => {
            let partitioning = Partitioning::RoundRobinBatch(n as usize);
            Arc::new(RepartitionExec::try_new(plan, partitioning)?)
        }
    })
}
