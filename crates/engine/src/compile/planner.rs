//! Decides what is kept, and makes stages.
//!
//! A node is a *dataset* if more than one reader needs its rows, or if a window has to remember them batch by batch. A
//! node with a single reader is inlined in the reader's plan, so that DataFusion optimises across streams. Below an
//! aggregate over a window, panes are remembered instead of rows.
//!
//! Nodes are planned in their order, producers first; so are the stages of each, and stages are numbered as they come.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_expr::Partitioning;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use tidemill_dstream::plan::{
    DatasetPlan, JobPlan, OutputPlan, SlotKind, SlotPlan, StageOutput, StagePlan, StreamPlan,
};
use tidemill_dstream::{Diagnostic, JobGraph, OutputKind};
use tidemill_types::{DatasetId, OutputId, PlanVersion, SlotId, StageId, StreamId};

use super::describe::describe;
use super::leaf::{Leaf, LeafTable, NodeId, Physical};
use super::sql::estimated_rows;
use super::streams::Node;
use crate::TableData;
use crate::cut::{CutStage, SlotOrigin, cut};
use crate::panes;
use crate::rules::prepare;
use crate::session::STREAM_ROWS;
use crate::slot_scan::SlotScanExec;
use crate::template;

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
        partitions,
        leaves: Vec::new(),
        ready: HashMap::new(),
        datasets: Vec::new(),
        dataset_of: HashMap::new(),
        stages: Vec::new(),
        templates: Vec::new(),
        output_stages: HashMap::new(),
    };
    for (i, node) in nodes.iter().enumerate() {
        let id = NodeId(i);
        if readers.is_planned(id, node) {
            planner
                .node(id, readers.is_dataset(id, node))
                .await
                .map_err(|e| node.place.explain(&e, state))?;
        }
    }
    let Planner {
        datasets,
        stages,
        templates,
        output_stages,
        ..
    } = planner;
    let streams = graph.sources().enumerate().map(|(i, (stream, source))| StreamPlan {
        id: StreamId(i as u32),
        name: stream.name.clone(),
        source: source.clone(),
        partitions,
    });
    let outputs = graph.outputs.iter().enumerate().filter_map(|(i, output)| {
        let id = OutputId(i as u32);
        let (stage, partitions) = *output_stages.get(&id)?;
        let name = match &output.kind {
            OutputKind::Table { name, .. } => name.clone(),
            other => other.name().to_owned(),
        };
        Some(OutputPlan {
            id,
            name,
            stream: output.from.clone(),
            kind: output.kind.clone(),
            stage,
            partitions,
        })
    });
    let used: HashSet<&str> = stages
        .iter()
        .flat_map(|stage: &StagePlan| &stage.slots)
        .filter_map(table_name)
        .collect();
    let plan = JobPlan {
        version: PlanVersion(0),
        batch_interval: graph.batch_interval,
        streams: streams.collect(),
        outputs: outputs.collect(),
        tables: tables
            .iter()
            .map(|table| &table.name)
            .filter(|name| used.contains(name.as_str()))
            .cloned()
            .collect(),
        datasets,
        stages: stages.clone(),
    };
    Ok((plan, templates))
}

fn table_name(slot: &SlotPlan) -> Option<&str> {
    match &slot.kind {
        SlotKind::Table { name } => Some(name),
        _ => None,
    }
}

/// Who reads each node, among the nodes that some output depends on.
struct Readers {
    streams: Vec<u32>,
    windows: Vec<u32>,
    needed: Vec<bool>,
}

impl Readers {
    fn count(nodes: &[Node]) -> Self {
        let mut readers = Self {
            streams: vec![0; nodes.len()],
            windows: vec![0; nodes.len()],
            needed: nodes.iter().map(|node| !node.outputs.is_empty()).collect(),
        };
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
    fn is_planned(&self, id: NodeId, node: &Node) -> bool {
        let inlined = self.streams[id.0] == 1 && self.all(id, node) == 1;
        self.needed[id.0] && !inlined
    }

    /// Whether it is known before its readers are planned that the node's rows are kept.
    fn is_dataset(&self, id: NodeId, node: &Node) -> bool {
        self.all(id, node) > 1 && self.streams[id.0] + self.windows[id.0] > 0
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

struct Planner<'a> {
    tables: &'a [TableData],
    state: &'a SessionState,
    nodes: &'a [Node],
    partitions: u32,
    /// By their number in the compilation.
    leaves: Vec<Leaf>,
    /// Plans of nodes that a window reads, until it is known how.
    ready: HashMap<NodeId, Arc<dyn ExecutionPlan>>,
    datasets: Vec<DatasetPlan>,
    dataset_of: HashMap<NodeId, DatasetId>,
    stages: Vec<StagePlan>,
    templates: Vec<Bytes>,
    output_stages: HashMap<OutputId, (StageId, u32)>,
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
        let dataset = self.stages_of(physical, &node.name, node.slide, keep, &node.outputs)?;
        if let Some(dataset) = dataset {
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
                    self.dataset_partitions(*dataset),
                ),
                None => (table.leaf.clone(), self.partitions as usize),
            },
            Leaf::Window { node, .. } => {
                let partitions = match (self.dataset_of.get(node), self.ready.get(node)) {
                    (Some(dataset), _) => self.dataset_partitions(*dataset),
                    (None, Some(plan)) => plan.output_partitioning().partition_count(),
                    (None, None) => self.partitions as usize,
                };
                (table.leaf.clone(), partitions)
            }
            Leaf::Table(_) => (table.leaf.clone(), 1),
            Leaf::Source(_) | Leaf::Dataset { .. } => (table.leaf.clone(), self.partitions as usize),
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

    fn dataset_partitions(&self, dataset: DatasetId) -> usize {
        self.datasets[dataset.0 as usize].partitions as usize
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
            return datafusion::common::internal_err!("a pane that is not over a window");
        };
        let batch = self.batch_of(read)?;
        let pane = aggregate.pane(&batch)?;
        let name = format!("{} panes", node.name);
        let schema = pane.schema();
        let Some(dataset) = self.stages_of(pane, &name, self.nodes[read.0].slide, true, &[])? else {
            return datafusion::common::internal_err!("a pane that is not kept");
        };
        self.remember(dataset, batches);
        let slot = self.number(Leaf::Dataset { dataset, batches });
        let partitions = self.dataset_partitions(dataset);
        let label = format!("{name} of the last {batches} batches");
        let scan = SlotScanExec::try_new(slot, label, schema, None, partitions, Some(STREAM_ROWS))?;
        aggregate.slide(Arc::new(scan))
    }

    /// The plan of the current batch of a node that a window reads.
    fn batch_of(&mut self, node: NodeId) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(plan) = self.ready.get(&node) {
            return Ok(Arc::clone(plan));
        }
        let Some(dataset) = self.dataset_of.get(&node).copied() else {
            return datafusion::common::internal_err!("{} was not planned", self.nodes[node.0].name);
        };
        let slot = self.number(Leaf::Dataset { dataset, batches: 1 });
        let partitions = self.dataset_partitions(dataset);
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
            self.remember(dataset, batches);
            self.leaves[slot.0 as usize] = Leaf::Dataset { dataset, batches };
        }
        Ok(())
    }

    fn keep(&mut self, id: NodeId) -> Result<DatasetId> {
        let node = &self.nodes[id.0];
        let Some(plan) = self.ready.remove(&id) else {
            return datafusion::common::internal_err!("{} was not planned", node.name);
        };
        match self.stages_of(plan, &node.name, node.slide, true, &[])? {
            Some(dataset) => {
                self.dataset_of.insert(id, dataset);
                Ok(dataset)
            }
            None => datafusion::common::internal_err!("{} is not kept", node.name),
        }
    }

    fn remember(&mut self, dataset: DatasetId, batches: u32) {
        let plan = &mut self.datasets[dataset.0 as usize];
        plan.remember = plan.remember.max(batches);
    }

    /// Adds the stages of a plan. The last one keeps the rows as a dataset, gives them to outputs, or both.
    fn stages_of(
        &mut self,
        plan: Arc<dyn ExecutionPlan>,
        name: &str,
        every: u32,
        keep: bool,
        outputs: &[OutputId],
    ) -> Result<Option<DatasetId>> {
        let leaves = &self.leaves;
        let is_table = |slot: SlotId| matches!(leaves[slot.0 as usize], Leaf::Table(_));
        let cut_stages = cut(plan, &is_table)?;
        let first = self.stages.len();
        let last = cut_stages.len() - 1;
        let consumers = consumers(&cut_stages);
        for (i, stage) in cut_stages.into_iter().enumerate() {
            let id = StageId((first + i) as u32);
            let output = match stage.spread.exchange() {
                Some(kind) => StageOutput::Exchange {
                    to: StageId((first + consumers[i]) as u32),
                    kind,
                },
                None => {
                    let dataset = keep.then(|| self.dataset(name, id, stage.partitions));
                    self.output_stages
                        .extend(outputs.iter().map(|output| (*output, (id, stage.partitions))));
                    StageOutput::Result {
                        dataset,
                        outputs: outputs.to_vec(),
                    }
                }
            };
            self.templates.push(template::encode(&stage.plan, &stage.spread)?);
            let slots: Vec<SlotPlan> = stage
                .slots
                .iter()
                .map(|slot| {
                    Ok(SlotPlan {
                        id: slot.id,
                        kind: self.slot_kind(slot.origin, first)?,
                        partitions: slot.partitions,
                    })
                })
                .collect::<Result<_>>()?;
            let skip_empty = i != last && skips_empty(&stage.plan) && reads_sources_only(&slots);
            self.stages.push(StagePlan {
                id,
                partitions: stage.partitions,
                slots,
                reads: stage.reads,
                output,
                every,
                skip_empty,
                description: format!("{name}: {}", describe(&stage.plan)),
            });
        }
        let last = self.stages.last().map(|stage| &stage.output);
        Ok(match last {
            Some(StageOutput::Result { dataset, .. }) => *dataset,
            _ => None,
        })
    }

    fn dataset(&mut self, name: &str, stage: StageId, partitions: u32) -> DatasetId {
        let id = DatasetId(self.datasets.len() as u32);
        self.datasets.push(DatasetPlan {
            id,
            name: name.to_owned(),
            stage,
            partitions,
            remember: 1,
        });
        id
    }

    fn slot_kind(&self, origin: SlotOrigin, first: usize) -> Result<SlotKind> {
        Ok(match origin {
            SlotOrigin::Shuffle(stage) => SlotKind::Shuffle {
                from: StageId((first + stage) as u32),
            },
            SlotOrigin::Leaf(slot) => match &self.leaves[slot.0 as usize] {
                Leaf::Source(stream) => SlotKind::Source { stream: *stream },
                Leaf::Table(name) => SlotKind::Table { name: name.clone() },
                Leaf::Dataset { dataset, batches } => SlotKind::Dataset {
                    dataset: *dataset,
                    batches: *batches,
                },
                Leaf::Stream(node) | Leaf::Window { node, .. } => {
                    return datafusion::common::internal_err!("leaf {} was not resolved", self.nodes[node.0].name);
                }
            },
        })
    }
}

/// For each stage the position of the one that reads its exchange.
fn consumers(stages: &[CutStage]) -> Vec<usize> {
    let mut consumers = vec![0; stages.len()];
    for (i, stage) in stages.iter().enumerate() {
        for slot in &stage.slots {
            if let SlotOrigin::Shuffle(from) = slot.origin {
                consumers[from] = i;
            }
        }
    }
    consumers
}

/// The plan with its rows spread over as many partitions as there are to be files.
fn spread_files(plan: Arc<dyn ExecutionPlan>, files: Option<u32>) -> Result<Arc<dyn ExecutionPlan>> {
    Ok(match files {
        None => plan,
        Some(1) => Arc::new(CoalescePartitionsExec::new(plan)),
        Some(n) => Arc::new(RepartitionExec::try_new(
            plan,
            Partitioning::RoundRobinBatch(n as usize),
        )?),
    })
}

fn reads_sources_only(slots: &[SlotPlan]) -> bool {
    slots.iter().all(|slot| matches!(slot.kind, SlotKind::Source { .. }))
}

/// Whether no rows in means no rows out: not so for an aggregate of everything, which counts nothing as zero.
fn skips_empty(plan: &Arc<dyn ExecutionPlan>) -> bool {
    use datafusion::physical_plan::aggregates::AggregateExec;

    let here = match plan.name() {
        "SlotScanExec" | "FilterExec" | "ProjectionExec" | "UnnestExec" | "SortExec" | "LocalLimitExec"
        | "GlobalLimitExec" | "ZipUnionExec" | "SplitCountExec" => true,
        "AggregateExec" => plan.downcast_ref::<AggregateExec>().is_some_and(|aggregate| {
            let groups = aggregate.group_expr();
            groups.is_single() && !groups.is_empty()
        }),
        _ => false,
    };
    here && plan.children().into_iter().all(skips_empty)
}
