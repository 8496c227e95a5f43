//! The stages of a job as they come: plans cut at exchanges, with their templates, datasets and outputs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use tidemill_dstream::plan::{
    DatasetPlan, JobPlan, Keeps, OutputPlan, SlotKind, SlotPlan, StageOutput, StagePlan, StreamPlan,
};
use tidemill_dstream::{JobGraph, OutputKind};
use tidemill_types::{DatasetId, OutputId, PlanVersion, SlotId, StageId, StorageLevel, StreamId};

use super::describe::describe;
use super::determinism::is_deterministic;
use super::leaf::Leaf;
use crate::TableData;
use crate::accumulate::operators_of;
use crate::cut::{CutStage, SlotOrigin, cut};
use crate::placement::Placement;
use crate::split_count;
use crate::state::StateExec;
use crate::template;
use crate::windowed::WindowMergeExec;

/// A stage stands behind those that it reads from, in this plan or in an earlier one.
#[derive(Default)]
pub(super) struct Stages {
    stages: Vec<StagePlan>,
    templates: Vec<Bytes>,
    datasets: Vec<DatasetPlan>,
    /// Where the rows of each dataset are.
    placements: Vec<Placement>,
    outputs: HashMap<OutputId, (StageId, u32)>,
    state_schemas: Vec<(StageId, SchemaRef)>,
    remembered: Vec<(String, DatasetId)>,
    /// The numbers of the `accumulate` steps in all stages, once for each place.
    accumulating: Vec<u32>,
}

/// All stages of a job.
pub(super) struct Planned {
    pub(super) plan: JobPlan,
    /// In the order of the stages.
    pub(super) templates: Vec<Bytes>,
    /// The key and state columns of each stage that keeps state.
    pub(super) state_schemas: Vec<(StageId, SchemaRef)>,
    /// The streams that are remembered, and the datasets that they are.
    pub(super) remembered: Vec<(String, DatasetId)>,
}

/// What becomes of a plan's rows.
pub(super) struct Purpose<'a> {
    /// For people.
    pub(super) name: &'a str,
    /// They are there in every `every`-th batch.
    pub(super) every: u32,
    /// Whether they are a dataset.
    pub(super) keep: bool,
    pub(super) outputs: &'a [OutputId],
}

impl Stages {
    /// Adds the stages of a plan. The last one keeps the rows as a dataset, gives them to outputs, or both.
    pub(super) fn add(
        &mut self,
        plan: Arc<dyn ExecutionPlan>,
        purpose: &Purpose<'_>,
        leaves: &[Leaf],
    ) -> Result<Option<DatasetId>> {
        let placement = Placement::after(&plan);
        let is_table = |slot: SlotId| matches!(leaves[slot.0 as usize], Leaf::Table(_));
        let cut_stages = cut(split_count::apply(plan)?, &is_table)?;
        let first = self.stages.len();
        let consumers = consumers(&cut_stages);
        let mut kept = None;
        for (stage, consumer) in cut_stages.into_iter().zip(consumers) {
            let id = StageId(self.stages.len() as u32);
            let output = match stage.spread.exchange() {
                Some(kind) => StageOutput::Exchange {
                    to: StageId((first + consumer) as u32),
                    kind,
                },
                None => {
                    kept = purpose.keep.then(|| {
                        self.placements.push(placement.clone());
                        self.dataset(purpose.name, id, stage.partitions)
                    });
                    let made = purpose.outputs.iter().map(|output| (*output, (id, stage.partitions)));
                    self.outputs.extend(made);
                    StageOutput::Result {
                        dataset: kept,
                        outputs: purpose.outputs.to_vec(),
                    }
                }
            };
            let slots = stage.slots.iter().map(|slot| {
                Ok(SlotPlan {
                    id: slot.id,
                    kind: slot_kind(slot.origin, first, leaves)?,
                    partitions: slot.partitions,
                })
            });
            let slots = slots.collect::<Result<Vec<_>>>()?;
            let exchanges = matches!(output, StageOutput::Exchange { .. });
            self.accumulating.extend(operators_of(&stage.plan));
            self.templates.push(template::encode(&stage.plan, &stage.spread)?);
            let (keeps, state_schema) = keeps(&stage.plan);
            self.state_schemas.extend(state_schema.map(|schema| (id, schema)));
            self.stages.push(StagePlan {
                id,
                partitions: stage.partitions,
                skip_empty: exchanges && skips_empty(&stage.plan) && reads_sources_only(&slots),
                slots,
                reads: stage.reads,
                output,
                every: purpose.every,
                keeps,
                deterministic: is_deterministic(&stage.plan, &stage.spread),
                description: format!("{}: {}", purpose.name, describe(&stage.plan)),
            });
        }
        Ok(kept)
    }

    fn dataset(&mut self, name: &str, stage: StageId, partitions: u32) -> DatasetId {
        let id = DatasetId(self.datasets.len() as u32);
        self.datasets.push(DatasetPlan {
            id,
            name: name.to_owned(),
            stage,
            partitions,
            remember: 1,
            needed: 1,
            level: StorageLevel::default(),
        });
        id
    }

    /// Has a dataset remembered for as many batches.
    pub(super) fn remember(&mut self, dataset: DatasetId, batches: u32) {
        let plan = &mut self.datasets[dataset.0 as usize];
        plan.remember = plan.remember.max(batches);
        plan.needed = plan.needed.max(batches);
    }

    /// Has the batches of a stream remembered beyond what windows need.
    pub(super) fn remember_stream(&mut self, stream: &str, dataset: DatasetId, batches: u32) {
        let plan = &mut self.datasets[dataset.0 as usize];
        plan.remember = plan.remember.max(batches);
        self.remembered.push((stream.to_owned(), dataset));
    }

    /// In how many places an `accumulate` step stands.
    pub(super) fn accumulating(&self, operator: u32) -> usize {
        self.accumulating.iter().filter(|known| **known == operator).count()
    }

    /// Has the batches of a dataset kept in this way.
    pub(super) fn keep_at(&mut self, dataset: DatasetId, level: StorageLevel) {
        self.datasets[dataset.0 as usize].level = level;
    }

    pub(super) fn placement(&self, dataset: DatasetId) -> Placement {
        self.placements[dataset.0 as usize].clone()
    }

    /// The plan of the job, and the templates of its stages.
    pub(super) fn finish(self, graph: &JobGraph, tables: &[TableData], partitions: u32) -> Planned {
        let streams = graph.sources().enumerate().map(|(i, (stream, source))| StreamPlan {
            id: StreamId(i as u32),
            name: stream.name.clone(),
            source: source.clone(),
            partitions,
        });
        let outputs = graph.outputs.iter().enumerate().filter_map(|(i, output)| {
            let id = OutputId(i as u32);
            let (stage, partitions) = *self.outputs.get(&id)?;
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
        let slots = self.stages.iter().flat_map(|stage| &stage.slots);
        let used: HashSet<&str> = slots.filter_map(table_name).collect();
        let names = tables.iter().map(|table| &table.name);
        let plan = JobPlan {
            version: PlanVersion(0),
            batch_interval: graph.batch_interval,
            streams: streams.collect(),
            outputs: outputs.collect(),
            tables: names.filter(|name| used.contains(name.as_str())).cloned().collect(),
            broadcasts: graph.broadcasts.iter().map(|def| def.name.clone()).collect(),
            datasets: self.datasets,
            stages: self.stages.clone(),
            accumulators: Vec::new(),
        };
        Planned {
            plan,
            templates: self.templates,
            state_schemas: self.state_schemas,
            remembered: self.remembered,
        }
    }
}

fn table_name(slot: &SlotPlan) -> Option<&str> {
    match &slot.kind {
        SlotKind::Table { name } => Some(name),
        _ => None,
    }
}

fn slot_kind(origin: SlotOrigin, first: usize, leaves: &[Leaf]) -> Result<SlotKind> {
    Ok(match origin {
        SlotOrigin::Shuffle(stage) => SlotKind::Shuffle {
            from: StageId((first + stage) as u32),
        },
        SlotOrigin::Leaf(slot) => match &leaves[slot.0 as usize] {
            Leaf::Source(stream) => SlotKind::Source { stream: *stream },
            Leaf::Table(name) => SlotKind::Table { name: name.clone() },
            Leaf::Dataset { dataset, batches } => SlotKind::Dataset {
                dataset: *dataset,
                batches: *batches,
            },
            unresolved @ (Leaf::Stream(_) | Leaf::Window { .. }) => {
                return datafusion::common::internal_err!("{unresolved:?} has no rows to read");
            }
        },
    })
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

/// What the operators of a stage keep from batch to batch; of state also the columns.
fn keeps(plan: &Arc<dyn ExecutionPlan>) -> (Keeps, Option<SchemaRef>) {
    let (mut keeps, mut schema) = (Keeps::Nothing, None);
    // The closure never fails.
    let _ = plan.apply(|node| {
        if let Some(state) = node.downcast_ref::<StateExec>() {
            keeps = Keeps::State {
                name: state.spec().name.clone(),
            };
            schema = Some(state.spec().state_schema());
            return Ok(TreeNodeRecursion::Stop);
        }
        if node.is::<WindowMergeExec>() {
            keeps = Keeps::Derived;
        }
        Ok(TreeNodeRecursion::Continue)
    });
    (keeps, schema)
}

fn reads_sources_only(slots: &[SlotPlan]) -> bool {
    slots.iter().all(|slot| matches!(slot.kind, SlotKind::Source { .. }))
}

/// Whether no rows in means no rows out: not so for an aggregate of everything, which counts nothing as zero.
fn skips_empty(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let here = match plan.name() {
        "SlotScanExec" | "FilterExec" | "ProjectionExec" | "UnnestExec" | "LocalLimitExec" | "GlobalLimitExec"
        | "ZipUnionExec" | "SplitCountExec" | "AccumulateExec" => true,
        name if name.starts_with("SortExec") => true,
        _ => plan.downcast_ref::<AggregateExec>().is_some_and(|aggregate| {
            let groups = aggregate.group_expr();
            groups.is_single() && !groups.is_empty()
        }),
    };
    here && plan.children().into_iter().all(skips_empty)
}
