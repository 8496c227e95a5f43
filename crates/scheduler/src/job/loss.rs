//! What a lost executor takes with it, and what is done again: only that.
//!
//! - Tasks that ran there run elsewhere; so do finished ones whose product somebody still needs.
//! - Reduces that moved get the surviving map outputs from the executors that kept them (`Resend`); maps that were on
//!   the lost executor run again as long as a reader of theirs is unfinished. Readers drop what they have already.
//! - Received blocks that only it held are gone, and are counted.
//! - Remembered partitions of which another executor has a copy are taken from there; others are made again from their
//!   inputs (see `restore`).
//! - State goes on from what is saved of it (see `states`). Of a job without a checkpoint nothing is: it ends.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_dstream::plan::SlotKind;
use tidemill_types::{ExecutorId, StageId};

use super::batch::{Batch, BatchState};
use super::graph::{dataset_of, reads, shuffle_reads};
use super::inputs::Losses;
use super::parts::Part;
use super::task::{Key, Task};
use super::{Job, JobState};
use crate::action::{Action, JobEnd};
use crate::scheduler::Context;

/// Partitions by the executor and the stage that sends to them.
pub(super) type Kept = BTreeMap<(ExecutorId, StageId), BTreeSet<u32>>;

impl Job {
    pub(crate) fn on_executor_lost(&mut self, cx: &mut Context<'_>, lost: ExecutorId) {
        self.broadcasts.lose(lost);
        if self.installed.remove(&lost).is_none() || !matches!(self.state, JobState::Running | JobState::Stopping) {
            return;
        }
        self.forgotten_blocks.remove(&lost);
        self.told_oldest.remove(&lost);
        if self.state_began && !self.is_durable() && self.owners.contains(&lost) {
            let names: Vec<&str> = self.spec.plan.states().map(|(_, name)| name).collect();
            let error = format!(
                "executor {lost} is lost, and with it its part of the state of {}",
                names.join(", ")
            );
            self.end(cx, JobEnd::Failed(error));
            return;
        }
        self.abandon_restores();
        if self.state_began {
            self.lose_states(Some(lost));
        }
        self.parts.lose_of(lost);
        let alone = self.executors().next().is_none();
        if alone {
            // Nobody has the plan: what was running starts over when executors come.
            self.owners.clear();
            for batch in self
                .batches
                .values_mut()
                .filter(|batch| batch.state == BatchState::Running)
            {
                batch.start_over();
            }
        }
        self.lose_blocks(cx, lost);
        if !alone {
            self.replace_owners(cx);
            // Of what others have copies.
            self.move_parts(cx);
            self.replicate(cx);
            let running = self.launched().filter(|batch| batch.state == BatchState::Running);
            for index in running.map(|batch| batch.index).collect::<Vec<_>>() {
                self.relaunch_lost(cx, index);
            }
        }
    }

    /// Restores are made anew from what is missing now. Reports of the present ones have past attempt numbers.
    pub(super) fn abandon_restores(&mut self) {
        for (index, run) in std::mem::take(&mut self.restores) {
            for ((stage, partition), _) in run.tasks.iter().filter(|(_, task)| !task.is_done()) {
                if let Some(dataset) = self.spec.plan.stage(stage).and_then(dataset_of) {
                    self.parts.lose(Part {
                        index,
                        dataset,
                        partition,
                    });
                }
            }
        }
        let until = self.last_without_rerun();
        self.states.abandon(until);
        self.end_restores();
    }

    /// Drops the lost executor's blocks from everything that is not launched yet. Launched batches lose them where a
    /// task has to read them again.
    fn lose_blocks(&mut self, cx: &mut Context<'_>, lost: ExecutorId) {
        let mut losses = Losses::default();
        self.receivers.lose(lost, &mut losses);
        for batch in self.batches.values_mut().filter(|batch| !batch.state.is_launched()) {
            batch.inputs.lose(|block| block.executor == lost, &mut losses);
        }
        self.publish_losses(cx, &losses);
    }

    fn relaunch_lost(&mut self, cx: &mut Context<'_>, index: i64) {
        let Some(batch) = self.batches.get(&index) else {
            return;
        };
        let again = self.lost_tasks(batch);
        let resend = self.kept_outputs(batch, &again);
        self.relaunch(cx, index, &again, false, |job, batch, key| {
            let stage = job.spec.plan.stage(key.0)?;
            job.place(stage, key.1, &batch.inputs)
        });
        self.resend(cx, index, resend);
    }

    /// Has kept map outputs sent again.
    pub(super) fn resend(&self, cx: &mut Context<'_>, index: i64, resend: Kept) {
        let batch = self.time_of(index);
        for ((executor, from_stage), partitions) in resend {
            cx.act(Action::Resend {
                executor,
                job: self.spec.id,
                batch,
                from_stage,
                partitions: partitions.into_iter().collect(),
                routing: self.routing,
            });
        }
    }

    /// What executors that are here have kept, or will have, of the maps whose readers run again: by executor and
    /// sending stage the partitions of these readers.
    pub(super) fn kept_outputs(&self, batch: &Batch, again: &BTreeSet<Key>) -> Kept {
        let mut wanted: BTreeMap<StageId, BTreeSet<u32>> = BTreeMap::new();
        for (stage, partition) in again {
            let reads = self
                .spec
                .plan
                .stage(*stage)
                .map(|stage| shuffle_reads(stage, *partition));
            for (from, partition) in reads.into_iter().flatten() {
                wanted.entry(from).or_default().insert(partition);
            }
        }
        let mut kept = Kept::new();
        for (from, partitions) in wanted {
            for (_, map) in batch.tasks.of_stage(from).filter(|(key, _)| !again.contains(key)) {
                if self.is_here(map.executor) {
                    kept.entry((map.executor, from)).or_insert_with(|| partitions.clone());
                }
            }
        }
        kept
    }

    /// The tasks of a batch that have to run again because their executors are gone.
    ///
    /// A task that finished long ago, on an executor that was lost long ago, can be among them: nobody needed its
    /// product until the only executor that had it was lost too.
    fn lost_tasks(&self, batch: &Batch) -> BTreeSet<Key> {
        let gone = |task: &Task| !self.is_here(task.executor);
        let mut again: BTreeSet<Key> = BTreeSet::new();
        let mut readers: Vec<Key> = Vec::new();
        for (key, task) in batch.tasks.iter() {
            if gone(task) && (!task.is_done() || self.is_remembered(key) || self.is_state(key.0)) {
                again.insert(key);
            }
            if !task.is_done() || again.contains(&key) {
                readers.push(key);
            }
        }
        while let Some(reader) = readers.pop() {
            for needed in self.read_tasks(batch, reader) {
                if batch.tasks.get(needed).is_some_and(gone) && again.insert(needed) {
                    readers.push(needed);
                }
            }
        }
        again
    }

    /// Whether later batches can read what the task leaves.
    fn is_remembered(&self, (stage, _): Key) -> bool {
        let dataset = self.spec.plan.stage(stage).and_then(dataset_of);
        let dataset = dataset.and_then(|dataset| self.spec.plan.dataset(dataset));
        dataset.is_some_and(|dataset| dataset.remember > 1)
    }

    /// The tasks of the same batch whose products a task reads.
    fn read_tasks(&self, batch: &Batch, (stage, partition): Key) -> Vec<Key> {
        let Some(stage) = self.spec.plan.stage(stage) else {
            return Vec::new();
        };
        let mut tasks = Vec::new();
        for (slot, partition) in reads(stage, partition) {
            match slot.kind {
                SlotKind::Shuffle { from } => tasks.extend(batch.tasks.of_stage(from).map(|(key, _)| key)),
                SlotKind::Dataset { dataset, .. } => {
                    tasks.extend(
                        self.spec
                            .plan
                            .dataset(dataset)
                            .map(|dataset| (dataset.stage, partition)),
                    );
                }
                SlotKind::Source { .. } | SlotKind::Table { .. } => {}
            }
        }
        tasks
    }
}
