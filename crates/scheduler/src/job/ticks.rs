//! When things happen: the start of a job, its batches becoming due, its end, and the next time to look.

use tidemill_types::BatchTime;

use super::batch::{Batch, BatchState};
use super::{Job, JobState, micros};
use crate::action::{Action, JobEnd, Notice};
use crate::event::Pace;
use crate::scheduler::{Context, Options};

impl Job {
    pub(super) fn start_if_ready(&mut self, cx: &mut Context<'_>) {
        let waited = cx.now >= self.start_deadline(cx.options);
        if !self.has_plan_everywhere() || !(waited || self.has_enough(cx.options)) {
            return;
        }
        if !self.resumed {
            self.zero_time = match self.spec.pace {
                Pace::Clock => BatchTime(cx.now.div_euclid(1000)).floor(self.interval()),
                Pace::NoWait => BatchTime(0),
            };
        }
        self.state = JobState::Running;
        cx.act(Action::Publish(Notice::JobRunning { job: self.spec.id }));
    }

    /// There are executors, and all have answered.
    fn has_plan_everywhere(&self) -> bool {
        !self.installed.is_empty() && self.installed.values().all(|installed| *installed)
    }

    fn has_enough(&self, options: &Options) -> bool {
        self.installed.len() >= options.min_executors as usize
    }

    fn start_deadline(&self, options: &Options) -> i64 {
        self.submitted + micros(options.min_executors_timeout)
    }

    /// When the next batch becomes due; `None` while something else has to happen first, or if there will be none.
    fn next_due(&self) -> Option<i64> {
        if self.has_all_batches() || (self.state == JobState::Stopping && !self.has_rest()) {
            return None;
        }
        // The batch before may turn out to be the last one.
        let ends_with_input = self.spec.ends_with_input && self.spec.max_batches.is_none();
        if ends_with_input && self.next_allocation < self.next_index {
            return None;
        }
        match self.spec.pace {
            Pace::Clock if self.is_queue_full() => None,
            Pace::Clock => Some(self.time_of(self.next_index).0 * 1000),
            Pace::NoWait => (self.batches.len() < self.spec.concurrent_batches.max(1) as usize).then_some(i64::MIN),
        }
    }

    /// No batch is made before one is completed. Those whose time comes meanwhile are made then: none is left out.
    pub(super) fn is_queue_full(&self) -> bool {
        self.batches.len() >= self.spec.max_queued_batches.max(1) as usize
    }

    /// Makes the batches due whose time has come; none is left out. Returns whether there are any.
    pub(super) fn generate(&mut self, cx: &mut Context<'_>) -> bool {
        let first = self.next_index;
        while let Some(due) = self.next_due()
            && due <= cx.now
        {
            let time = self.time_of(self.next_index);
            let since = match self.spec.pace {
                Pace::Clock => due,
                Pace::NoWait => cx.now,
            };
            let mut batch = Batch::due(self.next_index, time, since);
            batch.rest = self.state == JobState::Stopping;
            self.batches.insert(self.next_index, batch);
            self.next_index += 1;
        }
        self.next_index > first
    }

    /// No batch will become due any more, whatever comes.
    fn has_all_batches(&self) -> bool {
        match self.spec.max_batches {
            Some(max) => u64::try_from(self.next_index).is_ok_and(|next| next > max),
            None => self.exhausted && self.spec.ends_with_input,
        }
    }

    /// Whether a stopping job still has input that no batch has claimed.
    fn has_rest(&self) -> bool {
        self.receivers.has_unallocated() || !self.receivers.all_stopped()
    }

    pub(super) fn finish_if_done(&mut self, cx: &mut Context<'_>) {
        if !self.batches.is_empty() {
            return;
        }
        if self.has_all_batches() {
            self.end(cx, JobEnd::Finished);
        } else if self.state == JobState::Stopping && !self.has_rest() {
            self.end(cx, JobEnd::Stopped);
        }
    }

    /// The next time at which the clock has something to do. It is never in the past: what was due then is done.
    pub(crate) fn next_deadline(&self, options: &Options) -> Option<i64> {
        match self.state {
            JobState::Ended(_) => None,
            JobState::Pending => {
                Some(self.start_deadline(options)).filter(|_| self.has_plan_everywhere() && !self.has_enough(options))
            }
            // Without executors everything waits for one.
            JobState::Running | JobState::Stopping if self.executors().next().is_none() => None,
            JobState::Running | JobState::Stopping => {
                let tick = self.next_due().filter(|_| self.spec.pace == Pace::Clock);
                let border = self.border_deadline(options);
                let runs = self.launched().chain(self.restores.values());
                let retry = runs.filter_map(|run| run.tasks.next_retry()).min();
                [tick, border, retry].into_iter().flatten().min()
            }
        }
    }

    fn border_deadline(&self, options: &Options) -> Option<i64> {
        let (_, batch) = self.batches.range(self.next_allocation..).next()?;
        (batch.state == BatchState::Due).then(|| batch.border_deadline(self.interval(), options))
    }
}
