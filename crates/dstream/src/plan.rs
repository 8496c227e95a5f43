//! A compiled job as the scheduler and the executors see it: stages cut at exchanges, with their inputs and outputs.
//!
//! ```text
//!   source slot ─► stage 0 ═exchange═► shuffle slot ─► stage 1 ─► dataset (remembered) ─► outputs
//!                                                                    │ dataset slot
//!                                                                    └──────────► stage 2 ─► outputs
//! ```
//! The plan's bytes travel beside this, once per executor; a batch names only inputs and places.

use std::collections::HashMap;
use std::time::Duration;

use tidemill_types::{AccumulatorId, DatasetId, OutputId, PlanVersion, SlotId, StageId, StorageLevel, StreamId};

use crate::{AccumulatorKind, FileFormat, OutputKind, Source, ValueType};

/// Everything that the scheduler has to know of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobPlan {
    pub version: PlanVersion,
    pub batch_interval: Duration,
    /// In topological order: a stage stands behind all stages that it reads from.
    pub stages: Vec<StagePlan>,
    pub streams: Vec<StreamPlan>,
    pub datasets: Vec<DatasetPlan>,
    pub outputs: Vec<OutputPlan>,
    /// Names of the tables that stages read; broadcast variables are among them where they are read as tables.
    pub tables: Vec<String>,
    /// In definition order.
    pub accumulators: Vec<AccumulatorPlan>,
    /// Names of the job's broadcast variables, by [`BroadcastId`](tidemill_types::BroadcastId).
    pub broadcasts: Vec<String>,
}

/// An accumulator of the job.
#[derive(Clone, Debug, PartialEq)]
pub struct AccumulatorPlan {
    pub id: AccumulatorId,
    pub name: String,
    pub kind: AccumulatorKind,
    /// `None`: nothing adds to it that would say, or the kind takes any.
    pub value_type: Option<ValueType>,
    /// Whether lists show it without being asked.
    pub listed: bool,
}

/// An input stream.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamPlan {
    pub id: StreamId,
    pub name: String,
    pub source: Source,
    /// Partitions of the stage slots that read it.
    pub partitions: u32,
}

/// A set of narrow steps between exchanges, run once for each partition.
#[derive(Clone, Debug, PartialEq)]
pub struct StagePlan {
    pub id: StageId,
    pub partitions: u32,
    pub slots: Vec<SlotPlan>,
    /// For each partition of the stage, the slot partitions that it reads.
    pub reads: Vec<Vec<SlotPartition>>,
    pub output: StageOutput,
    /// The stage runs in every `every`-th batch, counted from zero time.
    pub every: u32,
    /// Without input rows the stage has no output rows, so a task without input need not be launched. True only for
    /// stages that read nothing but source slots and end in an exchange.
    pub skip_empty: bool,
    /// What its tasks keep from batch to batch.
    pub keeps: Keeps,
    /// A task gives the same rows whenever it runs on the same inputs. Only a registered function that is not
    /// deterministic makes it false: random numbers are seeded by the task, and the time is the batch's.
    pub deterministic: bool,
    /// What the stage does, for people.
    pub description: String,
}

/// What the tasks of a stage keep on their executor from batch to batch, each partition by itself.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Keeps {
    #[default]
    Nothing,
    /// Something that can be made again of what they read.
    Derived,
    /// State under a name: a batch needs that of the batch before it. Of a job with a checkpoint it is saved.
    State { name: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotPartition {
    pub slot: SlotId,
    pub partition: u32,
}

/// A place at which a batch's input is bound. Slot ids are unique within a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotPlan {
    pub id: SlotId,
    pub kind: SlotKind,
    pub partitions: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// The blocks or file ranges of the batch.
    Source { stream: StreamId },
    /// What the tasks of `from` sent to this partition, in the order of their partitions.
    Shuffle { from: StageId },
    /// The remembered batches of a dataset: the last `batches` of them, oldest first; 1 is this batch alone.
    Dataset { dataset: DatasetId, batches: u32 },
    /// A whole table, for every partition: one of the job's, or a broadcast variable of that name.
    Table { name: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StageOutput {
    /// Rows go to the partitions of the stage `to`.
    Exchange { to: StageId, kind: ExchangeKind },
    /// Rows stay, as a partition of a dataset, and go to outputs.
    Result {
        dataset: Option<DatasetId>,
        outputs: Vec<OutputId>,
    },
}

/// How rows are spread over the partitions of the next stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// By the hash of expressions that the stage's template holds.
    Hash { partitions: u32 },
    /// By position, round robin from the task's own partition.
    RoundRobin { partitions: u32 },
    /// All to partition 0.
    Single,
    /// All to every executor that runs a partition of the next stage, each of which reads the whole.
    Broadcast,
}

impl ExchangeKind {
    /// Partitions of the shuffle slot behind the exchange.
    #[must_use]
    pub fn partitions(self) -> u32 {
        match self {
            Self::Hash { partitions } | Self::RoundRobin { partitions } => partitions,
            Self::Single | Self::Broadcast => 1,
        }
    }
}

/// A stream whose batches are kept on the executors that made them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetPlan {
    pub id: DatasetId,
    pub name: String,
    /// The stage whose output it is; partitions are the stage's.
    pub stage: StageId,
    pub partitions: u32,
    /// Batches that a later batch, a slice or SQL can still ask for, this one included: 1 is within the batch only.
    pub remember: u32,
    /// Those of them that stages ask for.
    pub needed: u32,
    /// How its batches are kept.
    pub level: StorageLevel,
}

/// An output operation, in definition order.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputPlan {
    pub id: OutputId,
    /// `print`, `save` or the table's name, for people.
    pub name: String,
    pub stream: String,
    pub kind: OutputKind,
    /// The stage that produces its rows, and the number of its tasks.
    pub stage: StageId,
    pub partitions: u32,
}

impl JobPlan {
    #[must_use]
    pub fn stage(&self, id: StageId) -> Option<&StagePlan> {
        // Their ids are their places, in all plans that a compiler made.
        let there = self.stages.get(id.0 as usize).filter(|stage| stage.id == id);
        there.or_else(|| self.stages.iter().find(|stage| stage.id == id))
    }

    #[must_use]
    pub fn dataset(&self, id: DatasetId) -> Option<&DatasetPlan> {
        let there = self.datasets.get(id.0 as usize).filter(|dataset| dataset.id == id);
        there.or_else(|| self.datasets.iter().find(|dataset| dataset.id == id))
    }

    /// The stages that run in the `index`-th batch since zero time (the first is 1).
    pub fn due(&self, index: i64) -> impl Iterator<Item = &StagePlan> {
        self.stages.iter().filter(move |stage| stage.is_due(index))
    }

    /// The stages that keep state, with its names.
    pub fn states(&self) -> impl Iterator<Item = (&StagePlan, &str)> {
        self.stages.iter().filter_map(|stage| match &stage.keeps {
            Keeps::State { name } => Some((stage, name.as_str())),
            Keeps::Nothing | Keeps::Derived => None,
        })
    }

    /// The greatest number of batches that any dataset is remembered for.
    #[must_use]
    pub fn remember(&self) -> u32 {
        self.datasets.iter().map(|dataset| dataset.remember).max().unwrap_or(1)
    }
}

impl StagePlan {
    /// Whether the stage runs in the `index`-th batch since zero time.
    #[must_use]
    pub fn is_due(&self, index: i64) -> bool {
        index % i64::from(self.every.max(1)) == 0
    }
}

impl FileFormat {
    /// The extension of files in this format.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Text => "txt",
            Self::Csv => "csv",
            Self::Json => "json",
        }
    }
}

impl JobPlan {
    /// The batches whose parts of a dataset a slot reads in the `index`-th batch: of the last `batches` those after
    /// zero time in which the dataset's stage was due, oldest first.
    pub fn window(&self, dataset: DatasetId, index: i64, batches: u32) -> impl Iterator<Item = i64> {
        let every = self
            .dataset(dataset)
            .and_then(|dataset| self.stage(dataset.stage))
            .map_or(1, |stage| i64::from(stage.every.max(1)));
        ((index - i64::from(batches)).max(0) + 1..=index).filter(move |i| i % every == 0)
    }

    /// For how many batches the inputs of a batch can still be asked for, to make lost parts of datasets again:
    /// windows over windows add up.
    #[must_use]
    pub fn lineage(&self) -> u32 {
        // How many batches before its own a stage reads, through all that it reads.
        let mut reach: HashMap<StageId, u32> = HashMap::with_capacity(self.stages.len());
        let of = |reach: &HashMap<StageId, u32>, stage: StageId| reach.get(&stage).copied().unwrap_or(0);
        for stage in &self.stages {
            let reads = stage.slots.iter().map(|slot| match slot.kind {
                SlotKind::Shuffle { from } => of(&reach, from),
                SlotKind::Dataset { dataset, batches } => {
                    let made = self.dataset(dataset).map_or(0, |dataset| of(&reach, dataset.stage));
                    made.saturating_add(batches.saturating_sub(1))
                }
                SlotKind::Source { .. } | SlotKind::Table { .. } => 0,
            });
            let furthest = reads.max().unwrap_or(0);
            reach.insert(stage.id, furthest);
        }
        let remembered = self.datasets.iter().map(|dataset| {
            let made = of(&reach, dataset.stage);
            made.saturating_add(dataset.remember.saturating_sub(1))
        });
        remembered.max().unwrap_or(0).saturating_add(1)
    }

    /// The place of each partition of each stage, as an index into a job's list of owners.
    ///
    /// A stage that reads a dataset runs where the dataset's partition is; any other stage runs its partition `p` at
    /// place `p`. So narrow reads are local, also behind a union.
    #[must_use]
    pub fn homes(&self) -> Vec<(StageId, Vec<u32>)> {
        let mut homes: Vec<(StageId, Vec<u32>)> = Vec::with_capacity(self.stages.len());
        let mut known: HashMap<StageId, usize> = HashMap::with_capacity(self.stages.len());
        for stage in &self.stages {
            let places = (0..stage.partitions)
                .map(|partition| {
                    let reads = stage.reads.get(partition as usize).map_or(&[][..], Vec::as_slice);
                    reads
                        .iter()
                        .find_map(|read| {
                            let slot = stage.slots.iter().find(|slot| slot.id == read.slot)?;
                            let SlotKind::Dataset { dataset, .. } = slot.kind else {
                                return None;
                            };
                            let producer = self.dataset(dataset)?.stage;
                            let (_, places) = homes.get(*known.get(&producer)?)?;
                            places.get(read.partition as usize).copied()
                        })
                        .unwrap_or(partition)
                })
                .collect();
            known.insert(stage.id, homes.len());
            homes.push((stage.id, places));
        }
        homes
    }
}
