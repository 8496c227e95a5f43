//! One thing that happens at a time.

use std::collections::BTreeSet;
use std::rc::Rc;

use tidemill_dstream::InputItem;
use tidemill_types::{BlockId, ExecutorId, JobId, StageId, StreamId};

use super::Cluster;
use crate::tests::executor::{Key, RunId};
use crate::tests::plans::has_item;
use crate::{Event, StreamInput};

/// What can happen next.
enum Step {
    Command(ExecutorId),
    Frame(usize),
    Task(ExecutorId, (JobId, RunId, Key)),
    Flush(ExecutorId, (JobId, RunId)),
    Report(ExecutorId),
    Plan,
    Commit,
}

impl Cluster {
    /// Does one thing that can be done.
    pub(in crate::tests) fn step(&mut self) -> bool {
        let mut steps = self.steps();
        if steps.is_empty() {
            return false;
        }
        let next = self.order.as_mut().map_or(0, |random| random.below(steps.len()));
        let step = steps.swap_remove(next);
        self.take(step);
        true
    }

    /// Does all that can be done without running tasks of other stages.
    pub(in crate::tests) fn step_only(&mut self, stage: StageId) {
        let wanted = |step: &Step| !matches!(step, Step::Task(_, (_, _, key)) if key.0 != stage);
        while let Some(step) = self.steps().into_iter().find(wanted) {
            self.take(step);
        }
    }

    /// Executors report what is done, before the rest of their tasks is.
    pub(in crate::tests) fn report_all(&mut self) {
        for (id, executor) in &mut self.executors {
            for (job, run) in executor.unreported().collect::<Vec<_>>() {
                executor.report(*id, job, run);
            }
        }
        for id in self.known.clone() {
            while self
                .executors
                .get(&id)
                .is_some_and(|executor| !executor.outbox.is_empty())
            {
                self.take(Step::Report(id));
            }
        }
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let awake = || self.executors.iter().filter(|(_, executor)| !executor.frozen);
        steps.extend(
            awake()
                .filter(|(_, e)| !e.inbox.is_empty())
                .map(|(id, _)| Step::Command(*id)),
        );
        steps.extend((0..self.frames.len()).map(Step::Frame));
        for (id, executor) in awake() {
            steps.extend(executor.runnable().map(|task| Step::Task(*id, task)));
            if self.order.is_some() {
                steps.extend(executor.unreported().map(|run| Step::Flush(*id, run)));
            }
            if !executor.outbox.is_empty() {
                steps.push(Step::Report(*id));
            }
        }
        if !self.planner.is_empty() && !self.hold_planner {
            steps.push(Step::Plan);
        }
        if !self.committer.is_empty() && !self.hold_committer {
            steps.push(Step::Commit);
        }
        steps
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Command(id) => {
                let specs = &self.specs;
                let plan = |job| Rc::new(specs[&job].plan.clone());
                let effects = self.executors.get_mut(&id).expect("an executor").obey(id, plan);
                self.frames.extend(effects.frames);
                for (job, parts) in effects.fetches {
                    let ask = |(part, holder)| {
                        let holder = self.executors.get(&holder);
                        (part, holder.and_then(|holder| holder.has_part(job, part)))
                    };
                    let found = parts.into_iter().map(ask).collect();
                    self.executors
                        .get_mut(&id)
                        .expect("an executor")
                        .fetched(id, job, found);
                }
            }
            Step::Frame(frame) => {
                let frame = self.frames.swap_remove(frame);
                if let Some(executor) = self.executors.get_mut(&frame.to) {
                    executor.accept(frame);
                }
            }
            Step::Task(id, task) => self.run_task(id, task),
            Step::Flush(id, (job, run)) => self.executors.get_mut(&id).expect("an executor").report(id, job, run),
            Step::Report(id) => {
                let executor = self.executors.get_mut(&id).expect("an executor");
                let event = executor.outbox.pop_front().expect("an event");
                if self.known.contains(&id) {
                    self.event(event);
                }
            }
            Step::Plan => {
                let (job, batch, index) = self.planner.pop_front().expect("a batch to plan");
                let result = Ok(self.plan(job, index));
                self.event(Event::Allocated { job, batch, result });
            }
            Step::Commit => {
                let (job, batch, outputs) = self.committer.pop_front().expect("a batch to commit");
                if self.is_live(job) {
                    self.check_commit(job, batch, outputs);
                }
                self.event(Event::Committed {
                    job,
                    batch,
                    result: Ok(()),
                });
            }
        }
    }

    fn run_task(&mut self, id: ExecutorId, task: (JobId, RunId, Key)) {
        let (_, _, key) = task;
        let failure = self
            .failures
            .iter()
            .position(|(stage, partition, _)| (*stage, *partition) == key);
        let failure = failure.map(|failure| self.failures.remove(failure).2);
        let mut executor = self.executors.remove(&id).expect("an executor");
        let own: BTreeSet<BlockId> = executor.jobs[&task.0].blocks.keys().copied().collect();
        let block = |block: &BlockId| {
            let holder = self.executors.get(&block.executor);
            own.contains(block)
                || holder.is_some_and(|holder| {
                    holder
                        .jobs
                        .get(&block.job)
                        .is_some_and(|job| job.blocks.contains_key(block))
                })
        };
        let frames = executor.run(id, task, failure, block);
        self.executors.insert(id, executor);
        self.frames.extend(frames);
    }

    fn plan(&self, job: JobId, index: i64) -> Vec<StreamInput> {
        let spec = &self.specs[&job];
        let planned = spec
            .plan
            .streams
            .iter()
            .filter(|stream| spec.receivers.iter().all(|(_, id)| *id != stream.id));
        let input = |stream: StreamId, partitions: u32| {
            let items = |partition| {
                let line = format!("{} {index} {partition}", stream.0);
                let item = InputItem::Lines(vec![line]);
                Vec::from_iter(has_item(stream, index, partition).then_some(item))
            };
            StreamInput {
                stream,
                partitions: (0..partitions).map(items).collect(),
                rows: None,
                exhausted: self.last_input.is_some_and(|last| index >= last),
            }
        };
        planned.map(|stream| input(stream.id, stream.partitions)).collect()
    }
}
