//! Decides what is kept, and makes stages.
//!
//! A node is a *dataset* if more than one reader needs its rows, or if a window has to remember them batch by batch. A
//! node with a single reader is inlined in the reader's plan, so that DataFusion optimises across streams. Below an
//! aggregate over a window, panes are remembered instead of rows.
//!
//! Nodes are planned in their order, producers first; so are the stages of each, and stages are numbered as they come.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_expr::Partitioning;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use tidemill_dstream::{Diagnostic, JobGraph};
use tidemill_types::{DatasetId, SlotId};

use super::determinism::aggregates_alike;
use super::leaf::{Leaf, LeafTable, NodeId, Physical};
use super::readers::Readers;
use super::sql::estimated_rows;
use super::stages::{Planned, Purpose, Stages};
use super::streams::{Finish, Layout, Node};
use crate::TableData;
use crate::accumulate::AccumulateExec;
use crate::glom::GlomExec;
use crate::panes;
use crate::placement::Placement;
use crate::registry::NativeBatchesExec;
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
) -> Result<Planned, Diagnostic> {
    let readers = Readers::count(&nodes);
    let remember = graph.options.remember.unwrap_or_default();
    // What is persisted outlives its batch at least until the next one is made.
    let remember = remembered_batches(remember, graph.batch_interval).max(2);
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
    for (i, node) in nodes.iter().enumerate().rev() {
        if readers.is_planned(NodeId(i), node) {
            let counted = planner.count_once(NodeId(i));
            counted.map_err(|e| node.place.explain(&e, state))?;
        }
    }
    for (i, node) in nodes.iter().enumerate() {
        if let Some(dataset) = planner.dataset_of.get(&NodeId(i)) {
            for stream in &node.remembered {
                planner.stages.remember_stream(stream, *dataset, remember);
            }
            if let Some(level) = node.level {
                planner.stages.keep_at(*dataset, level);
            }
        }
    }
    Ok(planner.stages.finish(graph, tables, partitions))
}

/// The batches of a dataset that are remembered for a time: those that it covers after a batch is committed, and the
/// one that is made.
fn remembered_batches(remember: Duration, interval: Duration) -> u32 {
    let batches = remember.as_millis().div_ceil(interval.as_millis().max(1));
    u32::try_from(batches + 1).unwrap_or(u32::MAX)
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
        let state = match node.layout.partitions {
            Some(partitions) => &with_partitions(self.state, partitions),
            None => self.state,
        };
        let physical = prepare(state.create_physical_plan(&logical).await?)?;
        let physical = self.with_panes(physical, node)?;
        self.remember_windows(&physical)?;
        let physical = self.finished(physical, &node.layout)?;
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

    /// Makes sure that what an `accumulate` step counts is counted in one place. Where planning has found that a reader
    /// needs none of its rows, nothing of the step is left, so it gets a stage for itself. Readers come before what they
    /// read: the stage may count for other steps too.
    fn count_once(&mut self, id: NodeId) -> Result<()> {
        let node = &self.nodes[id.0];
        for operator in node.layout.accumulating() {
            match self.stages.accumulating(operator) {
                0 => drop(self.keep(id)?),
                1 => {}
                places => return internal_err!("an accumulate step stands in {places} places of the plan"),
            }
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
                Leaf::Stream(node) if !self.nodes[node.0].layout.is_sealed() && !self.dataset_of.contains_key(node) => {
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
        let jobs = Placement::of(self.partitions);
        let (leaf, placement) = match &table.leaf {
            Leaf::Stream(node) => match (self.dataset_of.get(node), self.ready.get(node)) {
                (Some(dataset), _) => (
                    Leaf::Dataset {
                        dataset: *dataset,
                        batches: 1,
                    },
                    self.stages.placement(*dataset),
                ),
                (None, Some(plan)) => {
                    let physical = Some(Physical::Sealed(Arc::clone(plan)));
                    return LeafTable { physical, ..table };
                }
                (None, None) => (table.leaf.clone(), jobs),
            },
            Leaf::Window { node, .. } => {
                let placement = match (self.dataset_of.get(node), self.ready.get(node)) {
                    (Some(dataset), _) => self.stages.placement(*dataset),
                    (None, Some(plan)) => Placement::after(plan),
                    (None, None) => jobs,
                };
                (table.leaf.clone(), placement)
            }
            Leaf::Dataset { dataset, .. } => (table.leaf.clone(), self.stages.placement(*dataset)),
            Leaf::Table(_) => (table.leaf.clone(), Placement::of(1)),
            Leaf::Source(_) => (table.leaf.clone(), jobs),
        };
        let physical = Physical::Slot {
            rows: estimated_rows(&leaf, self.tables),
            slot: self.number(leaf.clone()),
            placement,
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

    /// The plan with what its layout has behind it.
    fn finished(&self, plan: Arc<dyn ExecutionPlan>, layout: &Layout) -> Result<Arc<dyn ExecutionPlan>> {
        layout.finish.iter().try_fold(plan, |plan, finish| {
            let spread = match finish {
                Finish::Glom => return Ok(Arc::new(GlomExec::new(plan)) as _),
                Finish::Accumulate { operator, added } => {
                    return Ok(Arc::new(AccumulateExec::new(*operator, Arc::clone(added), plan)) as _);
                }
                Finish::Batches(function) => {
                    return Ok(Arc::new(NativeBatchesExec::try_new(function.clone(), plan)?) as _);
                }
                Finish::Gather | Finish::Files(1) => return Ok(Arc::new(CoalescePartitionsExec::new(plan)) as _),
                Finish::Evenly(n) | Finish::Files(n) => Partitioning::RoundRobinBatch(*n as usize),
                Finish::ByHash { columns, partitions } => {
                    let partitions = partitions.map_or(self.partitions, |n| n as usize);
                    let placement = Placement::by_hash(columns.clone(), partitions);
                    if Placement::after(&plan) == placement {
                        return Ok(plan);
                    }
                    placement.partitioning(&plan.schema(), None)
                }
                Finish::Partitions { columns, partitions } => {
                    let partitions = *partitions as usize;
                    if plan.output_partitioning().partition_count() == partitions {
                        return Ok(plan);
                    }
                    Placement::by_hash(columns.clone(), partitions).partitioning(&plan.schema(), None)
                }
            };
            Ok(Arc::new(RepartitionExec::try_new(plan, spread)?) as _)
        })
    }

    /// Puts panes below every aggregate over a window that allows it.
    fn with_panes(&mut self, plan: Arc<dyn ExecutionPlan>, node: &Node) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_down(|plan| {
            let is_window = |scan: &SlotScanExec| matches!(self.leaf(scan), Leaf::Window { .. });
            // What differs from time to time is of the batch of the slide.
            let same = plan.downcast_ref().is_none_or(aggregates_alike);
            let Some(aggregate) = panes::find(&plan, &is_window).filter(|_| same) else {
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
        let placement = self.stages.placement(dataset);
        let label = format!("{name} of the last {batches} batches");
        let scan = SlotScanExec::try_new(slot, label, schema, None, &placement, Some(STREAM_ROWS))?;
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
        let placement = self.stages.placement(dataset);
        let node = &self.nodes[node.0];
        Ok(Arc::new(SlotScanExec::try_new(
            slot,
            &node.name,
            node.schema(),
            None,
            &placement,
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

/// The session, planning for another number of partitions.
fn with_partitions(state: &SessionState, partitions: u32) -> SessionState {
    let config = state.config().clone().with_target_partitions(partitions as usize);
    SessionStateBuilder::new_from_existing(state.clone())
        .with_config(config)
        .build()
}
