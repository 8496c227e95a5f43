//! Running one task: binds its inputs, drives the plan, hands the rows to where they belong.
//!
//! Runs on a task thread. Reads of files and spilled data block that thread, which is what it is for. A panic in the
//! plan or in a function ends the task, not the executor.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use tidemill_connectors::{CommitPlace, ReadCounters, ReadOptions, StagePlace, StagedWriter, open};
use tidemill_dstream::accumulator::AccumulatorState;
use tidemill_dstream::plan::{Keeps, OutputPlan, SlotKind, SlotPartition, StageOutput, StagePlan};
use tidemill_dstream::{ForeachUnit, InputItem, OutputKind, Source};
use tidemill_engine::{
    BroadcastValues, ForeachBatch, Panes, RecordBatch, Rows, SchemaRef, SlotInput, StateHere, TaskBinding, TaskMemory,
    TaskStream, Template, encode_ipc,
};
use tidemill_rpc::driver as wire;
use tidemill_storage::{Charge, DatasetKey, MemoryKind, Stowed, VersionKey, sliced_bytes};
use tidemill_types::{
    AccumulatorId, BatchTime, BroadcastId, DatasetId, FailureKind, OutputId, TaskAttempt, TaskFailure, TaskKey,
};
use tokio::runtime::Handle;
use tracing::warn;

use crate::boundary::guarded;
use crate::job::InstalledJob;
use crate::launch::{Launch, TaskLaunch};
use crate::node::Node;
use crate::push::push;
use crate::saved::Left;

/// What all tasks of a batch share.
pub(crate) struct BatchInfo {
    pub(crate) job: Arc<InstalledJob>,
    pub(crate) batch: BatchTime,
    pub(crate) index: i64,
    pub(crate) restore: bool,
    tables: HashMap<String, u32>,
    broadcasts: BTreeMap<BroadcastId, u32>,
    absent: BTreeSet<BatchTime>,
}

/// One task, with all that it needs.
pub(crate) struct Task {
    pub(crate) node: Arc<Node>,
    pub(crate) info: Arc<BatchInfo>,
    pub(crate) launch: Arc<TaskLaunch>,
    /// The I/O runtime, which sends what the task leaves.
    pub(crate) io: Handle,
    pub(crate) max_line_bytes: usize,
}

/// What a task that succeeded came to.
#[derive(Default)]
pub(crate) struct Finished {
    pub(crate) input_rows: u64,
    pub(crate) output_rows: u64,
    pub(crate) output_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) local_bytes: u64,
    pub(crate) run: Duration,
    pub(crate) outputs: Vec<wire::OutputReport>,
    /// What it added to accumulators.
    pub(crate) deltas: Vec<(AccumulatorId, AccumulatorState)>,
    /// The dataset partition that is here now.
    pub(crate) dataset: Option<DatasetKey>,
    /// Its state, if that is to be saved.
    pub(crate) state: Option<Left>,
}

impl BatchInfo {
    pub(crate) fn new(job: &Arc<InstalledJob>, launch: &Launch) -> Self {
        Self {
            job: Arc::clone(job),
            batch: launch.batch,
            index: launch.index,
            restore: launch.restore,
            tables: launch.tables.iter().cloned().collect(),
            broadcasts: launch.broadcasts.iter().copied().collect(),
            absent: launch.absent.iter().copied().collect(),
        }
    }

    /// The versions of broadcast variables that it uses.
    pub(crate) fn broadcasts(&self) -> impl Iterator<Item = VersionKey> {
        self.broadcasts.iter().map(|(broadcast, version)| VersionKey {
            job: self.job.id,
            broadcast: *broadcast,
            version: *version,
        })
    }

    /// The parts of a dataset that a slot reads in this batch, oldest first.
    pub(crate) fn dataset_keys(
        &self,
        dataset: DatasetId,
        batches: u32,
        partition: u32,
    ) -> impl Iterator<Item = DatasetKey> {
        self.window(dataset, batches, partition).map(|(_, key)| key)
    }

    /// The same with the index of each batch.
    fn window(&self, dataset: DatasetId, batches: u32, partition: u32) -> impl Iterator<Item = (i64, DatasetKey)> {
        let window = self.job.plan.window(dataset, self.index, batches);
        window
            .map(|index| (index, self.time_of(index)))
            .filter(|(_, batch)| !self.absent.contains(batch))
            .map(move |(index, batch)| {
                let key = DatasetKey {
                    job: self.job.id,
                    dataset,
                    batch,
                    partition,
                };
                (index, key)
            })
    }

    pub(crate) fn time_of(&self, index: i64) -> BatchTime {
        let interval = i64::try_from(self.job.plan.batch_interval.as_millis()).unwrap_or(i64::MAX);
        BatchTime(self.batch.0 - (self.index - index) * interval)
    }

    /// The index of the last batch before this one in which a stage ran, skipped ones left out.
    pub(crate) fn previous(&self, stage: &StagePlan) -> Option<i64> {
        let every = i64::from(stage.every.max(1));
        let mut index = (self.index - 1).div_euclid(every) * every;
        while index >= 1 && self.absent.contains(&self.time_of(index)) {
            index -= every;
        }
        (index >= 1).then_some(index)
    }
}

impl Task {
    pub(crate) fn attempt(&self) -> TaskAttempt {
        TaskAttempt {
            key: self.key(),
            attempt: self.launch.attempt,
        }
    }

    fn key(&self) -> TaskKey {
        TaskKey {
            job: self.info.job.id,
            batch: self.info.batch,
            stage: self.launch.stage,
            partition: self.launch.partition,
        }
    }

    /// Runs to the end; a panic is a failure.
    pub(crate) async fn run(self) -> Result<Box<Finished>, TaskFailure> {
        let started = Instant::now();
        let result = guarded(self.execute()).await;
        let mut finished = result.map_err(|failure| self.restorable(failure))?;
        finished.run = started.elapsed();
        Ok(Box::new(finished))
    }

    async fn execute(&self) -> Result<Finished, TaskFailure> {
        let internal = |what: &str| TaskFailure::new(FailureKind::Internal, what);
        let stage = self
            .info
            .job
            .stage(self.launch.stage)
            .ok_or_else(|| internal("the stage is not known here"))?;
        let template = self
            .info
            .job
            .template(stage.id)
            .ok_or_else(|| internal("the stage has no template"))?;
        let mut finished = Finished::default();
        let counter = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let repairs = Arc::new(ReadCounters::default());
        let reads = stage
            .reads
            .get(self.launch.partition as usize)
            .map_or(&[][..], Vec::as_slice);
        let broadcasts = self.broadcasts()?;
        let mut inputs = HashMap::with_capacity(reads.len());
        for read in reads {
            inputs.insert(
                (read.slot, read.partition),
                self.input(stage, *read, &broadcasts, &counter, &repairs)?,
            );
        }
        let memory = self.memory(stage);
        let binding = TaskBinding {
            key: self.key(),
            inputs,
            index: self.info.index,
            previous: self.info.previous(stage),
            memory: memory.clone(),
            broadcasts,
        };
        let rows = template
            .run_in(binding, &self.node.workspace)
            .map_err(TaskFailure::from)?;
        match &stage.output {
            StageOutput::Exchange { .. } => self.send(template, rows, &mut finished).await?,
            StageOutput::Result { dataset, outputs } => {
                self.keep(template, rows, *dataset, outputs, &mut finished).await?;
            }
        }
        if self.launch.save_state && matches!(stage.keeps, Keeps::State { .. }) {
            finished.state = memory.map(|memory| Left::take(memory, self.info.index, &self.node.budget));
        }
        finished.input_rows = counter.load(std::sync::atomic::Ordering::Relaxed);
        let malformed = repairs.malformed();
        if malformed > 0 && !self.info.restore {
            let TaskKey {
                job, batch, partition, ..
            } = self.key();
            warn!(%job, %batch, partition, lines = malformed, "lines of files were repaired: not UTF-8, or too long");
        }
        Ok(finished)
    }

    /// What its partition keeps from batch to batch. A batch that is restored leaves its state again; windows' indexes are
    /// ahead of it.
    fn memory(&self, stage: &StagePlan) -> Option<Arc<TaskMemory>> {
        let kept = || {
            let memories = &self.node.memories;
            memories.memory(self.info.job.id, stage.id, self.launch.partition)
        };
        match (&stage.keeps, self.info.restore) {
            (Keeps::Nothing, _) | (Keeps::Derived, true) => None,
            (Keeps::Derived | Keeps::State { .. }, false) => Some(kept()),
            (Keeps::State { .. }, true) => Some(kept().state_only()),
        }
    }

    /// A state that was on disk and is lost is an input that the driver can have made again, if the job has a checkpoint.
    fn restorable(&self, failure: TaskFailure) -> TaskFailure {
        let TaskLaunch { stage, partition, .. } = *self.launch;
        let memory = self.node.memories.find(self.info.job.id, stage, partition);
        let lost = memory.is_some_and(|memory| memory.state_here(self.info.index) == StateHere::Lost);
        if lost && failure.kind == FailureKind::External && self.info.job.checkpoint.is_some() {
            return TaskFailure::new(FailureKind::InputLost, failure.message);
        }
        failure
    }

    // === inputs ===

    /// The values of the job's broadcast variables in the versions of the batch.
    fn broadcasts(&self) -> Result<Arc<BroadcastValues>, TaskFailure> {
        let names = (0..).map(BroadcastId).zip(&self.info.job.plan.broadcasts);
        let value = |(broadcast, name): (BroadcastId, &String)| {
            let Some(version) = self.info.broadcasts.get(&broadcast).copied() else {
                return Ok((name.clone(), None));
            };
            let key = VersionKey {
                job: self.info.job.id,
                broadcast,
                version,
            };
            let missing = || {
                let message = format!("version {version} of broadcast `{name}` is not here");
                TaskFailure::new(FailureKind::InputLost, message)
            };
            let value = self.node.broadcasts.value(key).ok_or_else(missing)?;
            Ok((name.clone(), Some(value)))
        };
        let values = names.map(value).collect::<Result<Vec<_>, TaskFailure>>()?;
        Ok(Arc::new(BroadcastValues::new(values)))
    }

    fn input(
        &self,
        stage: &StagePlan,
        read: SlotPartition,
        broadcasts: &BroadcastValues,
        counter: &Arc<std::sync::atomic::AtomicU64>,
        repairs: &Arc<ReadCounters>,
    ) -> Result<SlotInput, TaskFailure> {
        let slot = stage.slots.iter().find(|slot| slot.id == read.slot);
        let slot = slot.ok_or_else(|| TaskFailure::new(FailureKind::Internal, "the task reads an unknown slot"))?;
        let job = &self.info.job;
        match &slot.kind {
            SlotKind::Shuffle { from } => {
                let (node, from) = (Arc::clone(&self.node), *from);
                let (job, batch, partition) = (job.id, self.info.batch, read.partition);
                let open = move || -> Result<Rows, TaskFailure> {
                    let rows = node
                        .shuffle
                        .open(job, batch, from, partition)
                        .map_err(storage_failure)?;
                    Ok(Box::new(rows.map(|rows| rows.map_err(storage_failure))))
                };
                Ok(SlotInput::Opener(Arc::new(open)))
            }
            SlotKind::Dataset { dataset, batches } => {
                let window = self.info.window(*dataset, *batches, read.partition);
                let indices = window.map(|(index, _)| index).collect();
                let (node, info) = (Arc::clone(&self.node), Arc::clone(&self.info));
                let (dataset, partition) = (*dataset, read.partition);
                let load = move |index: i64| {
                    let key = DatasetKey {
                        job: info.job.id,
                        dataset,
                        batch: info.time_of(index),
                        partition,
                    };
                    part(&node, key)
                };
                Ok(SlotInput::Panes(Arc::new(Panes::opened_by(indices, load))))
            }
            SlotKind::Table { name } if job.plan.broadcasts.contains(name) => {
                let value = broadcasts.get(name);
                let value = value.map_err(|message| TaskFailure::new(FailureKind::User, message))?;
                Ok(SlotInput::Batches(vec![value.rows().clone()]))
            }
            SlotKind::Table { name } => {
                let version = self.info.tables.get(name).copied().unwrap_or(0);
                let table = job.table(name, version).ok_or_else(|| {
                    TaskFailure::new(
                        FailureKind::Internal,
                        format!("version {version} of table {name} is not here"),
                    )
                })?;
                Ok(SlotInput::Batches(table.to_vec()))
            }
            SlotKind::Source { stream } => {
                let input = self
                    .launch
                    .inputs
                    .iter()
                    .find(|input| (input.slot, input.partition) == (read.slot, read.partition));
                let items = input.map_or(&[][..], |input| input.items.as_slice());
                if items.is_empty() {
                    return Ok(SlotInput::Batches(Vec::new()));
                }
                let source = job
                    .source(*stream)
                    .ok_or_else(|| TaskFailure::new(FailureKind::Internal, "the task reads an unknown stream"))?;
                self.source_input(items, source, Arc::clone(counter), repairs)
            }
        }
    }

    fn source_input(
        &self,
        items: &[InputItem],
        source: &Source,
        counter: Arc<std::sync::atomic::AtomicU64>,
        repairs: &Arc<ReadCounters>,
    ) -> Result<SlotInput, TaskFailure> {
        let count = move |batch: &RecordBatch| {
            counter.fetch_add(batch.num_rows() as u64, std::sync::atomic::Ordering::Relaxed);
        };
        let mut blocks = Vec::new();
        let mut rest = Vec::new();
        for item in items {
            match item {
                InputItem::Block { id, .. } => {
                    if !self.node.blocks.has_block(*id) {
                        return Err(TaskFailure::new(FailureKind::InputLost, format!("{id} is not here")));
                    }
                    blocks.push(*id);
                }
                other => rest.push(other.clone()),
            }
        }
        let node = Arc::clone(&self.node);
        let stored = blocks.into_iter().flat_map(move |id| -> Rows {
            match node.blocks.rows(Stowed::Block(id)) {
                Some(rows) => Box::new(rows.map(|rows| rows.map_err(storage_failure))),
                None => {
                    let failure = TaskFailure::new(FailureKind::InputLost, format!("{id} is not here"));
                    Box::new(std::iter::once(Err(failure)))
                }
            }
        });
        let options = ReadOptions {
            batch: self.info.batch,
            max_line_bytes: self.max_line_bytes,
            counters: Arc::clone(repairs),
            ..ReadOptions::default()
        };
        let source = source.clone();
        let failed = |error: tidemill_connectors::Error| TaskFailure::new(error.kind(), error.to_string());
        let read = rest.into_iter().flat_map(move |item| -> Rows {
            match open(&item, &source, &options) {
                Ok(rows) => Box::new(rows.map(move |rows| rows.map_err(failed))),
                Err(error) => Box::new(std::iter::once(Err(failed(error)))),
            }
        });
        let counted = stored.chain(read).inspect(move |rows| {
            if let Ok(rows) = rows {
                count(rows);
            }
        });
        Ok(SlotInput::Reader(Box::new(counted)))
    }

    // === outputs ===

    /// Spreads the rows over the partitions of the next stage and sends them there.
    async fn send(
        &self,
        template: &Template,
        mut rows: TaskStream,
        finished: &mut Finished,
    ) -> Result<(), TaskFailure> {
        let mut partitioner = template
            .partitioner(self.key())
            .ok_or_else(|| TaskFailure::new(FailureKind::Internal, "the stage's exchange has no partitioner"))?;
        let mut output = self.node.router.write_output();
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            finished.output_rows += batch.num_rows() as u64;
            for (partition, rows) in partitioner.partition(&batch)? {
                output.push(partition, rows).map_err(storage_failure)?;
            }
        }
        finished.deltas = rows.deltas();
        // What it worked with is free for those that read its output.
        drop(rows);
        let only = (!self.launch.only_targets.is_empty()).then_some(self.launch.only_targets.as_slice());
        let deliveries = self
            .node
            .router
            .finish_map(self.key(), self.launch.attempt, output, only)
            .map_err(storage_failure)?;
        for delivery in &deliveries {
            finished.output_bytes += delivery.bytes;
            if delivery.to == self.node.executor {
                finished.local_bytes += delivery.bytes;
            } else {
                finished.sent_bytes += delivery.bytes;
            }
        }
        let _io = self.io.enter();
        push(&self.node, deliveries);
        Ok(())
    }

    /// Keeps the rows as a part of a dataset and gives them to outputs.
    async fn keep(
        &self,
        template: &Template,
        mut rows: TaskStream,
        dataset: Option<DatasetId>,
        outputs: &[OutputId],
        finished: &mut Finished,
    ) -> Result<(), TaskFailure> {
        let schema = template.schema();
        let mut writers = Vec::new();
        if !self.info.restore {
            for id in outputs {
                let output = self.info.job.output(*id);
                let output =
                    output.ok_or_else(|| TaskFailure::new(FailureKind::Internal, "the output is not known here"))?;
                writers.push(self.writer(output, &schema)?);
            }
        }
        let mut kept = dataset.map(|dataset| {
            let key = DatasetKey {
                job: self.info.job.id,
                dataset,
                batch: self.info.batch,
                partition: self.launch.partition,
            };
            (key, self.node.blocks.write_dataset(key, self.info.job.medium(dataset)))
        });
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            if batch.num_rows() == 0 {
                continue;
            }
            finished.output_rows += batch.num_rows() as u64;
            finished.output_bytes += sliced_bytes(&batch);
            for writer in &mut writers {
                writer.write(&batch)?;
            }
            if let Some((_, kept)) = &mut kept {
                // What is remembered holds no more of the input than it uses.
                let batch = tidemill_storage::compact(&batch).map_err(storage_failure)?;
                kept.push(batch).map_err(storage_failure)?;
            }
        }
        finished.deltas = rows.deltas();
        drop(rows);
        for writer in writers {
            finished.outputs.push(writer.finish(self, &schema).await?);
        }
        if let Some((key, kept)) = kept {
            kept.finish().map_err(storage_failure)?;
            finished.dataset = Some(key);
        }
        Ok(())
    }

    fn writer(&self, output: &OutputPlan, schema: &SchemaRef) -> Result<OutputWriter, TaskFailure> {
        let sink = match &output.kind {
            // One more than is shown tells whether there are more.
            OutputKind::Print { rows } => OutputSink::Rows {
                batches: Vec::new(),
                left: *rows as usize,
            },
            OutputKind::Table { .. } => OutputSink::Rows {
                batches: Vec::new(),
                left: usize::MAX,
            },
            OutputKind::Save(save) => {
                let place = StagePlace {
                    commit: CommitPlace {
                        job: self.info.job.id,
                        output: output.id,
                        batch: self.info.batch,
                        generation: self.info.job.generation,
                    },
                    partition: self.launch.partition,
                    attempt: self.launch.attempt,
                };
                let writer = StagedWriter::create(save, &place, schema);
                OutputSink::File(Box::new(
                    writer.map_err(|error| TaskFailure::new(error.kind(), error.to_string()))?,
                ))
            }
            // The driver calls it with the whole batch.
            OutputKind::Foreach {
                per: ForeachUnit::Batch,
                ..
            } => OutputSink::Rows {
                batches: Vec::new(),
                left: usize::MAX,
            },
            OutputKind::Foreach {
                function,
                per: ForeachUnit::Partition,
            } => OutputSink::Foreach {
                function: function.name.clone(),
                batches: Vec::new(),
            },
        };
        Ok(OutputWriter {
            id: output.id,
            rows: 0,
            charge: self.node.budget.charge(MemoryKind::Tasks, 0),
            sink,
        })
    }
}

/// One output of a task.
struct OutputWriter {
    id: OutputId,
    rows: u64,
    /// The memory of rows that it holds, and of the message that they become.
    charge: Charge,
    sink: OutputSink,
}

enum OutputSink {
    /// Rows that travel with the report.
    Rows {
        batches: Vec<RecordBatch>,
        left: usize,
    },
    File(Box<StagedWriter>),
    /// Rows for a registered function.
    Foreach {
        function: String,
        batches: Vec<RecordBatch>,
    },
}

impl OutputWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), TaskFailure> {
        self.rows += batch.num_rows() as u64;
        match &mut self.sink {
            OutputSink::Rows { batches, left } => {
                let take = batch.num_rows().min(*left);
                if take > 0 {
                    let rows = batch.slice(0, take);
                    hold(&mut self.charge, 2 * sliced_bytes(&rows))?;
                    batches.push(rows);
                    *left -= take;
                }
                Ok(())
            }
            OutputSink::File(writer) => writer
                .write(batch)
                .map_err(|error| TaskFailure::new(error.kind(), error.to_string())),
            OutputSink::Foreach { batches, .. } => {
                hold(&mut self.charge, sliced_bytes(batch))?;
                batches.push(batch.clone());
                Ok(())
            }
        }
    }

    async fn finish(self, task: &Task, schema: &SchemaRef) -> Result<wire::OutputReport, TaskFailure> {
        let data = match self.sink {
            OutputSink::Foreach { function, batches } => {
                let job = &task.info.job;
                let rows = ForeachBatch {
                    job: job.name.clone(),
                    batch_time: task.info.batch,
                    partition: Some(task.launch.partition),
                    schema: Arc::clone(schema),
                    rows: batches,
                };
                job.registry.foreach(&function, rows, &task.io).await?;
                None
            }
            OutputSink::Rows { batches, .. } => Some(wire::output_report::Data::Ipc(
                encode_ipc(schema, &batches).map_err(TaskFailure::from)?,
            )),
            OutputSink::File(writer) => {
                let file = writer
                    .finish()
                    .map_err(|error| TaskFailure::new(error.kind(), error.to_string()))?;
                file.map(|file| {
                    wire::output_report::Data::File(wire::StagedFile {
                        staged: file.staged.to_string_lossy().into_owned(),
                        name: file.name,
                        bytes: file.bytes,
                    })
                })
            }
        };
        Ok(wire::OutputReport {
            output: self.id.0,
            rows: self.rows,
            data,
        })
    }
}

fn hold(charge: &mut Charge, bytes: u64) -> Result<(), TaskFailure> {
    if charge.grow(bytes) {
        return Ok(());
    }
    let message = format!(
        "an output of one partition has {} bytes and needs {bytes} more, and there is no room in memory ({}): give \
         executors more memory (executor.memory), or use more partitions",
        charge.bytes(),
        charge.budget().describe()
    );
    Err(TaskFailure::new(FailureKind::Resource, message))
}

/// The rows of a part of a dataset that has to be here.
fn part(node: &Node, key: DatasetKey) -> Result<Rows, TaskFailure> {
    let rows = node.blocks.rows(Stowed::Dataset(key)).ok_or_else(|| {
        let DatasetKey {
            dataset,
            batch,
            partition,
            ..
        } = key;
        let what = format!("partition {partition} of batch {batch} of dataset {dataset}");
        TaskFailure::new(FailureKind::InputLost, format!("{what} is not here"))
    })?;
    Ok(Box::new(rows.map(|rows| rows.map_err(storage_failure))))
}

fn storage_failure(error: tidemill_storage::Error) -> TaskFailure {
    TaskFailure::new(error.kind(), error.to_string())
}
