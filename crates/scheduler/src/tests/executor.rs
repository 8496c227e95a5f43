//! An executor in memory. It does what executors do with the scheduler's actions, as strictly as they may: what the
//! scheduler lets it forget is forgotten at once.

mod job;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use tidemill_dstream::accumulator::AccumulatorState;
use tidemill_dstream::plan::{JobPlan, Keeps, StageOutput};
use tidemill_dstream::{AccumulatorKind, InputItem};
use tidemill_types::{
    AccumulatorId, BatchTime, BlockId, ExecutorId, FailureKind, JobId, RoutingVersion, StageId, TaskFailure, TaskKey,
};

pub(super) use self::job::Saved;
use self::job::{Job, Progress, shuffle_reads};
use super::plans::{Row, Rows};
use crate::{Action, DatasetPart, Event, OutputPart, OutputPayload, TaskOutcome, TaskSuccess};

/// A run of a batch: the first or, in a name space of its own, a restore, which is told apart by its routing version.
pub(super) type RunId = (BatchTime, Option<RoutingVersion>);
pub(super) type Key = (StageId, u32);

/// Rows of one map task for one partition of its reader.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) from: ExecutorId,
    pub(super) to: ExecutorId,
    pub(super) job: JobId,
    pub(super) run: RunId,
    pub(super) stage: StageId,
    pub(super) map: u32,
    pub(super) partition: u32,
    pub(super) rows: Rows,
}

#[derive(Default)]
pub(super) struct Executor {
    pub(super) inbox: VecDeque<Action>,
    pub(super) outbox: VecDeque<Event>,
    pub(super) jobs: BTreeMap<JobId, Job>,
    /// Does nothing at present, but lives.
    pub(super) frozen: bool,
    /// Shared by all executors.
    pub(super) saved: Saved,
}

/// What a command or a task leads to outside of its executor.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) frames: Vec<Frame>,
    /// Parts to be asked for.
    pub(super) fetches: Vec<(JobId, Vec<(DatasetPart, ExecutorId)>)>,
}

impl Executor {
    /// Takes the next command.
    pub(super) fn obey(&mut self, me: ExecutorId, plan: impl Fn(JobId) -> Rc<JobPlan>) -> Effects {
        let mut effects = Effects::default();
        match self.inbox.pop_front().expect("a command is there") {
            Action::Install { job, .. } => {
                self.jobs.insert(job, Job::new(plan(job), Rc::clone(&self.saved)));
                self.outbox.push_back(Event::JobInstalled {
                    job,
                    executor: me,
                    error: None,
                });
            }
            Action::Remove { job, .. } => {
                self.jobs.remove(&job);
            }
            Action::Routing {
                job, version, stages, ..
            } => {
                let job = self.jobs.get_mut(&job).expect("routing of an installed job");
                job.routing = version;
                job.owners.insert(version, stages.into_iter().collect());
            }
            Action::Launch { launch, .. } => {
                self.jobs
                    .get_mut(&launch.job)
                    .expect("a launch of an installed job")
                    .launch(launch);
            }
            Action::Resend {
                job,
                batch,
                from_stage,
                partitions,
                routing,
                ..
            } => {
                let known = self.jobs.get_mut(&job).expect("a resend of an installed job");
                assert_eq!(known.routing, routing);
                effects.frames = stamp(known.resend(batch, from_stage, &partitions), me, job);
            }
            Action::FetchDatasets { job, parts, .. } => effects.fetches.push((job, parts)),
            Action::Cancel { job, batch, .. } => {
                let job = self.jobs.get_mut(&job).expect("a cancellation of an installed job");
                job.runs.remove(&(batch, None));
            }
            Action::StartReceiver {
                job, receiver, session, ..
            } => {
                let job = self.jobs.get_mut(&job).expect("a receiver of an installed job");
                job.receivers.insert(receiver, session);
            }
            Action::SetRate {
                job, receiver, session, ..
            } => {
                let job = self.jobs.get(&job).expect("a rate of an installed job");
                assert_eq!(
                    job.receivers.get(&receiver),
                    Some(&session),
                    "a rate of a receiver that runs"
                );
            }
            Action::StopReceiver {
                job, receiver, session, ..
            } => {
                if let Some(known) = self.jobs.get_mut(&job)
                    && known.receivers.remove(&receiver).is_some()
                {
                    self.outbox.push_back(Event::ReceiverStopped { job, receiver, session });
                }
            }
            other => panic!("not a command: {other:?}"),
        }
        effects
    }

    pub(super) fn accept(&mut self, frame: Frame) {
        if let Some(job) = self.jobs.get_mut(&frame.job) {
            let run = job.runs.entry(frame.run).or_default();
            run.frames
                .entry((frame.stage, frame.map, frame.partition))
                .or_insert(frame.rows);
        }
    }

    pub(super) fn has_part(&self, job: JobId, part: DatasetPart) -> Option<Rows> {
        self.jobs.get(&job)?.datasets.get(&part).cloned()
    }

    /// Stores what was fetched and says what is missing.
    pub(super) fn fetched(&mut self, me: ExecutorId, job: JobId, parts: Vec<(DatasetPart, Option<Rows>)>) {
        let Some(known) = self.jobs.get_mut(&job) else { return };
        let mut missing = Vec::new();
        for (part, rows) in parts {
            match rows {
                Some(rows) => {
                    known.datasets.insert(part, rows);
                }
                None => missing.push(part),
            }
        }
        self.outbox.push_back(Event::DatasetsFetched {
            executor: me,
            job,
            missing,
        });
    }

    pub(super) fn runnable(&self) -> impl Iterator<Item = (JobId, RunId, Key)> {
        self.jobs
            .iter()
            .flat_map(|(id, job)| job.runnable().map(|(run, key)| (*id, run, key)))
    }

    /// Runs a task that is ready. `block` reads a received block.
    pub(super) fn run(
        &mut self,
        me: ExecutorId,
        (job_id, run_id, key): (JobId, RunId, Key),
        failure: Option<FailureKind>,
        block: impl Fn(&BlockId) -> bool,
    ) -> Vec<Frame> {
        let job = self.jobs.get_mut(&job_id).expect("the task's job");
        let run = &job.runs[&run_id];
        let mut rows = job.ready(run_id, run, key).expect("the task is ready");
        let task = run.tasks[&key].0.clone();
        let mut input_rows = 0;
        let mut failure = failure.map(|kind| TaskFailure::new(kind, "made to fail"));
        for item in task.inputs.iter().flat_map(|input| &input.items) {
            match item {
                InputItem::Block { id, rows: held } => {
                    if !block(id) {
                        failure = Some(TaskFailure::new(FailureKind::InputLost, format!("{id} is gone")));
                    }
                    input_rows += held;
                    rows.insert((100 + id.receiver.0, i64::from(id.session), id.sequence as u32, 0));
                }
                InputItem::Lines(lines) => {
                    input_rows += lines.len() as u64;
                    rows.extend(lines.iter().map(|line| parse(line)));
                }
                other => panic!("no such input in these tests: {other:?}"),
            }
        }
        let stage = job.plan.stage(key.0).expect("a stage of the plan").clone();
        let mut frames = Vec::new();
        let mut outputs = Vec::new();
        if failure.is_none() && matches!(stage.keeps, Keeps::State { .. }) {
            let (index, saves) = (job.runs[&run_id].index, job.runs[&run_id].save_state);
            let before = job.before(run_id, key);
            job.leave_state(index, key, before, &rows);
            if saves {
                job.save(index, key, &rows);
                self.outbox.push_back(Event::StateSaved {
                    job: job_id,
                    batch: run_id.0,
                    stage: key.0,
                    partition: key.1,
                    error: None,
                });
            }
        }
        if failure.is_none() {
            match &stage.output {
                StageOutput::Exchange { .. } => {
                    frames = stamp(job.frames(run_id, key, &rows, &task.only_targets), me, job_id);
                    let run = job.runs.get_mut(&run_id).expect("the task's run");
                    run.kept.insert(key, rows);
                }
                StageOutput::Result { dataset, outputs: ids } => {
                    let part = |output: &tidemill_types::OutputId| OutputPart {
                        output: *output,
                        partition: key.1,
                        rows: rows.len() as u64,
                        payload: OutputPayload::Ipc(encode(&rows)),
                    };
                    outputs = ids.iter().filter(|_| run_id.1.is_none()).map(part).collect();
                    if let Some(dataset) = *dataset {
                        let part = DatasetPart {
                            dataset,
                            batch: run_id.0,
                            partition: key.1,
                        };
                        job.datasets.insert(part, rows);
                    }
                }
            }
        }
        let failed = failure.is_some();
        let success = TaskSuccess {
            input_rows,
            outputs,
            deltas: vec![delta(key.0, key.1)],
            ..TaskSuccess::default()
        };
        let lacks_input = failure
            .as_ref()
            .is_some_and(|failure| failure.kind == FailureKind::InputLost);
        let shuffled = shuffle_reads(&stage, key.1);
        let run = job.runs.get_mut(&run_id).expect("the task's run");
        if lacks_input {
            // What was sent to it is lost.
            run.frames
                .retain(|(from, _, partition), _| !shuffled.contains(&(*from, *partition)));
        }
        run.tasks.get_mut(&key).expect("the task").1 = if failed { Progress::Failed } else { Progress::Done };
        run.outcomes.push(TaskOutcome {
            stage: key.0,
            partition: key.1,
            attempt: task.attempt,
            result: failure.map_or(Ok(success), Err),
        });
        if failed || run.all_done() {
            self.report(me, job_id, run_id);
        }
        frames
    }

    pub(super) fn forget_part(&mut self, job: JobId, part: DatasetPart) {
        self.jobs
            .get_mut(&job)
            .expect("an installed job")
            .datasets
            .remove(&part);
    }

    /// Sends what has come out of a run so far.
    pub(super) fn report(&mut self, me: ExecutorId, job: JobId, (batch, restore): RunId) {
        let Some(known) = self.jobs.get_mut(&job) else { return };
        let Some(run) = known.runs.get_mut(&(batch, restore)) else {
            return;
        };
        let tasks = std::mem::take(&mut run.outcomes);
        if !tasks.is_empty() {
            self.outbox.push_back(Event::BatchReported {
                executor: me,
                job,
                batch,
                restore: restore.is_some(),
                tasks,
            });
        }
    }

    /// Loses something of what it holds, as `choose` says among so many, and tells.
    pub(super) fn lose_data(&mut self, me: ExecutorId, choose: &mut impl FnMut(usize) -> usize) {
        for (id, job) in &mut self.jobs {
            let (mut datasets, mut outputs, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
            let held: Vec<DatasetPart> = job.datasets.keys().copied().collect();
            let kept = job
                .runs
                .iter()
                .flat_map(|(run, kept)| kept.kept.keys().map(|key| (*run, *key)));
            let kept: Vec<(RunId, Key)> = kept.collect();
            let received: Vec<BlockId> = job.blocks.keys().copied().collect();
            if !held.is_empty() {
                let part = held[choose(held.len())];
                job.datasets.remove(&part);
                datasets.push(part);
            }
            if !kept.is_empty() {
                let (run, (stage, partition)) = kept[choose(kept.len())];
                job.runs.get_mut(&run).expect("a run").kept.remove(&(stage, partition));
                outputs.push(TaskKey {
                    job: *id,
                    batch: run.0,
                    stage,
                    partition,
                });
            }
            if !received.is_empty() && choose(4) == 0 {
                let block = received[choose(received.len())];
                job.blocks.remove(&block);
                blocks.push(block);
            }
            self.outbox.push_back(Event::DataLost {
                executor: me,
                job: *id,
                datasets,
                outputs,
                blocks,
            });
        }
    }

    /// Runs with outcomes that are not reported.
    pub(super) fn unreported(&self) -> impl Iterator<Item = (JobId, RunId)> {
        self.jobs.iter().flat_map(|(id, job)| {
            let open = job.runs.iter().filter(|(_, run)| !run.outcomes.is_empty());
            open.map(|(run, _)| (*id, *run))
        })
    }
}

fn stamp(mut frames: Vec<Frame>, from: ExecutorId, job: JobId) -> Vec<Frame> {
    for frame in &mut frames {
        frame.from = from;
        frame.job = job;
    }
    frames
}

fn parse(line: &str) -> Row {
    let numbers: Vec<i64> = line
        .split(' ')
        .map(|number| number.parse().expect("a number"))
        .collect();
    (numbers[0] as u32, numbers[1], numbers[2] as u32, 0)
}

pub(super) fn encode(rows: &Rows) -> Bytes {
    let text: Vec<String> = rows.iter().map(|(a, b, c, d)| format!("{a} {b} {c} {d}")).collect();
    Bytes::from(text.join("\n"))
}

/// What tells that a task was counted: its stage as the accumulator, its partition in the count.
fn delta(stage: StageId, partition: u32) -> (AccumulatorId, AccumulatorState) {
    let mut state = AccumulatorState::zero(&AccumulatorKind::Count, None);
    state.add_count(u64::from(partition) + 1);
    (AccumulatorId(stage.0), state)
}
