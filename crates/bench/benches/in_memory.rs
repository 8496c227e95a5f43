//! The engine alone: a compiled job over blocks in memory, without a cluster around it.
//!
//! Does what executors do with a batch: each stage's tasks run on as many threads as there are slots, rows of exchanges
//! are handed over in memory in the order of the map partitions, datasets of the batch are read in the batch.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use arrow::array::RecordBatch;
use futures::StreamExt;
use tidemill_dstream::JobGraph;
use tidemill_dstream::plan::{SlotKind, SlotPartition, StageOutput, StagePlan};
use tidemill_engine::{CompileOptions, Registry, SlotInput, TaskBinding, Template, compile};
use tidemill_types::{BatchTime, DatasetId, JobId, StageId, TaskKey};

/// A compiled job whose stages are decoded.
pub(crate) struct Job {
    stages: Vec<(StagePlan, Template)>,
}

/// The rows of a batch's last stage, and the time that each stage took.
pub(crate) struct Batch {
    pub(crate) rows: Vec<RecordBatch>,
    pub(crate) stages: Vec<Duration>,
}

/// What the stages so far have left for later ones, by partition.
#[derive(Default)]
struct Left {
    shuffled: HashMap<(StageId, u32), Vec<RecordBatch>>,
    kept: HashMap<(DatasetId, u32), Vec<RecordBatch>>,
}

/// What one task leaves: the partition of each batch of rows in an exchange, or partition 0.
type Leaves = Vec<(u32, RecordBatch)>;

impl Job {
    pub(crate) async fn compile(graph: &JobGraph, partitions: u32) -> Result<Self> {
        let options = CompileOptions {
            partitions,
            registry: Registry::default(),
        };
        let compiled = compile(graph, &[], &options).await?;
        let templates = compiled
            .templates
            .iter()
            .map(|bytes| Template::decode(bytes, &compiled.registry));
        let templates = templates.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            stages: compiled.plan.stages.into_iter().zip(templates).collect(),
        })
    }

    /// Runs one batch over the blocks of each source partition.
    pub(crate) fn run(&self, blocks: &[Vec<RecordBatch>], threads: usize) -> Result<Batch> {
        let mut left = Left::default();
        let mut batch = Batch {
            rows: Vec::new(),
            stages: Vec::new(),
        };
        for (stage, template) in &self.stages {
            let started = Instant::now();
            let leaves = run_stage(stage, template, blocks, &left, threads)?;
            match &stage.output {
                StageOutput::Exchange { .. } => {
                    for (partition, rows) in leaves.into_iter().flatten() {
                        left.shuffled.entry((stage.id, partition)).or_default().push(rows);
                    }
                }
                StageOutput::Result { dataset, outputs } => {
                    let rows = |leaves: Leaves| leaves.into_iter().map(|(_, rows)| rows).collect::<Vec<_>>();
                    let by_partition: Vec<Vec<RecordBatch>> = leaves.into_iter().map(rows).collect();
                    if !outputs.is_empty() {
                        batch.rows = by_partition.iter().flatten().cloned().collect();
                    }
                    if let Some(dataset) = dataset {
                        let kept = (0..).zip(by_partition);
                        left.kept
                            .extend(kept.map(|(partition, rows)| ((*dataset, partition), rows)));
                    }
                }
            }
            batch.stages.push(started.elapsed());
        }
        Ok(batch)
    }
}

/// Runs the tasks of a stage, partition `p` on thread `p` modulo their number; what they leave is in partition order.
fn run_stage(
    stage: &StagePlan,
    template: &Template,
    blocks: &[Vec<RecordBatch>],
    left: &Left,
    threads: usize,
) -> Result<Vec<Leaves>> {
    let run_some = |thread: usize| -> Result<Vec<(u32, Leaves)>> {
        let mine = (0..stage.partitions).skip(thread).step_by(threads);
        mine.map(|partition| Ok((partition, run_task(stage, template, partition, blocks, left)?)))
            .collect()
    };
    let mut leaves = thread::scope(|scope| -> Result<Vec<(u32, Leaves)>> {
        let running: Vec<_> = (0..threads.min(stage.partitions as usize))
            .map(|thread| scope.spawn(move || run_some(thread)))
            .collect();
        let mut leaves = Vec::new();
        for thread in running {
            leaves.extend(thread.join().map_err(|_| anyhow!("a task thread panicked"))??);
        }
        Ok(leaves)
    })?;
    leaves.sort_by_key(|(partition, _)| *partition);
    Ok(leaves.into_iter().map(|(_, leaves)| leaves).collect())
}

fn run_task(
    stage: &StagePlan,
    template: &Template,
    partition: u32,
    blocks: &[Vec<RecordBatch>],
    left: &Left,
) -> Result<Leaves> {
    let key = TaskKey {
        job: JobId(1),
        batch: BatchTime(1000),
        stage: stage.id,
        partition,
    };
    let mut inputs = HashMap::new();
    for read in stage.reads.get(partition as usize).into_iter().flatten() {
        let rows = input(stage, *read, blocks, left)?;
        inputs.insert((read.slot, read.partition), SlotInput::Batches(rows));
    }
    let mut rows = template.run(TaskBinding {
        key,
        inputs,
        index: 1,
        previous: None,
        memory: None,
    })?;
    let mut partitioner = template.partitioner(key);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let mut leaves = Leaves::new();
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            match &mut partitioner {
                Some(partitioner) => leaves.extend(partitioner.partition(&batch)?),
                None => leaves.push((0, batch)),
            }
        }
        Ok(leaves)
    })
}

fn input(stage: &StagePlan, read: SlotPartition, blocks: &[Vec<RecordBatch>], left: &Left) -> Result<Vec<RecordBatch>> {
    let slot = stage.slots.iter().find(|slot| slot.id == read.slot);
    let rows = match &slot.context("a task reads a slot that its stage does not have")?.kind {
        SlotKind::Source { .. } => blocks.get(read.partition as usize),
        SlotKind::Shuffle { from } => left.shuffled.get(&(*from, read.partition)),
        SlotKind::Dataset { dataset, .. } => left.kept.get(&(*dataset, read.partition)),
        SlotKind::Table { name } => bail!("table {name} is not here"),
    };
    Ok(rows.cloned().unwrap_or_default())
}
