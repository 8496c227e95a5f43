//! One batch of one job, from the moment it is due to its commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemill_dstream::accumulator::AccumulatorState;
use tidemill_dstream::plan::{JobPlan, SlotKind, SlotPlan};
use tidemill_types::{AccumulatorId, Attempt, BatchTime, OutputId};

use super::broadcasts::BroadcastVersions;
use super::inputs::Inputs;
use super::task::Tasks;
use super::{graph, micros};
use crate::action::{BatchStats, InputInfo};
use crate::event::OutputPart;
use crate::scheduler::Options;

/// Where a batch is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BatchState {
    /// Its time has come; waits for the receivers' reports of its border.
    Due,
    /// The planners were asked for its input.
    Allocating,
    /// Has its input; waits for its turn.
    Ready,
    /// Its tasks are launched.
    Running,
    /// All tasks are done; the committer has its outputs.
    Committing,
}

impl BatchState {
    pub(crate) fn is_launched(self) -> bool {
        matches!(self, Self::Running | Self::Committing)
    }
}

/// The version of each table that a batch reads.
pub(crate) type TableVersions = Arc<BTreeMap<String, u32>>;

#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) index: i64,
    pub(crate) time: BatchTime,
    pub(crate) state: BatchState,
    pub(crate) due: i64,
    pub(crate) launched: i64,
    pub(crate) inputs: Inputs,
    pub(crate) tables: TableVersions,
    pub(crate) broadcasts: BroadcastVersions,
    pub(crate) tasks: Tasks,
    /// Of its tasks' first launch: attempts of an earlier launch of the whole batch never look like current ones.
    pub(crate) first_attempt: Attempt,
    pub(crate) failed_attempts: u32,
    /// It became due while the job was stopping, for what receivers had left: planners are not asked.
    pub(crate) rest: bool,
    /// The state that it leaves is saved.
    pub(crate) saves_state: bool,
}

/// What a completed batch was made of.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) inputs: Inputs,
    pub(crate) tables: TableVersions,
    pub(crate) broadcasts: BroadcastVersions,
    /// It failed and was skipped.
    pub(crate) absent: bool,
}

impl History {
    pub(crate) fn absent() -> Self {
        Self {
            absent: true,
            ..Self::default()
        }
    }
}

impl Batch {
    pub(crate) fn due(index: i64, time: BatchTime, due: i64) -> Self {
        Self {
            index,
            time,
            state: BatchState::Due,
            due,
            launched: 0,
            inputs: Inputs::default(),
            tables: TableVersions::default(),
            broadcasts: BroadcastVersions::default(),
            tasks: Tasks::default(),
            first_attempt: Attempt(0),
            failed_attempts: 0,
            rest: false,
            saves_state: false,
        }
    }

    /// A run that makes parts of datasets of a completed batch again.
    pub(crate) fn restore(index: i64, time: BatchTime, now: i64, history: &History) -> Self {
        Self {
            state: BatchState::Running,
            launched: now,
            inputs: history.inputs.clone(),
            tables: Arc::clone(&history.tables),
            broadcasts: Arc::clone(&history.broadcasts),
            ..Self::due(index, time, now)
        }
    }

    /// When allocation stops waiting for borders.
    pub(crate) fn border_deadline(&self, interval: Duration, options: &Options) -> i64 {
        self.due + micros(options.border_wait).max(micros(interval) / 20)
    }

    /// Nothing of its run is left: it is launched as a whole again.
    pub(crate) fn start_over(&mut self) {
        let attempts = self.tasks.iter().map(|(_, task)| task.attempt);
        self.first_attempt = attempts.max().map_or(self.first_attempt, Attempt::next);
        self.tasks = Tasks::default();
        self.state = BatchState::Ready;
    }

    /// The parts of each output, in the order of their partitions.
    pub(crate) fn output_parts(&self) -> BTreeMap<OutputId, Vec<OutputPart>> {
        let mut parts: BTreeMap<OutputId, Vec<OutputPart>> = BTreeMap::new();
        for (_, task) in self.tasks.iter() {
            for part in task.success().into_iter().flat_map(|success| &success.outputs) {
                parts.entry(part.output).or_default().push(part.clone());
            }
        }
        parts
    }

    /// What its tasks added to accumulators, in their order. Each task is here once, by its current attempt, whatever ran
    /// before it or beside it.
    pub(crate) fn deltas(&self) -> Vec<(AccumulatorId, AccumulatorState)> {
        let successes = self.tasks.iter().filter_map(|(_, task)| task.success());
        successes.flat_map(|success| success.deltas.iter().cloned()).collect()
    }

    /// Rows that came in: what the sources said, or else what the tasks that read them counted.
    pub(crate) fn input_rows(&self, plan: &JobPlan) -> u64 {
        self.inputs.rows().unwrap_or_else(|| {
            let reading = plan.stages.iter().filter(|stage| graph::reads_sources(stage));
            let tasks = reading.flat_map(|stage| self.tasks.of_stage(stage.id));
            let counted = tasks.map(|(_, task)| task.success().map_or(0, |success| success.input_rows));
            counted.sum()
        })
    }

    /// What it had of each stream. Rows that a source did not count are those that tasks counted, where they read no other
    /// stream.
    fn input_infos(&self, plan: &JobPlan) -> Vec<InputInfo> {
        let mut infos = self.inputs.describe();
        for info in infos.iter_mut().filter(|info| info.rows.is_none()) {
            let reads = |slot: &SlotPlan| slot.kind == SlotKind::Source { stream: info.stream };
            let reading = plan.stages.iter().find(|stage| stage.slots.iter().any(reads));
            let alone = reading.filter(|stage| stage.slots.iter().all(reads));
            info.rows = alone.map(|stage| {
                let tasks = self.tasks.of_stage(stage.id);
                let counted = tasks.map(|(_, task)| task.success().map_or(0, |success| success.input_rows));
                counted.sum()
            });
        }
        infos
    }

    pub(crate) fn stats(&self, plan: &JobPlan, now: i64) -> BatchStats {
        let span = |from: i64, until: i64| Duration::from_micros(u64::try_from(until - from).unwrap_or(0));
        BatchStats {
            input_rows: self.input_rows(plan),
            inputs: self.input_infos(plan),
            scheduling_delay: span(self.due, self.launched),
            processing_time: span(self.launched, now),
            total_delay: span(self.due, now),
            tasks: self.tasks.len() as u32,
            failed_attempts: self.failed_attempts,
        }
    }

    pub(crate) fn into_history(self) -> History {
        History {
            inputs: self.inputs,
            tables: self.tables,
            broadcasts: self.broadcasts,
            absent: false,
        }
    }
}
