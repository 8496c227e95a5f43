//! Job plans built by hand, and what each of their tasks has to come to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidemill_dstream::plan::{
    DatasetPlan, ExchangeKind, JobPlan, Keeps, OutputPlan, SlotKind, SlotPartition, SlotPlan, StageOutput, StagePlan,
    StreamPlan,
};
use tidemill_dstream::{FailurePolicy, OutputKind, Source};
use tidemill_types::{DatasetId, JobId, OutputId, PlanVersion, ReceiverId, SlotId, StageId, StorageLevel, StreamId};

use crate::{JobSpec, Pace};

/// A row says where it came from (stream, batch, item) and which partition it was sent to last.
pub(super) type Row = (u32, i64, u32, u32);
pub(super) type Rows = BTreeSet<Row>;

pub(super) const INTERVAL: i64 = 1_000_000;

/// What a stage of a [`Plan`] reads, partition by partition.
#[derive(Clone, Copy)]
pub(super) enum Read {
    Stream(StreamId),
    Shuffle(StageId),
    /// Every partition reads the same rows.
    Broadcast(StageId),
    /// The last batches of a dataset.
    Dataset(DatasetId, u32),
}

pub(super) struct Plan {
    plan: JobPlan,
    partitions: u32,
}

impl Plan {
    pub(super) fn new(partitions: u32) -> Self {
        let plan = JobPlan {
            version: PlanVersion(1),
            batch_interval: Duration::from_micros(INTERVAL as u64),
            stages: Vec::new(),
            streams: Vec::new(),
            datasets: Vec::new(),
            outputs: Vec::new(),
            tables: Vec::new(),
            accumulators: Vec::new(),
            broadcasts: Vec::new(),
        };
        Self { plan, partitions }
    }

    pub(super) fn stream(&mut self) -> StreamId {
        let id = StreamId(self.plan.streams.len() as u32);
        self.plan.streams.push(StreamPlan {
            id,
            name: format!("stream{id}"),
            source: Source::Queue(Vec::new()),
            partitions: self.partitions,
        });
        id
    }

    /// Partitions of a slot.
    fn width(&self, read: Read) -> u32 {
        match read {
            Read::Stream(_) | Read::Shuffle(_) => self.partitions,
            Read::Broadcast(_) => 1,
            Read::Dataset(id, _) => self.plan.datasets[id.0 as usize].partitions,
        }
    }

    fn stage(&mut self, reads: &[Read], side_by_side: bool, output: StageOutput, every: u32) -> StageId {
        let id = StageId(self.plan.stages.len() as u32);
        let kind = |read: &Read| match *read {
            Read::Stream(stream) => SlotKind::Source { stream },
            Read::Shuffle(from) | Read::Broadcast(from) => SlotKind::Shuffle { from },
            Read::Dataset(dataset, batches) => SlotKind::Dataset { dataset, batches },
        };
        let slots: Vec<SlotPlan> = reads
            .iter()
            .enumerate()
            .map(|(i, read)| SlotPlan {
                id: SlotId(i as u32),
                kind: kind(read),
                partitions: self.width(*read),
            })
            .collect();
        let at = |slot: &SlotPlan, partition: u32| SlotPartition {
            slot: slot.id,
            partition: partition.min(slot.partitions - 1),
        };
        let reads_of: Vec<Vec<SlotPartition>> = if side_by_side {
            let union = slots
                .iter()
                .flat_map(|slot| (0..slot.partitions).map(move |p| vec![at(slot, p)]));
            union.collect()
        } else {
            let all = 0..self.partitions;
            all.map(|p| slots.iter().map(|slot| at(slot, p)).collect()).collect()
        };
        for read in reads {
            if let Read::Shuffle(from) | Read::Broadcast(from) = read
                && let StageOutput::Exchange { to, .. } = &mut self.plan.stages[from.0 as usize].output
            {
                *to = id;
            }
        }
        let exchanges = matches!(output, StageOutput::Exchange { .. });
        let only_sources = reads.iter().all(|read| matches!(read, Read::Stream(_)));
        self.plan.stages.push(StagePlan {
            id,
            partitions: reads_of.len() as u32,
            slots,
            reads: reads_of,
            output,
            every,
            keeps: Keeps::Nothing,
            deterministic: true,
            skip_empty: exchanges && only_sources,
            description: format!("stage {id}"),
        });
        id
    }

    pub(super) fn exchange(&mut self, reads: &[Read]) -> StageId {
        let kind = ExchangeKind::Hash {
            partitions: self.partitions,
        };
        self.stage(reads, false, StageOutput::Exchange { to: StageId(0), kind }, 1)
    }

    /// The partitions of its inputs stand side by side.
    pub(super) fn union(&mut self, reads: &[Read]) -> StageId {
        let kind = ExchangeKind::Hash {
            partitions: self.partitions,
        };
        self.stage(reads, true, StageOutput::Exchange { to: StageId(0), kind }, 1)
    }

    pub(super) fn broadcast(&mut self, reads: &[Read]) -> StageId {
        let kind = ExchangeKind::Broadcast;
        self.stage(reads, false, StageOutput::Exchange { to: StageId(0), kind }, 1)
    }

    pub(super) fn dataset(&mut self, reads: &[Read], remember: u32) -> DatasetId {
        let id = DatasetId(self.plan.datasets.len() as u32);
        let output = StageOutput::Result {
            dataset: Some(id),
            outputs: Vec::new(),
        };
        let stage = self.stage(reads, false, output, 1);
        self.plan.datasets.push(DatasetPlan {
            id,
            name: format!("dataset{id}"),
            stage,
            partitions: self.partitions,
            remember,
            needed: remember,
            level: StorageLevel::default(),
        });
        id
    }

    pub(super) fn output(&mut self, reads: &[Read], every: u32) -> StageId {
        let output = StageOutput::Result {
            dataset: None,
            outputs: Vec::new(),
        };
        let stage = self.stage(reads, false, output, every);
        self.output_of(stage);
        stage
    }

    /// Adds an output to a stage that keeps its rows.
    pub(super) fn output_of(&mut self, stage: StageId) {
        let id = OutputId(self.plan.outputs.len() as u32);
        let plan = &mut self.plan.stages[stage.0 as usize];
        let StageOutput::Result { outputs, .. } = &mut plan.output else {
            panic!("stage {stage} sends its rows on");
        };
        outputs.push(id);
        self.plan.outputs.push(OutputPlan {
            id,
            name: format!("output{id}"),
            stream: String::new(),
            kind: OutputKind::Print { rows: 10 },
            stage,
            partitions: plan.partitions,
        });
    }

    pub(super) fn build(self) -> JobPlan {
        self.plan
    }
}

/// stream ─► output
pub(super) fn one_stage(partitions: u32) -> JobPlan {
    let mut plan = Plan::new(partitions);
    let stream = plan.stream();
    plan.output(&[Read::Stream(stream)], 1);
    plan.build()
}

/// stream ─► map ═hash═► reduce ─► dataset and output
pub(super) fn word_count(partitions: u32) -> JobPlan {
    let mut plan = Plan::new(partitions);
    let stream = plan.stream();
    let map = plan.exchange(&[Read::Stream(stream)]);
    plan.dataset(&[Read::Shuffle(map)], 1);
    plan.output_of(REDUCE);
    plan.build()
}

/// The same, with state in the reduce.
pub(super) fn running_count(partitions: u32) -> JobPlan {
    let mut plan = word_count(partitions);
    plan.stages[REDUCE.0 as usize].keeps = Keeps::State {
        name: "counts".to_owned(),
    };
    plan
}

/// A window of three batches over a running count, beside one over the input, every two batches.
pub(super) fn window_over_state(partitions: u32) -> JobPlan {
    let mut plan = Plan::new(partitions);
    let stream = plan.stream();
    let map = plan.exchange(&[Read::Stream(stream)]);
    let counts = plan.dataset(&[Read::Shuffle(map)], 3);
    plan.output(&[Read::Dataset(counts, 3)], 2);
    let mut plan = plan.build();
    plan.stages[REDUCE.0 as usize].keeps = Keeps::State {
        name: "counts".to_owned(),
    };
    plan
}

/// State over a window of three batches.
pub(super) fn state_over_window(partitions: u32) -> JobPlan {
    let mut plan = Plan::new(partitions);
    let stream = plan.stream();
    let map = plan.exchange(&[Read::Stream(stream)]);
    let pane = plan.dataset(&[Read::Shuffle(map)], 3);
    let window = plan.exchange(&[Read::Dataset(pane, 3)]);
    let state = plan.output(&[Read::Shuffle(window)], 1);
    let mut plan = plan.build();
    plan.stages[state.0 as usize].keeps = Keeps::State {
        name: "counts".to_owned(),
    };
    plan
}

pub(super) const MAP: StageId = StageId(0);
pub(super) const REDUCE: StageId = StageId(1);
/// The stage of [`windowed`] that merges the panes.
pub(super) const WINDOW: StageId = StageId(2);

/// stream ─► map ═hash═► pane ─► remembered ─► window every `every` ─► output
pub(super) fn windowed(partitions: u32, batches: u32, every: u32) -> JobPlan {
    let mut plan = Plan::new(partitions);
    let stream = plan.stream();
    let map = plan.exchange(&[Read::Stream(stream)]);
    let pane = plan.dataset(&[Read::Shuffle(map)], batches);
    plan.output(&[Read::Dataset(pane, batches)], every);
    plan.build()
}

/// A window over a window: panes of 3 batches, exchanged and remembered for 2.
pub(super) fn two_levels(partitions: u32) -> JobPlan {
    let mut plan = Plan::new(partitions);
    let stream = plan.stream();
    let map = plan.exchange(&[Read::Stream(stream)]);
    let pane = plan.dataset(&[Read::Shuffle(map)], 3);
    let window = plan.exchange(&[Read::Dataset(pane, 3)]);
    let outer = plan.dataset(&[Read::Shuffle(window)], 2);
    plan.output(&[Read::Dataset(outer, 2)], 1);
    plan.build()
}

/// One dataset, read within its batch by two outputs and by one that aggregates again.
pub(super) fn two_consumers(partitions: u32) -> JobPlan {
    let mut plan = Plan::new(partitions);
    let stream = plan.stream();
    let map = plan.exchange(&[Read::Stream(stream)]);
    let shared = plan.dataset(&[Read::Shuffle(map)], 1);
    plan.output(&[Read::Dataset(shared, 1)], 1);
    let again = plan.exchange(&[Read::Dataset(shared, 1)]);
    plan.output(&[Read::Shuffle(again)], 1);
    plan.build()
}

/// Two streams and a remembered one side by side, then an aggregate.
pub(super) fn union(partitions: u32) -> JobPlan {
    let mut plan = Plan::new(partitions);
    let (left, right) = (plan.stream(), plan.stream());
    let map = plan.exchange(&[Read::Stream(left)]);
    let pane = plan.dataset(&[Read::Shuffle(map)], 2);
    let all = plan.union(&[Read::Stream(left), Read::Dataset(pane, 2), Read::Stream(right)]);
    plan.output(&[Read::Shuffle(all)], 1);
    plan.build()
}

/// One stream goes whole to every task of the other.
pub(super) fn broadcast(partitions: u32) -> JobPlan {
    let mut plan = Plan::new(partitions);
    let (small, large) = (plan.stream(), plan.stream());
    let whole = plan.broadcast(&[Read::Stream(small)]);
    let joined = plan.exchange(&[Read::Stream(large), Read::Broadcast(whole)]);
    plan.output(&[Read::Shuffle(joined)], 1);
    plan.build()
}

pub(super) const PLANS: u32 = 8;

/// The plans by number.
pub(super) fn plan(number: u32) -> JobPlan {
    match number {
        0 => one_stage(3),
        1 => word_count(4),
        2 => windowed(3, 3, 1),
        3 => windowed(4, 4, 2),
        4 => two_levels(3),
        5 => two_consumers(3),
        6 => union(2),
        _ => broadcast(3),
    }
}

pub(super) fn spec(id: u32, plan: JobPlan) -> JobSpec {
    JobSpec {
        id: JobId(id),
        name: format!("job{id}"),
        plan,
        weight: 1,
        max_attempts: 4,
        back_pressure: Some(tidemill_dstream::BackPressure::default()),
        max_queued_batches: 100,
        concurrent_batches: 1,
        on_batch_failure: FailurePolicy::Stop,
        pace: Pace::Clock,
        max_batches: None,
        ends_with_input: false,
        receivers: Vec::new(),
        tables: Vec::new(),
        broadcasts: Vec::new(),
        checkpoint_every: None,
        resume: None,
    }
}

/// The same with a receiver for the first stream.
pub(super) fn received(id: u32, plan: JobPlan) -> JobSpec {
    JobSpec {
        receivers: vec![(ReceiverId(0), StreamId(0))],
        ..spec(id, plan)
    }
}

/// Whether the planners of the tests have an item for a partition of a batch's input: some have none.
pub(super) fn has_item(stream: StreamId, index: i64, partition: u32) -> bool {
    (index + i64::from(stream.0 + partition)) % 3 != 0
}

/// The rows that go to a partition of an exchange.
pub(super) fn sent(rows: &Rows, to: u32) -> Rows {
    rows.iter().map(|row| (row.0, row.1, row.2, to)).collect()
}

/// What tasks come to when nothing goes wrong, by recursion over the plan.
#[derive(Default)]
pub(super) struct Reference {
    known: BTreeMap<(i64, StageId, u32), Rows>,
    /// Batches that failed and were skipped.
    pub(super) skipped: BTreeSet<i64>,
}

impl Reference {
    pub(super) fn rows(&mut self, plan: &JobPlan, index: i64, stage: StageId, partition: u32) -> Rows {
        if let Some(rows) = self.known.get(&(index, stage, partition)) {
            return rows.clone();
        }
        let stage = plan.stage(stage).expect("a stage of the plan");
        let mut rows = Rows::new();
        if matches!(stage.keeps, Keeps::State { .. }) {
            let every = i64::from(stage.every.max(1));
            let mut before = (index - 1).div_euclid(every) * every;
            while self.skipped.contains(&before) {
                before -= every;
            }
            if before > 0 {
                rows.extend(self.rows(plan, before, stage.id, partition));
            }
        }
        for read in &stage.reads[partition as usize] {
            let slot = stage
                .slots
                .iter()
                .find(|slot| slot.id == read.slot)
                .expect("a slot of the stage");
            match &slot.kind {
                SlotKind::Source { stream } => {
                    let item = (stream.0, index, read.partition, 0);
                    rows.extend(has_item(*stream, index, read.partition).then_some(item));
                }
                SlotKind::Shuffle { from } => {
                    let senders = plan.stage(*from).expect("a stage of the plan").partitions;
                    for sender in 0..senders {
                        rows.extend(sent(&self.rows(plan, index, *from, sender), read.partition));
                    }
                }
                SlotKind::Dataset { dataset, batches } => {
                    let producer = plan.dataset(*dataset).expect("a dataset of the plan").stage;
                    for batch in plan.window(*dataset, index, *batches).collect::<Vec<_>>() {
                        if !self.skipped.contains(&batch) {
                            rows.extend(self.rows(plan, batch, producer, read.partition));
                        }
                    }
                }
                SlotKind::Table { .. } => {}
            }
        }
        self.known.retain(|(known, ..), _| known + 20 > index);
        self.known.insert((index, stage.id, partition), rows.clone());
        rows
    }
}
