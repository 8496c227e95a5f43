//! What an executor that lives has lost: a file was damaged, or there was no room for what is kept in memory alone.
//!
//! - A remembered partition is read from its copy, or made again.
//! - What a task of a batch that runs has left is made again by that task, where it was; it reads the same inputs.
//! - A received block is nowhere else: its rows are counted as lost, and the tasks that read it go on without it.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_types::{BlockId, DatasetId, ExecutorId, StorageLevel, TaskKey};

use super::batch::BatchState;
use super::inputs::Losses;
use super::parts::Part;
use super::task::Key;
use super::{Job, JobState};
use crate::action::{Action, JobEnd};
use crate::event::DatasetPart;
use crate::scheduler::Context;

/// Why a job ends that does not save its state.
pub(super) const NOT_SAVED: &str =
    "rows of a stream with state are lost, and its state is not saved: give the job a `checkpoint`";

impl Job {
    pub(crate) fn on_data_lost(
        &mut self,
        cx: &mut Context<'_>,
        executor: ExecutorId,
        datasets: &[DatasetPart],
        outputs: &[TaskKey],
        blocks: &[BlockId],
    ) {
        if !matches!(self.state, JobState::Running | JobState::Stopping) {
            return;
        }
        let mut again: BTreeMap<i64, BTreeSet<Key>> = BTreeMap::new();
        let mut restoring = false;
        for lost in datasets {
            let part = Part {
                index: self.index_of(lost.batch),
                dataset: lost.dataset,
                partition: lost.partition,
            };
            let Some(stage) = self.spec.plan.dataset(lost.dataset).map(|dataset| dataset.stage) else {
                continue;
            };
            let key = (stage, lost.partition);
            if self.runs_still(part.index) {
                if self.has_lost(part.index, key, executor) {
                    again.entry(part.index).or_default().insert(key);
                }
            } else if self.parts.lose_at(part, executor) {
                // A restore may wait for it, or may just have made it.
                restoring |= !self.restores.is_empty();
            }
        }
        for map in outputs {
            let (index, key) = (self.index_of(map.batch), (map.stage, map.partition));
            if self.has_lost(index, key, executor) {
                again.entry(index).or_default().insert(key);
            }
            let restored = self.restores.get(&index).and_then(|run| run.tasks.get(key));
            restoring |= restored.is_some_and(|task| task.executor == executor);
        }
        self.lose_single_blocks(cx, blocks);
        if restoring {
            self.abandon_restores();
        }
        // What another has a copy of.
        self.move_parts(cx);
        for (index, tasks) in again {
            self.rerun(cx, index, &tasks);
        }
    }

    fn runs_still(&self, index: i64) -> bool {
        let batch = self.batches.get(&index);
        batch.is_some_and(|batch| batch.state == BatchState::Running)
    }

    /// Whether a task of a batch that runs has to run again, for what it has left there is lost. One whose end is not
    /// known yet may have ended: it runs again when that is reported.
    fn has_lost(&mut self, index: i64, key: Key, executor: ExecutorId) -> bool {
        let batch = self.batches.get_mut(&index);
        let batch = batch.filter(|batch| batch.state == BatchState::Running);
        let task = batch.and_then(|batch| batch.tasks.get_mut(key));
        let Some(task) = task.filter(|task| task.executor == executor) else {
            return false;
        };
        task.output_lost = !task.is_done();
        task.is_done()
    }

    /// Runs tasks again where they were. An owner can go back by one state: behind a later batch that is launched too, the
    /// state goes through the batches from what is saved again.
    pub(super) fn rerun(&mut self, cx: &mut Context<'_>, index: i64, tasks: &BTreeSet<Key>) {
        let later = self.launched().any(|batch| batch.index > index);
        let (behind, alone): (BTreeSet<Key>, BTreeSet<Key>) =
            tasks.iter().partition(|key| later && self.is_state(key.0));
        if !behind.is_empty() && !self.is_durable() {
            self.end(cx, JobEnd::Failed(NOT_SAVED.to_owned()));
            return;
        }
        if !behind.is_empty() {
            self.abandon_restores();
            self.give_up_states(&behind);
        }
        self.run_again(cx, index, &alone);
    }

    pub(super) fn run_again(&mut self, cx: &mut Context<'_>, index: i64, tasks: &BTreeSet<Key>) {
        if tasks.is_empty() {
            return;
        }
        self.relaunch(cx, index, tasks, false, |job, batch, key| {
            let here = batch.tasks.get(key).map(|task| task.executor);
            here.filter(|executor| job.is_here(*executor))
        });
    }

    /// Received blocks that are gone. A launched batch loses them where a task has to read them again.
    fn lose_single_blocks(&mut self, cx: &mut Context<'_>, blocks: &[BlockId]) {
        let mut losses = Losses::default();
        for block in blocks {
            if self.receivers.lose_block(*block, &mut losses) {
                continue;
            }
            self.lost_blocks.insert(*block);
            for batch in self.batches.values_mut().filter(|batch| !batch.state.is_launched()) {
                batch.inputs.lose(|named| named == block, &mut losses);
            }
        }
        self.publish_losses(cx, &losses);
    }

    pub(crate) fn on_parts_wanted(&mut self, parts: &[DatasetPart]) {
        for part in parts {
            let part = Part {
                index: self.index_of(part.batch),
                dataset: part.dataset,
                partition: part.partition,
            };
            self.parts.ask(part);
        }
    }

    /// Has a dataset kept as its readers in the plan need it, and no longer.
    pub(crate) fn on_unpersisted(&mut self, cx: &mut Context<'_>, dataset: DatasetId) {
        if self.state.is_ended() {
            return;
        }
        let plan = self.spec.plan.datasets.iter_mut().find(|plan| plan.id == dataset);
        let Some(plan) = plan else { return };
        plan.remember = plan.needed;
        plan.level = StorageLevel::default();
        let remember = plan.needed;
        // A restore may read what goes now.
        self.abandon_restores();
        let from = self.oldest_unfinished() - i64::from(remember) + 1;
        self.parts.forget_of(dataset, from);
        self.forget();
        for executor in self.installed.keys() {
            cx.act(Action::Unpersist {
                executor: *executor,
                job: self.spec.id,
                dataset,
                remember,
                from: self.time_of(from),
            });
        }
    }
}
