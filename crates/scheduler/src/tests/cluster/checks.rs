//! The scheduler's side: events in, actions out, and what has to be true of them.

use tidemill_dstream::InputItem;
use tidemill_dstream::accumulator::AccumulatorState;
use tidemill_dstream::plan::JobPlan;
use tidemill_types::{AccumulatorId, Attempt, BatchTime, JobId};

use super::Cluster;
use crate::tests::executor::encode;
use crate::{Action, Event, Launch, Notice, OutputCommit, OutputPayload, Resume};

impl Cluster {
    /// Gives the scheduler an event and the cluster its actions.
    pub(in crate::tests) fn event(&mut self, event: Event) {
        let is_clock = event == Event::Clock;
        let actions = self.scheduler.on(self.now, event);
        self.scheduler.check();
        if is_clock {
            let deadline = self.scheduler.next_deadline();
            assert!(
                deadline.is_none_or(|deadline| deadline > self.now),
                "the clock has to be asked again at once"
            );
        }
        for action in actions {
            self.perform(action.clone());
            self.actions.push(action);
        }
    }

    fn perform(&mut self, action: Action) {
        let executor = match &action {
            Action::Install { executor, .. }
            | Action::Remove { executor, .. }
            | Action::Routing { executor, .. }
            | Action::Resend { executor, .. }
            | Action::FetchDatasets { executor, .. }
            | Action::Cancel { executor, .. }
            | Action::StartReceiver { executor, .. }
            | Action::SetRate { executor, .. }
            | Action::Unpersist { executor, .. }
            | Action::StopReceiver { executor, .. } => *executor,
            Action::Launch { executor, launch } => {
                self.check_launch(launch);
                *executor
            }
            Action::Allocate { job, batch, index } => {
                self.indexes.insert((*job, *batch), *index);
                self.planner.push_back((*job, *batch, *index));
                return;
            }
            Action::Commit {
                job,
                batch,
                outputs,
                deltas,
            } => {
                self.check_deltas(*job, *batch, deltas);
                self.committer.push_back((*job, *batch, outputs.clone()));
                return;
            }
            Action::RecordAllocated { job, index, inputs, .. } => {
                let before = self.recorded.insert((*job, *index), Some(inputs.clone()));
                assert!(before.is_none(), "batch {index} is allocated twice");
                return;
            }
            Action::RecordSkipped { job, index, .. } => {
                self.recorded.insert((*job, *index), None);
                return;
            }
            Action::RecordState { job, stage, index, .. } => {
                let partitions = self.specs[job].plan.stage(*stage).expect("a stage").partitions;
                let saved = self.saved.borrow();
                let all = (0..partitions).all(|partition| saved.contains_key(&(*index, (*stage, partition))));
                assert!(
                    all && self.committed[job].contains(index),
                    "the state of batch {index} is saved"
                );
                return;
            }
            // These jobs have no broadcast variables.
            Action::DropBroadcast { .. } => panic!("{action:?}"),
            Action::Publish(notice) => {
                match notice {
                    Notice::BatchFailed { job, batch, .. } => {
                        if let Some(index) = self.indexes.get(&(*job, *batch)) {
                            self.references.entry(*job).or_default().skipped.insert(*index);
                        }
                    }
                    Notice::RowsLost { rows, .. } => self.lost_rows += rows,
                    _ => {}
                }
                return;
            }
        };
        assert!(
            self.known.contains(&executor),
            "{action:?} is for an executor that is gone"
        );
        if let Some(executor) = self.executors.get_mut(&executor) {
            executor.inbox.push_back(action);
        }
    }

    /// Attempt numbers only go up (SCH-1), and a block belongs to one batch (BT-1).
    fn check_launch(&mut self, launch: &Launch) {
        let latest = self.routings.entry(launch.job).or_default();
        if launch.restore && self.restoring.get(&launch.job) != Some(&launch.routing) {
            assert!(launch.routing > *latest, "a restore has a routing version of its own");
            self.restoring.insert(launch.job, launch.routing);
        }
        *latest = launch.routing;
        self.indexes.insert((launch.job, launch.batch), launch.index);
        for task in &launch.tasks {
            let key = (launch.job, launch.batch, launch.restore, (task.stage, task.partition));
            let before = self.attempts.insert(key, task.attempt);
            assert!(
                before.is_none_or(|before| before < task.attempt),
                "{task:?} after attempt {before:?}"
            );
            if launch.restore || task.attempt > Attempt(0) {
                continue;
            }
            for item in task.inputs.iter().flat_map(|input| &input.items) {
                if let InputItem::Block { id, .. } = item {
                    assert!(self.claimed.insert(*id), "{id} is in two batches");
                }
            }
        }
        self.attempts
            .retain(|(job, time, ..), _| *job != launch.job || *time >= launch.remember_from);
    }

    pub(super) fn check_recorded(&self, job: JobId, resume: &Resume) {
        let indexes: Vec<i64> = resume.batches.iter().map(|batch| batch.index).collect();
        assert!(indexes.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{indexes:?}");
        let last = self
            .recorded
            .keys()
            .filter(|(of, _)| *of == job)
            .map(|(_, index)| *index);
        assert_eq!(
            last.max().unwrap_or(0),
            indexes.last().copied().unwrap_or(resume.completed)
        );
        for batch in &resume.batches {
            let recorded = &self.recorded[&(job, batch.index)];
            assert_eq!(batch.skipped, recorded.is_none());
            assert!(batch.skipped || recorded.as_ref() == Some(&batch.inputs));
        }
    }

    /// Every task of a batch has its delta once, in order, whatever ran how often and wherever it was lost.
    fn check_deltas(&self, job: JobId, batch: BatchTime, deltas: &[(AccumulatorId, AccumulatorState)]) {
        let plan: &JobPlan = &self.specs[&job].plan;
        let tasks: Vec<(u32, u64)> = deltas.iter().map(|(stage, state)| (stage.0, state.count)).collect();
        assert!(tasks.is_sorted_by(|a, b| a < b), "{tasks:?} of batch {batch}");
        for stage in plan.due(self.indexes[&(job, batch)]) {
            let counted = tasks.iter().filter(|(of, _)| *of == stage.id.0).count() as u32;
            let all = counted == stage.partitions || stage.skip_empty && counted < stage.partitions;
            assert!(all, "{counted} tasks of stage {} of batch {batch}", stage.id);
        }
    }

    pub(super) fn check_commit(&mut self, job: JobId, batch: BatchTime, outputs: Vec<OutputCommit>) {
        let spec = &self.specs[&job];
        let plan: &JobPlan = &spec.plan;
        let index = self.indexes[&(job, batch)];
        let committed = self.committed.entry(job).or_default();
        assert!(
            committed.last().is_none_or(|last| *last < index),
            "{index} after {committed:?}"
        );
        committed.push(index);
        let due = plan
            .outputs
            .iter()
            .filter(|output| plan.stage(output.stage).is_some_and(|stage| stage.is_due(index)));
        let due: Vec<_> = due.collect();
        assert_eq!(due.len(), outputs.len());
        for (output, commit) in due.into_iter().zip(outputs) {
            assert_eq!(output.id, commit.output);
            assert_eq!(commit.parts.len() as u32, output.partitions, "every task has a part");
            for (partition, part) in commit.parts.into_iter().enumerate() {
                assert_eq!(part.partition as usize, partition);
                // What receivers got is not known to the reference.
                if spec.receivers.is_empty() {
                    let reference = self.references.entry(job).or_default();
                    let rows = encode(&reference.rows(plan, index, output.stage, part.partition));
                    assert_eq!(
                        part.payload,
                        OutputPayload::Ipc(rows),
                        "output {} of batch {index}",
                        output.id
                    );
                }
            }
        }
    }
}
