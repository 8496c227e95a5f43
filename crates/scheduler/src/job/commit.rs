//! The end of a batch: committed in order, or failed by the job's policy.

use tidemill_dstream::FailurePolicy;
use tidemill_types::{BatchTime, TaskFailure};

use super::Job;
use super::batch::{BatchState, History};
use super::inputs::Inputs;
use crate::action::{Action, JobEnd, Notice, OutputCommit};
use crate::scheduler::Context;

impl Job {
    /// Hands the oldest batch to the committer once its tasks are done.
    pub(super) fn commit_finished(&mut self, cx: &mut Context<'_>) {
        let Some(mut oldest) = self.batches.first_entry() else {
            return;
        };
        let batch = oldest.get_mut();
        if batch.state != BatchState::Running || !batch.tasks.all_done() {
            return;
        }
        batch.state = BatchState::Committing;
        let (index, time) = (batch.index, batch.time);
        let mut parts = batch.output_parts();
        let deltas = batch.deltas();
        let plan = &self.spec.plan;
        let due = plan
            .outputs
            .iter()
            .filter(|output| plan.stage(output.stage).is_some_and(|stage| stage.is_due(index)));
        let outputs = due.map(|output| OutputCommit {
            output: output.id,
            parts: parts.remove(&output.id).unwrap_or_default(),
        });
        cx.act(Action::Commit {
            job: self.spec.id,
            batch: time,
            outputs: outputs.collect(),
            deltas,
        });
    }

    pub(crate) fn on_committed(&mut self, cx: &mut Context<'_>, time: BatchTime, result: Result<(), TaskFailure>) {
        let index = self.index_of(time);
        let batch = self.batches.get(&index);
        if batch.is_none_or(|batch| batch.time != time || batch.state != BatchState::Committing) {
            return;
        }
        match result {
            Ok(()) => self.complete(cx, index),
            Err(failure) => self.fail_batch(cx, index, &failure.to_string()),
        }
    }

    fn complete(&mut self, cx: &mut Context<'_>, index: i64) {
        let Some(batch) = self.batches.remove(&index) else {
            return;
        };
        let stats = batch.stats(&self.spec.plan, cx.now);
        self.totals.record(batch.time, &stats);
        self.estimate_rates(cx.now, &stats);
        cx.act(Action::Publish(Notice::BatchCompleted {
            job: self.spec.id,
            batch: batch.time,
            stats,
        }));
        self.history.insert(index, batch.into_history());
        let due = self.spec.plan.states().filter(|(stage, _)| stage.is_due(index));
        let due: Vec<_> = due.map(|(stage, _)| stage.id).collect();
        self.state_of.extend(due.into_iter().map(|stage| (stage, index)));
        self.advance_bases(cx);
        self.forget();
        self.replicate(cx);
        self.tell_new_oldest(cx);
    }

    /// Ends a batch that cannot succeed, by the job's policy.
    pub(super) fn fail_batch(&mut self, cx: &mut Context<'_>, index: i64, error: &str) {
        let Some(batch) = self.batches.get(&index) else { return };
        let time = batch.time;
        cx.act(Action::Publish(Notice::BatchFailed {
            job: self.spec.id,
            batch: time,
            error: error.to_owned(),
        }));
        self.totals.failed_batches += 1;
        match self.spec.on_batch_failure {
            FailurePolicy::Stop => self.end(cx, JobEnd::Failed(format!("batch {time}: {error}"))),
            FailurePolicy::Skip => {
                for executor in self.executors() {
                    cx.act(Action::Cancel {
                        executor,
                        job: self.spec.id,
                        batch: time,
                        reason: error.to_owned(),
                    });
                }
                if let Some(batch) = self.batches.remove(&index) {
                    self.forget_blocks(&batch.inputs);
                }
                self.next_allocation = self.next_allocation.max(index + 1);
                self.states.skip(index);
                if self.is_durable() {
                    cx.act(Action::RecordSkipped {
                        job: self.spec.id,
                        batch: time,
                        index,
                    });
                }
                self.history.insert(index, History::absent());
                self.forget();
                self.tell_new_oldest(cx);
            }
        }
    }

    /// A batch that runs and is the oldest now needs no credit for its frames: without this it could wait for ever when
    /// no further batch is launched.
    fn tell_new_oldest(&mut self, cx: &mut Context<'_>) {
        if self
            .batches
            .values()
            .next()
            .is_some_and(|next| next.state.is_launched())
        {
            self.tell_oldest(cx);
        }
    }

    /// Batches with an index below this are finished.
    pub(super) fn oldest_unfinished(&self) -> i64 {
        self.batches.keys().next().copied().unwrap_or(self.next_index)
    }

    /// The first batch whose datasets unfinished and later batches can read.
    pub(super) fn remembered_from(&self) -> i64 {
        self.oldest_unfinished() - i64::from(self.spec.plan.remember()) + 1
    }

    /// The first batch whose inputs can be asked for, to make such datasets again.
    pub(super) fn inputs_from(&self) -> i64 {
        self.oldest_unfinished().min(self.states_from()) - i64::from(self.spec.plan.lineage()) + 1
    }

    pub(super) fn forget(&mut self) {
        let from = self.inputs_from().min(self.absent_from());
        while let Some(oldest) = self.history.first_entry().filter(|oldest| *oldest.key() < from) {
            let history = oldest.remove();
            self.forget_blocks(&history.inputs);
        }
        self.parts.forget_before(self.remembered_from());
    }

    fn forget_blocks(&mut self, inputs: &Inputs) {
        for block in inputs.blocks() {
            self.lost_blocks.remove(&block);
        }
        for block in inputs
            .blocks()
            .filter(|block| self.installed.contains_key(&block.executor))
        {
            self.forgotten_blocks.entry(block.executor).or_default().push(block);
        }
    }

    /// The first skipped batch that is between a state and the next batch that it is for.
    pub(super) fn absent_from(&self) -> i64 {
        let states = self.spec.plan.states();
        let next = states.map(|(stage, _)| self.state_of.get(&stage.id).map_or(1, |last| last + 1));
        let skipped = self
            .history
            .iter()
            .find(|(_, history)| history.absent)
            .map(|(index, _)| *index);
        match (next.min(), skipped) {
            (Some(next), Some(skipped)) => next.max(skipped),
            _ => i64::MAX,
        }
    }

    /// Skipped batches that windows and states can still ask for.
    pub(super) fn absent(&self) -> Vec<BatchTime> {
        let absent = self.history.iter().filter(|(_, history)| history.absent);
        absent.map(|(index, _)| self.time_of(*index)).collect()
    }
}
