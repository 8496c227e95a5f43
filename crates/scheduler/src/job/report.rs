//! What tasks came to, and trying again.

use std::collections::BTreeSet;

use tidemill_types::{BatchTime, ExecutorId, FailureKind, TaskFailure};

use super::batch::Batch;
use super::task::Key;
use super::{Job, micros};
use crate::action::{Action, JobEnd, Notice};
use crate::event::TaskOutcome;
use crate::scheduler::Context;

/// A task whose input is still missing after this many attempts waits for nothing: the delay before each of them is
/// long enough for news of a lost holder.
const MAX_MISSES: u32 = 100;

impl Job {
    pub(crate) fn on_batch_reported(
        &mut self,
        cx: &mut Context<'_>,
        executor: ExecutorId,
        time: BatchTime,
        restore: bool,
        outcomes: Vec<TaskOutcome>,
    ) {
        let index = self.index_of(time);
        let mut again = BTreeSet::new();
        for outcome in outcomes {
            let run = self.runs(restore).get_mut(&index);
            let Some(run) = run.filter(|run| run.time == time) else {
                return;
            };
            let key = (outcome.stage, outcome.partition);
            let Some(task) = run.tasks.current(key, executor, outcome.attempt) else {
                continue;
            };
            match outcome.result {
                Ok(success) => {
                    if task.output_lost {
                        again.insert(key);
                    }
                    run.tasks.finish(key, success);
                }
                Err(failure) => self.on_task_failed(cx, index, restore, key, &failure),
            }
        }
        if !again.is_empty() {
            self.rerun(cx, index, &again);
        }
        if restore && self.restores.get(&index).is_some_and(|run| run.tasks.all_done()) {
            self.restores.remove(&index);
            if self.restores.is_empty() {
                self.restore_misses = 0;
                self.states.restored();
                self.end_restores();
            }
        }
    }

    fn on_task_failed(&mut self, cx: &mut Context<'_>, index: i64, restore: bool, key: Key, failure: &TaskFailure) {
        let (job, max_attempts) = (self.spec.id, self.spec.max_attempts);
        // A restore that lacks an input begins anew, so the count is the job's.
        self.restore_misses += u32::from(restore && !failure.kind.counts_toward_limit());
        let restore_misses = self.restore_misses;
        let Some(run) = self.runs(restore).get_mut(&index) else {
            return;
        };
        let Some(task) = run.tasks.get_mut(key) else { return };
        run.failed_attempts += 1;
        let counts = failure.kind.counts_toward_limit();
        // An input that cannot be read is most often the first sign of a lost executor: wait for that news.
        let delay = if counts {
            task.failures += 1;
            // Where memory or disk is full now, there may be room later.
            match failure.kind {
                FailureKind::Resource => micros(cx.options.retry_delay),
                _ => 0,
            }
        } else {
            task.misses += 1;
            micros(cx.options.retry_delay)
        };
        cx.act(Action::Publish(Notice::TaskFailed {
            job,
            batch: run.time,
            stage: key.0,
            partition: key.1,
            executor: task.executor,
            error: failure.to_string(),
        }));
        // Rows may have been refused for want of room too.
        task.lacks_input = matches!(failure.kind, FailureKind::InputLost | FailureKind::Resource);
        let misses = if restore { restore_misses } else { task.misses };
        let last = task.failures >= max_attempts || misses >= MAX_MISSES;
        let times = task.failures + misses;
        run.tasks.defer(key, cx.now + delay);
        if !last {
            return;
        }
        let error = format!(
            "stage {} partition {} failed {times} times, last: {failure}",
            key.0, key.1
        );
        if restore {
            let time = run.time;
            let error = format!("remembered data of batch {time} cannot be made again: {error}");
            self.end(cx, JobEnd::Failed(error));
        } else {
            self.fail_batch(cx, index, &error);
        }
    }

    /// Launches again the tasks whose time has come: elsewhere if they may move, or where they were.
    pub(super) fn retry_deferred(&mut self, cx: &mut Context<'_>) {
        for restore in [false, true] {
            let due = |run: &Batch| run.tasks.next_retry().is_some_and(|until| until <= cx.now);
            let runs = if restore {
                self.restores.values()
            } else {
                self.batches.values()
            };
            let launched = runs.take_while(|run| run.state.is_launched());
            let due: Vec<i64> = launched.filter(|run| due(run)).map(|run| run.index).collect();
            for index in due {
                let Some(run) = self.runs(restore).get(&index) else {
                    continue;
                };
                let which = run.tasks.due(cx.now);
                let missed = which
                    .iter()
                    .filter(|key| run.tasks.get(**key).is_some_and(|task| task.lacks_input));
                let missed: BTreeSet<Key> = missed.copied().collect();
                if restore && !missed.is_empty() {
                    // Its maps keep nothing for long enough: all that is missing is made anew.
                    self.abandon_restores();
                    self.restore_missing(cx);
                    break;
                }
                let states: BTreeSet<Key> = missed.iter().filter(|key| self.is_state(key.0)).copied().collect();
                if !restore && self.is_durable() && !states.is_empty() {
                    // It may be the state that could not be read.
                    self.abandon_restores();
                    self.give_up_states(&states);
                }
                self.relaunch(cx, index, &which, restore, |job, run, key| {
                    let task = run.tasks.get(key)?;
                    let stage = job.spec.plan.stage(key.0)?;
                    job.elsewhere(stage, key.1, task.executor).or(Some(task.executor))
                });
                if restore {
                    let states: BTreeSet<Key> = which.iter().filter(|key| self.is_state(key.0)).copied().collect();
                    self.run_behind(cx, &states);
                }
                // What a reader has lost, its maps may have kept.
                if let Some(batch) = self.batches.get(&index).filter(|_| !restore && !missed.is_empty()) {
                    self.resend(cx, index, self.kept_outputs(batch, &missed));
                }
            }
        }
    }
}
