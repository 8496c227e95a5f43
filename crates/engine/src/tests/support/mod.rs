//! A mini executor: runs a compiled job batch after batch, and checks on the way what executors rely on.

mod jobs;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{RecordBatch, StringViewArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::StreamExt;
use tidemill_dstream::accumulator::{AccumulatorState, Ledger, Reading};
use tidemill_dstream::plan::{ExchangeKind, Keeps, SlotKind, SlotPartition, StageOutput, StagePlan};
use tidemill_dstream::{JobGraph, Shape};
use tidemill_storage::{MemoryBudget, MemoryKind, MemoryLimits, Reclaim, SpillDir};
use tidemill_types::{AccumulatorId, BatchTime, DatasetId, Incarnation, JobId, StageId, TaskFailure, TaskKey};

pub(crate) use self::jobs::*;
use crate::{
    BroadcastRows, BroadcastValue, BroadcastValues, CompileOptions, CompiledJob, Panes, Registry, SlotInput, StateHere,
    TableData, TaskBinding, TaskMemories, TaskMemory, Template, compile, decode_ipc, encode_ipc,
};

/// Partition counts under which every job has to give the same rows.
pub(crate) const PARTITIONS: [u32; 3] = [1, 2, 7];

pub(crate) struct Mini {
    pub(crate) compiled: CompiledJob,
    templates: Vec<Template>,
    tables: Vec<TableData>,
    /// Which of the tables are broadcast variables.
    broadcasts: Vec<(String, Shape)>,
    /// By dataset and batch index, the rows of each partition.
    datasets: HashMap<(DatasetId, i64), Vec<Vec<RecordBatch>>>,
    memories: Memories,
    /// Batches that count as never run.
    skipped: BTreeSet<i64>,
    index: i64,
    /// The accumulators after the last batch, and after the one before it.
    ledger: Ledger,
    ledger_before: Ledger,
    /// What the last batch has added.
    pub(crate) added: Ledger,
    /// Rows of all exchanges so far.
    pub(crate) shuffled: usize,
}

/// What a task reads of a slot: the rows of batches, by their index.
type Input = (SlotPartition, Vec<(i64, Vec<RecordBatch>)>);

/// What a task has added to accumulators.
type Added = Vec<(AccumulatorId, AccumulatorState)>;

/// Rows of an output, in order, columns separated by `|`.
pub(crate) type Rows = Vec<String>;

/// What partitions of stages keep from batch to batch.
struct Memories {
    all: Arc<TaskMemories>,
    by_partition: HashMap<(StageId, u32), Arc<TaskMemory>>,
    budget: Arc<MemoryBudget>,
    _directory: tempfile::TempDir,
}

impl Memories {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let budget = MemoryBudget::new(MemoryLimits::of(1 << 30));
        let spill = SpillDir::create(directory.path(), Incarnation(1), u64::MAX).unwrap();
        Self {
            all: TaskMemories::new(&budget, &spill),
            by_partition: HashMap::new(),
            budget,
            _directory: directory,
        }
    }

    fn of(&mut self, stage: StageId, partition: u32) -> Arc<TaskMemory> {
        let memory = self.all.memory(JobId(1), stage, partition);
        self.by_partition.insert((stage, partition), Arc::clone(&memory));
        memory
    }

    fn give_way(&self) {
        self.all.reclaim(u64::MAX, true);
        assert_eq!(self.budget.used(MemoryKind::State), 0);
        assert!(self.by_partition.values().all(|memory| memory.size() == 0));
    }
}

impl Mini {
    pub(crate) fn new(graph: &JobGraph, tables: &[TableData], partitions: u32) -> Self {
        Self::of_build(graph, tables, partitions, &Registry::default())
    }

    /// With the functions that a build has registered.
    pub(crate) fn of_build(graph: &JobGraph, tables: &[TableData], partitions: u32, registry: &Registry) -> Self {
        let options = CompileOptions {
            partitions,
            registry: registry.clone(),
        };
        let compiled = block_on(compile(graph, tables, &options)).unwrap_or_else(|faults| panic!("{faults}"));
        let templates = compiled
            .templates
            .iter()
            .map(|bytes| Template::decode(bytes, &compiled.registry).unwrap())
            .collect();
        check_plan(&compiled);
        Self {
            templates,
            tables: tables.to_vec(),
            broadcasts: graph
                .broadcasts
                .iter()
                .map(|def| (def.name.clone(), def.known_shape()))
                .collect(),
            datasets: HashMap::new(),
            memories: Memories::new(),
            skipped: BTreeSet::new(),
            index: 0,
            ledger: Ledger::zero(&compiled.plan.accumulators),
            ledger_before: Ledger::zero(&compiled.plan.accumulators),
            added: Ledger::zero(&compiled.plan.accumulators),
            compiled,
            shuffled: 0,
        }
    }

    /// Replaces a table from the next batch on.
    pub(crate) fn load(&mut self, table: TableData) {
        self.tables.retain(|old| old.name != table.name);
        self.tables.push(table);
    }

    /// Runs the next batch with the given lines for each source; the rows of the outputs that are due, by name.
    pub(crate) fn batch(&mut self, lines: &[(&str, &[&str])]) -> BTreeMap<String, Rows> {
        self.try_batch(lines).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// The values of broadcast variables, as they come over the wire. A variable without its table was destroyed.
    fn values(&self) -> Arc<BroadcastValues> {
        let values = self.broadcasts.iter().map(|(name, shape)| {
            let table = self.tables.iter().find(|table| table.name == *name);
            let value = table.map(|table| {
                let rows = BroadcastRows::try_new(*shape, &table.schema, &table.batches).unwrap();
                Arc::new(BroadcastValue::decode(*shape, Buffer::from(rows.encode().unwrap())).unwrap())
            });
            (name.clone(), value)
        });
        Arc::new(BroadcastValues::new(values))
    }

    /// Has a broadcast variable destroyed.
    pub(crate) fn destroy(&mut self, name: &str) {
        self.tables.retain(|table| table.name != name);
    }

    /// Forgets what is kept from batch to batch, as an executor that has just started.
    pub(crate) fn forget_memory(&mut self) {
        self.memories = Memories::new();
    }

    /// The states of the batch `index`, as they are saved, by stage and partition.
    pub(crate) fn saved(&self, index: i64) -> BTreeMap<(StageId, u32), Vec<u8>> {
        let states: Vec<StageId> = self.compiled.plan.states().map(|(stage, _)| stage.id).collect();
        let memories = self.memories.by_partition.iter();
        let memories = memories.filter(|((stage, _), _)| states.contains(stage));
        let saved = memories.map(|(of, memory)| {
            let mut bytes = Vec::new();
            memory.state_version(index).unwrap().unwrap().write(&mut bytes).unwrap();
            (*of, bytes)
        });
        saved.collect()
    }

    /// Puts saved states in place of those that are here.
    pub(crate) fn load_saved(&mut self, index: i64, saved: &BTreeMap<(StageId, u32), Vec<u8>>) {
        for ((stage, partition), bytes) in saved {
            let template = self.templates[stage.0 as usize].clone();
            let memory = self.memories.of(*stage, *partition);
            memory.load_state(&template, index, bytes).unwrap();
            assert_eq!(memory.state_here(index), StateHere::Here);
        }
    }

    /// Goes on elsewhere, with nothing but the saved states of the last batch.
    pub(crate) fn move_state(&mut self) {
        let saved = self.saved(self.index);
        self.forget_memory();
        self.load_saved(self.index, &saved);
    }

    /// What keeps the first partition's state, and the template of its stage.
    pub(crate) fn first_state(&mut self) -> (Arc<TaskMemory>, Template) {
        let stage = self.compiled.plan.states().map(|(stage, _)| stage.id).next().unwrap();
        (self.memories.of(stage, 0), self.templates[stage.0 as usize].clone())
    }

    /// Has the last batch count as skipped.
    pub(crate) fn skip(&mut self) {
        self.skipped.insert(self.index);
        self.datasets.retain(|(_, index), _| *index != self.index);
    }

    /// Runs the last batch once more, with other lines: its first run counts as never having been.
    pub(crate) fn again(&mut self, lines: &[(&str, &[&str])]) -> BTreeMap<String, Rows> {
        self.index -= 1;
        self.ledger = self.ledger_before.clone();
        self.batch(lines)
    }

    /// The totals of the accumulators, by name.
    pub(crate) fn readings(&self) -> BTreeMap<String, Reading> {
        let plans = &self.compiled.plan.accumulators;
        let readings = self.ledger.read(plans, &self.compiled.registry);
        plans.iter().map(|plan| plan.name.clone()).zip(readings).collect()
    }

    /// The value of an accumulator; what is wrong with it if it has none.
    pub(crate) fn total(&self, name: &str) -> String {
        let reading = self.readings().remove(name).unwrap();
        let value = reading.value.map(|value| value.to_string());
        value.or(reading.problem).unwrap_or_else(|| "none".to_owned())
    }

    /// The state of a stage, rows of all partitions, sorted.
    pub(crate) fn state(&self, name: &str) -> Rows {
        let states = self.memories_of(name).filter_map(|memory| memory.state().unwrap());
        sorted(states.flat_map(|(_, rows)| format_rows(&rows)).collect())
    }

    /// The same in the version of a batch; `None` if a partition does not have it.
    pub(crate) fn state_at(&self, name: &str, index: i64) -> Option<Rows> {
        let states = self.memories_of(name).map(|memory| memory.state_at(index).unwrap());
        let rows: Rows = states
            .collect::<Option<Vec<_>>>()?
            .iter()
            .flat_map(format_rows)
            .collect();
        Some(sorted(rows))
    }

    fn memories_of(&self, name: &str) -> impl Iterator<Item = &Arc<TaskMemory>> {
        let states = self.compiled.plan.states();
        let stages: Vec<StageId> = states
            .filter(|(_, of)| *of == name)
            .map(|(stage, _)| stage.id)
            .collect();
        self.memories
            .by_partition
            .iter()
            .filter(move |((stage, _), _)| stages.contains(stage))
            .map(|(_, memory)| memory)
    }

    pub(crate) fn try_batch(&mut self, lines: &[(&str, &[&str])]) -> Result<BTreeMap<String, Rows>, TaskFailure> {
        self.index += 1;
        let plan = self.compiled.plan.clone();
        let mut shuffles: HashMap<StageId, Vec<Vec<RecordBatch>>> = HashMap::new();
        let mut outputs = BTreeMap::new();
        let mut deltas = Vec::new();
        for stage in plan.due(self.index) {
            let template = self.templates[stage.id.0 as usize].clone();
            let mut results = Vec::new();
            let mut spread: Vec<Vec<RecordBatch>> = match stage.output {
                StageOutput::Exchange { kind, .. } => vec![Vec::new(); kind.partitions() as usize],
                StageOutput::Result { .. } => Vec::new(),
            };
            for partition in 0..stage.partitions {
                let key = TaskKey {
                    job: JobId(1),
                    batch: BatchTime(0) + INTERVAL * self.index as u32,
                    stage: stage.id,
                    partition,
                };
                let reads = &stage.reads[partition as usize];
                let inputs = reads
                    .iter()
                    .map(|read| (*read, self.input(stage, *read, lines, &shuffles)));
                let inputs: Vec<Input> = inputs.collect();
                let empty = inputs
                    .iter()
                    .flat_map(|(_, batches)| batches)
                    .all(|(_, rows)| rows.iter().all(|rows| rows.num_rows() == 0));
                let kept = (stage.keeps != Keeps::Nothing).then(|| self.memories.of(stage.id, partition));
                let indices = (1..self.index).rev();
                let previous = indices
                    .filter(|index| stage.is_due(*index))
                    .find(|index| !self.skipped.contains(index));
                let at = (self.index, previous, kept);
                let (rows, added) = run(&template, key, inputs, at, self.values())?;
                assert!(
                    !(stage.skip_empty && empty && !added.is_empty()),
                    "skipped tasks add nothing"
                );
                deltas.extend(added);
                assert!(
                    !(stage.skip_empty && empty && !rows.is_empty()),
                    "stage {} must not skip empty tasks",
                    stage.id
                );
                match template.partitioner(key) {
                    Some(mut partitioner) => {
                        for batch in &rows {
                            for (to, part) in partitioner.partition(batch)? {
                                let bytes = encode_ipc(&part.schema(), std::slice::from_ref(&part)).unwrap();
                                self.shuffled += part.num_rows();
                                spread[to as usize].extend(decode_ipc(&bytes).unwrap().1);
                            }
                        }
                    }
                    None => results.push(rows),
                }
            }
            match &stage.output {
                StageOutput::Exchange { .. } => {
                    shuffles.insert(stage.id, spread);
                }
                StageOutput::Result { dataset, outputs: ids } => {
                    for id in ids {
                        let output = plan.outputs.iter().find(|output| output.id == *id).unwrap();
                        outputs.insert(
                            output.name.clone(),
                            results.iter().flatten().flat_map(format_rows).collect(),
                        );
                    }
                    if let Some(dataset) = dataset {
                        self.datasets.insert((*dataset, self.index), results);
                    }
                }
            }
        }
        let added = Ledger::of_batch(&plan.accumulators, &deltas, &self.compiled.registry).unwrap();
        let totals = self
            .ledger
            .with(&plan.accumulators, &added, &self.compiled.registry)
            .unwrap();
        self.ledger_before = std::mem::replace(&mut self.ledger, totals);
        self.added = added;
        let index = self.index;
        // Nothing of it is in memory before every second batch.
        if index % 2 == 1 {
            self.memories.give_way();
        }
        self.datasets
            .retain(|(id, made), _| index - made < i64::from(plan.dataset(*id).unwrap().remember));
        Ok(outputs)
    }

    fn input(
        &self,
        stage: &StagePlan,
        read: SlotPartition,
        lines: &[(&str, &[&str])],
        shuffles: &HashMap<StageId, Vec<Vec<RecordBatch>>>,
    ) -> Vec<(i64, Vec<RecordBatch>)> {
        let slot = stage.slots.iter().find(|slot| slot.id == read.slot).unwrap();
        let partition = read.partition as usize;
        let rows = match &slot.kind {
            SlotKind::Source { stream } => {
                let stream = &self.compiled.plan.streams[stream.0 as usize];
                let lines = lines
                    .iter()
                    .find(|(name, _)| *name == stream.name)
                    .map_or(&[][..], |(_, lines)| *lines);
                let mine = lines.iter().skip(partition).step_by(stream.partitions as usize);
                vec![text(&mine.copied().collect::<Vec<_>>())]
            }
            SlotKind::Shuffle { from } => shuffles[from][partition].clone(),
            SlotKind::Dataset { dataset, batches } => {
                let first = self.index - i64::from(*batches) + 1;
                let versions =
                    (first..=self.index).filter_map(|index| Some((index, self.datasets.get(&(*dataset, index))?)));
                return versions
                    .map(|(index, partitions)| (index, partitions[partition].clone()))
                    .collect();
            }
            SlotKind::Table { name } => self
                .tables
                .iter()
                .find(|table| table.name == *name)
                .unwrap()
                .batches
                .clone(),
        };
        vec![(self.index, rows)]
    }
}

/// A batch of lines, as sources give it.
pub(crate) fn text(lines: &[&str]) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![Field::new("value", DataType::Utf8View, false)]));
    RecordBatch::try_new(schema, vec![Arc::new(StringViewArray::from_iter_values(lines))]).unwrap()
}

fn run(
    template: &Template,
    key: TaskKey,
    inputs: Vec<Input>,
    (index, previous, memory): (i64, Option<i64>, Option<Arc<TaskMemory>>),
    broadcasts: Arc<BroadcastValues>,
) -> Result<(Vec<RecordBatch>, Added), TaskFailure> {
    let inputs = inputs.into_iter().map(|(read, batches)| {
        let indices: Vec<i64> = batches.iter().map(|(index, _)| *index).collect();
        // All kinds of input.
        let input = if indices != [index] {
            let load = move |at: i64| Ok(batches.iter().find(|(index, _)| *index == at).unwrap().1.clone());
            SlotInput::Panes(Arc::new(Panes::new(indices, load)))
        } else if read.partition % 2 == 0 {
            SlotInput::Batches(batches.into_iter().flat_map(|(_, rows)| rows).collect())
        } else {
            SlotInput::Reader(Box::new(batches.into_iter().flat_map(|(_, rows)| rows).map(Ok)))
        };
        ((read.slot, read.partition), input)
    });
    let mut stream = template.run(TaskBinding {
        key,
        inputs: inputs.collect(),
        index,
        previous,
        memory,
        broadcasts,
    })?;
    let schema = template.schema();
    let rows = block_on(stream.by_ref().collect::<Vec<_>>())
        .into_iter()
        .inspect(|batch| {
            if let Ok(batch) = batch {
                assert_eq!(batch.schema().fields().len(), schema.fields().len());
            }
        })
        .filter(|batch| batch.as_ref().map_or(true, |batch| batch.num_rows() > 0))
        .collect::<Result<_, _>>()?;
    Ok((rows, stream.deltas()))
}

/// What the scheduler and the executors rely on.
fn check_plan(compiled: &CompiledJob) {
    let plan = &compiled.plan;
    assert_eq!(plan.stages.len(), compiled.templates.len());
    for (i, stage) in plan.stages.iter().enumerate() {
        assert_eq!(stage.id.0 as usize, i);
        assert_eq!(stage.reads.len(), stage.partitions as usize);
        let template = Template::decode(&compiled.templates[i], &compiled.registry).unwrap();
        for slot in &stage.slots {
            assert!(template.slot_schema(slot.id).is_some());
            if let SlotKind::Shuffle { from } = slot.kind {
                assert!(
                    from < stage.id,
                    "stage {} reads from {from}, which is not before it",
                    stage.id
                );
                let StageOutput::Exchange { to, kind } = plan.stage(from).unwrap().output else {
                    panic!("stage {from} does not end in an exchange")
                };
                assert_eq!(to, stage.id);
                assert_eq!(kind.partitions(), slot.partitions);
                assert_eq!(plan.stage(from).unwrap().every, stage.every);
            }
            if let SlotKind::Dataset { dataset, batches } = slot.kind {
                let dataset = plan.dataset(dataset).unwrap();
                assert!(dataset.stage < stage.id);
                assert!(dataset.remember >= batches);
                assert_eq!(dataset.partitions, slot.partitions);
                assert_eq!(stage.every % plan.stage(dataset.stage).unwrap().every, 0);
            }
            for (partition, reads) in stage.reads.iter().enumerate() {
                for read in reads.iter().filter(|read| read.slot == slot.id) {
                    assert!(read.partition < slot.partitions);
                    let whole = match slot.kind {
                        SlotKind::Table { .. } => true,
                        SlotKind::Shuffle { from } => {
                            matches!(
                                plan.stage(from).unwrap().output,
                                StageOutput::Exchange {
                                    kind: ExchangeKind::Broadcast,
                                    ..
                                }
                            )
                        }
                        SlotKind::Source { .. } | SlotKind::Dataset { .. } => false,
                    };
                    assert_eq!(read.partition as usize, if whole { 0 } else { partition });
                }
            }
            // Every partition of a slot is read by somebody, or its rows would be lost.
            for partition in 0..slot.partitions {
                let wanted = SlotPartition {
                    slot: slot.id,
                    partition,
                };
                assert!(
                    stage.reads.iter().flatten().any(|read| *read == wanted),
                    "stage {} leaves {wanted:?} out",
                    stage.id
                );
            }
        }
    }
    for output in &plan.outputs {
        let StageOutput::Result { outputs, .. } = &plan.stage(output.stage).unwrap().output else {
            panic!("output {} has no rows", output.name)
        };
        assert!(outputs.contains(&output.id));
        assert_eq!(output.partitions, plan.stage(output.stage).unwrap().partitions);
    }
}

pub(crate) fn format_rows(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::new().with_null("null");
    let formatters: Vec<ArrayFormatter<'_>> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
        .collect();
    let row = |i: usize| {
        formatters
            .iter()
            .map(|f| f.value(i).to_string())
            .collect::<Vec<_>>()
            .join("|")
    };
    (0..batch.num_rows()).map(row).collect()
}

pub(crate) fn sorted(mut rows: Rows) -> Rows {
    rows.sort();
    rows
}

/// Runs batches of one source named `lines` under every partition count and checks the rows of one output, in any order.
/// `None` is an output that is not due.
pub(crate) fn check(graph: &JobGraph, output: &str, batches: &[(&[&str], Option<&[&str]>)]) {
    for partitions in PARTITIONS {
        let mut mini = Mini::new(graph, &[], partitions);
        for (i, (lines, expected)) in batches.iter().enumerate() {
            let mut outputs = mini.batch(&[("lines", lines)]);
            let rows = outputs.remove(output).map(sorted);
            let expected = expected.map(|rows| sorted(rows.iter().map(ToString::to_string).collect()));
            assert_eq!(rows, expected, "batch {}, {partitions} partitions", i + 1);
        }
    }
}
