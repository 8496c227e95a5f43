//! The engine alone: a compiled job over blocks in memory, without a cluster around it.
//!
//! Does what executors do with a batch: each stage's tasks run on as many threads as there are slots, rows of exchanges
//! are handed over in memory in the order of the map partitions, datasets are remembered for as many batches as are read,
//! and partitions keep what they keep from batch to batch.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use arrow::array::RecordBatch;
use futures::StreamExt;
use tidemill_dstream::JobGraph;
use tidemill_dstream::plan::{JobPlan, Keeps, SlotKind, SlotPartition, StageOutput, StagePlan};
use tidemill_engine::{CompileOptions, Panes, Registry, SlotInput, TaskBinding, TaskMemory, Template, compile};
use tidemill_types::{BatchTime, DatasetId, JobId, StageId, TaskKey};

/// A compiled job whose stages are decoded, at some batch.
pub(crate) struct Job {
    plan: JobPlan,
    templates: Vec<Template>,
    /// The number of the last batch.
    index: i64,
    kept: Kept,
    memories: HashMap<(StageId, u32), Arc<TaskMemory>>,
}

/// The rows of a batch's last stage, and the time that each stage took.
pub(crate) struct Batch {
    pub(crate) rows: Vec<RecordBatch>,
    pub(crate) stages: Vec<Duration>,
}

/// Remembered datasets, by batch and partition.
type Kept = Arc<RwLock<HashMap<(DatasetId, i64, u32), Vec<RecordBatch>>>>;

/// What is there for the tasks of a stage.
struct Given<'a> {
    job: &'a Job,
    /// By stream and partition.
    blocks: &'a [&'a [Vec<RecordBatch>]],
    shuffled: &'a HashMap<(StageId, u32), Vec<RecordBatch>>,
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
        let mut memories = HashMap::new();
        for stage in compiled
            .plan
            .stages
            .iter()
            .filter(|stage| stage.keeps != Keeps::Nothing)
        {
            for partition in 0..stage.partitions {
                memories.insert((stage.id, partition), Arc::default());
            }
        }
        Ok(Self {
            plan: compiled.plan,
            templates,
            index: 0,
            kept: Kept::default(),
            memories,
        })
    }

    /// Bytes of what partitions keep beside remembered datasets, panes included.
    pub(crate) fn memory(&self) -> usize {
        self.memories.values().map(|memory| memory.size()).sum()
    }

    /// Bytes of remembered datasets.
    pub(crate) fn remembered(&self) -> usize {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.values().flatten().map(RecordBatch::get_array_memory_size).sum()
    }

    /// Runs the next batch over the blocks of each partition of the only stream.
    pub(crate) fn run(&mut self, blocks: &[Vec<RecordBatch>], threads: usize) -> Result<Batch> {
        self.run_streams(&[blocks], threads)
    }

    /// The same with the blocks of each stream, in the order in which they are defined.
    pub(crate) fn run_streams(&mut self, blocks: &[&[Vec<RecordBatch>]], threads: usize) -> Result<Batch> {
        self.index += 1;
        let mut shuffled = HashMap::new();
        let mut batch = Batch {
            rows: Vec::new(),
            stages: Vec::new(),
        };
        for (stage, template) in self.plan.stages.iter().zip(&self.templates) {
            if !stage.is_due(self.index) {
                continue;
            }
            let started = Instant::now();
            let given = Given {
                job: self,
                blocks,
                shuffled: &shuffled,
            };
            let leaves = run_stage(stage, template, &given, threads)?;
            match &stage.output {
                StageOutput::Exchange { .. } => {
                    for (partition, rows) in leaves.into_iter().flatten() {
                        let at: &mut Vec<RecordBatch> = shuffled.entry((stage.id, partition)).or_default();
                        at.push(rows);
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
                        self.kept
                            .write()
                            .unwrap_or_else(PoisonError::into_inner)
                            .extend(kept.map(|(partition, rows)| ((*dataset, self.index, partition), rows)));
                    }
                }
            }
            batch.stages.push(started.elapsed());
        }
        for dataset in &self.plan.datasets {
            let gone = self.index - i64::from(dataset.remember) + 1;
            let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
            for partition in 0..dataset.partitions {
                kept.remove(&(dataset.id, gone, partition));
            }
        }
        Ok(batch)
    }
}

/// Runs the tasks of a stage, partition `p` on thread `p` modulo their number; what they leave is in partition order.
fn run_stage(stage: &StagePlan, template: &Template, given: &Given<'_>, threads: usize) -> Result<Vec<Leaves>> {
    let run_some = |thread: usize| -> Result<Vec<(u32, Leaves)>> {
        let mine = (0..stage.partitions).skip(thread).step_by(threads);
        mine.map(|partition| Ok((partition, run_task(stage, template, partition, given)?)))
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

fn run_task(stage: &StagePlan, template: &Template, partition: u32, given: &Given<'_>) -> Result<Leaves> {
    let index = given.job.index;
    let key = TaskKey {
        job: JobId(1),
        batch: BatchTime(1000 * index),
        stage: stage.id,
        partition,
    };
    let mut inputs = HashMap::new();
    for read in stage.reads.get(partition as usize).into_iter().flatten() {
        inputs.insert((read.slot, read.partition), input(stage, *read, given)?);
    }
    let every = i64::from(stage.every.max(1));
    let mut rows = template.run(TaskBinding {
        key,
        inputs,
        index,
        previous: (index > every).then_some(index - every),
        memory: given.job.memories.get(&(stage.id, partition)).cloned(),
        broadcasts: Arc::default(),
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

fn input(stage: &StagePlan, read: SlotPartition, given: &Given<'_>) -> Result<SlotInput> {
    let slot = stage.slots.iter().find(|slot| slot.id == read.slot);
    let rows = match &slot.context("a task reads a slot that its stage does not have")?.kind {
        SlotKind::Source { stream } => {
            let blocks = given.blocks.get(stream.0 as usize);
            blocks.and_then(|blocks| blocks.get(read.partition as usize))
        }
        SlotKind::Shuffle { from } => given.shuffled.get(&(*from, read.partition)),
        SlotKind::Dataset { dataset, batches } => {
            let (dataset, partition) = (*dataset, read.partition);
            let indices = given.job.plan.window(dataset, given.job.index, *batches).collect();
            let kept = Arc::clone(&given.job.kept);
            let load = move |index: i64| {
                let kept = kept.read().unwrap_or_else(PoisonError::into_inner);
                Ok(kept.get(&(dataset, index, partition)).cloned().unwrap_or_default())
            };
            return Ok(SlotInput::Panes(Arc::new(Panes::new(indices, load))));
        }
        SlotKind::Table { name } => bail!("table {name} is not here"),
    };
    Ok(SlotInput::Batches(rows.cloned().unwrap_or_default()))
}
