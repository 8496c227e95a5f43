//! What is sent for a batch: one message to each executor, with all its tasks of all stages.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_dstream::FailurePolicy;
use tidemill_types::{BlockId, ExecutorId, StageId};

use super::Job;
use super::batch::{Batch, BatchState};
use super::graph::{dataset_of, sending_stages};
use super::inputs::Losses;
use super::parts::Part;
use super::task::Key;
use crate::action::{Action, Expectation, Launch, Notice, TaskLaunch};
use crate::scheduler::Context;

impl Job {
    /// Launches the next ready batches while there is room for them.
    pub(super) fn launch_ready(&mut self, cx: &mut Context<'_>) {
        // New owners wait until what is launched is finished.
        if self.owners.is_empty() || self.rebalance {
            return;
        }
        let room = self.concurrent_batches();
        while self.launched().count() < room {
            let next = self.batches.values().find(|batch| !batch.state.is_launched());
            let Some(index) = next
                .filter(|batch| batch.state == BatchState::Ready)
                .map(|batch| batch.index)
            else {
                return;
            };
            self.launch(cx, index);
        }
    }

    /// How many batches may be launched at once. One, if a batch can be skipped that the next one's window or
    /// state reads: it has to know.
    fn concurrent_batches(&self) -> usize {
        let plan = &self.spec.plan;
        if self.spec.on_batch_failure == FailurePolicy::Skip && (plan.remember() > 1 || plan.states().next().is_some())
        {
            1
        } else {
            self.spec.concurrent_batches.max(1) as usize
        }
    }

    fn launch(&mut self, cx: &mut Context<'_>, index: i64) {
        let Some(mut batch) = self.batches.remove(&index) else {
            return;
        };
        self.state_began |= self.spec.plan.states().next().is_some();
        batch.state = BatchState::Running;
        batch.launched = cx.now;
        batch.tables.clone_from(&self.tables);
        batch.broadcasts = self.broadcasts.current();
        batch.saves_state = self.saves_state(index);
        for stage in self.spec.plan.due(index) {
            for partition in 0..stage.partitions {
                if stage.skip_empty && batch.inputs.is_empty_for(stage, partition) {
                    continue;
                }
                let executor = self.place(stage, partition, &batch.inputs);
                let executor = executor.expect("every place has an owner while there are owners");
                batch.tasks.launch((stage.id, partition), executor, batch.first_attempt);
            }
        }
        let (time, all) = (batch.time, batch.tasks.keys());
        self.batches.insert(index, batch);
        // Executors with nothing to run are told what they can forget.
        let forgetting: Vec<ExecutorId> = self.forgotten_blocks.keys().copied().collect();
        self.send(cx, index, &all, false, forgetting);
        cx.act(Action::Publish(Notice::BatchStarted {
            job: self.spec.id,
            batch: time,
        }));
    }

    /// Launches tasks of a run again where `place` says, with attempt numbers that are new.
    pub(super) fn relaunch(
        &mut self,
        cx: &mut Context<'_>,
        index: i64,
        which: &BTreeSet<Key>,
        restore: bool,
        place: impl Fn(&Self, &Batch, Key) -> Option<ExecutorId>,
    ) {
        let Some(mut run) = self.runs(restore).remove(&index) else {
            return;
        };
        if restore {
            self.restore_attempt = self.restore_attempt.next();
        }
        for key in which {
            let (Some(task), Some(executor)) = (run.tasks.get(*key), place(self, &run, *key)) else {
                continue;
            };
            let attempt = if restore {
                self.restore_attempt
            } else {
                task.attempt.next()
            };
            run.tasks.launch(*key, executor, attempt);
        }
        self.runs(restore).insert(index, run);
        self.send(cx, index, which, restore, []);
    }

    /// Tells the executors that do not know it yet which batches are finished.
    pub(super) fn tell_oldest(&mut self, cx: &mut Context<'_>) {
        let oldest = self.oldest_unfinished();
        let told = |executor: &ExecutorId| self.told_oldest.get(executor).is_some_and(|told| *told >= oldest);
        let untold: Vec<ExecutorId> = self.executors().filter(|executor| !told(executor)).collect();
        self.send(cx, oldest, &BTreeSet::new(), false, untold);
    }

    /// Sends the named tasks of a run to their executors, one message each, and a message without tasks to others that
    /// have to know of it.
    pub(super) fn send(
        &mut self,
        cx: &mut Context<'_>,
        index: i64,
        which: &BTreeSet<Key>,
        restore: bool,
        others: impl IntoIterator<Item = ExecutorId>,
    ) {
        let oldest = if restore { index } else { self.oldest_unfinished() };
        let remember_from = self.remembered_from().min(self.restoring_from);
        let absent = self.absent();
        let Some(mut run) = self.runs(restore).remove(&index) else {
            return;
        };
        let plan = &self.spec.plan;
        let mut losses = Losses::default();
        let mut by_executor: BTreeMap<ExecutorId, Vec<TaskLaunch>> =
            others.into_iter().map(|executor| (executor, Vec::new())).collect();
        let mut senders: BTreeSet<StageId> = BTreeSet::new();
        for key in which {
            let (Some(task), Some(stage)) = (run.tasks.get(*key), plan.stage(key.0)) else {
                continue;
            };
            if let Some(dataset) = dataset_of(stage) {
                let part = Part {
                    index,
                    dataset,
                    partition: key.1,
                };
                // Readers wait for it there.
                self.parts.place(part, task.executor);
            }
            let here = |block: &BlockId| self.installed.get(&block.executor) == Some(&true);
            let gone = |block: &BlockId| !here(block) || self.lost_blocks.contains(block);
            run.inputs.lose_of_task(stage, key.1, gone, &mut losses);
            senders.extend(sending_stages(stage));
            by_executor.entry(task.executor).or_default().push(TaskLaunch {
                stage: key.0,
                partition: key.1,
                attempt: task.attempt,
                inputs: run.inputs.of_task(stage, key.1),
                only_targets: task.only_targets.clone(),
            });
        }
        let expectation = |from_stage| Expectation {
            from_stage,
            map_partitions: run.tasks.of_stage(from_stage).map(|(key, _)| key.1).collect(),
        };
        let template = Launch {
            job: self.spec.id,
            plan: plan.version,
            routing: self.routing,
            batch: run.time,
            index,
            tasks: Vec::new(),
            expectations: senders.into_iter().map(expectation).collect(),
            oldest: self.time_of(oldest),
            remember_from: self.time_of(remember_from),
            restore,
            tables: run
                .tables
                .iter()
                .map(|(name, version)| (name.clone(), *version))
                .collect(),
            broadcasts: run.broadcasts.iter().map(|(id, version)| (*id, *version)).collect(),
            absent,
            forget_blocks: Vec::new(),
            save_state: run.saves_state,
            state_bases: self.state_bases(),
        };
        for (executor, tasks) in by_executor {
            if !restore {
                self.told_oldest.insert(executor, oldest);
            }
            let launch = Launch {
                tasks,
                forget_blocks: self.forgotten_blocks.remove(&executor).unwrap_or_default(),
                ..template.clone()
            };
            cx.act(Action::Launch { executor, launch });
        }
        self.runs(restore).insert(index, run);
        self.publish_losses(cx, &losses);
    }
}
