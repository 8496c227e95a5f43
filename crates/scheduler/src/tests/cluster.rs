//! A cluster in memory around a scheduler: executors, planner and committer that do what they are asked, one step at a
//! time, in a fixed order or in an order drawn from a seed.
//!
//! After every event it checks what has to be true at any time; commits are compared with the [`Reference`].

mod checks;
mod steps;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use tidemill_types::{
    Attempt, BatchTime, BlockId, ExecutorId, FailureKind, JobId, ReceiverId, RoutingVersion, StageId, TaskFailure,
};

use super::executor::{Executor, Frame, Key, Saved};
use super::plans::Reference;
use crate::{
    Action, Event, JobSpec, JobState, Launch, Notice, Options, OutputCommit, Scheduler, StoredBlock, StreamInput,
};

/// The numbers after a seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }
}

pub(super) struct Cluster {
    pub(super) scheduler: Scheduler,
    options: Options,
    /// The inputs of batches as they were recorded for a journal, by index; none for those that were left out.
    recorded: BTreeMap<(JobId, i64), Option<Vec<StreamInput>>>,
    /// Microseconds.
    pub(super) now: i64,
    pub(super) executors: BTreeMap<ExecutorId, Executor>,
    /// Executors that the scheduler knows of.
    known: BTreeSet<ExecutorId>,
    next_executor: u32,
    specs: BTreeMap<JobId, JobSpec>,
    frames: Vec<Frame>,
    planner: VecDeque<(JobId, BatchTime, i64)>,
    committer: VecDeque<(JobId, BatchTime, Vec<OutputCommit>)>,
    pub(super) hold_planner: bool,
    pub(super) hold_committer: bool,
    /// The batch after which planners have nothing more.
    pub(super) last_input: Option<i64>,
    /// Failures to come, the first that fits a task is its own.
    pub(super) failures: Vec<(StageId, u32, FailureKind)>,
    order: Option<Random>,
    /// All actions since they were last taken.
    actions: Vec<Action>,
    attempts: BTreeMap<(JobId, BatchTime, bool, Key), Attempt>,
    routings: BTreeMap<JobId, RoutingVersion>,
    restoring: BTreeMap<JobId, RoutingVersion>,
    indexes: BTreeMap<(JobId, BatchTime), i64>,
    claimed: BTreeSet<BlockId>,
    pub(super) committed: BTreeMap<JobId, Vec<i64>>,
    pub(super) references: BTreeMap<JobId, Reference>,
    pub(super) lost_rows: u64,
    saved: Saved,
    sequence: u64,
}

impl Cluster {
    /// A cluster of executors with two slots each, at 10.4 seconds.
    pub(super) fn new(executors: u32) -> Self {
        let mut cluster = Self::with_options(Options::default());
        for _ in 0..executors {
            cluster.join(2);
        }
        cluster
    }

    pub(super) fn with_options(options: Options) -> Self {
        Self {
            scheduler: Scheduler::new(options.clone()),
            options,
            recorded: BTreeMap::new(),
            now: 10_400_000,
            executors: BTreeMap::new(),
            known: BTreeSet::new(),
            next_executor: 1,
            specs: BTreeMap::new(),
            frames: Vec::new(),
            planner: VecDeque::new(),
            committer: VecDeque::new(),
            hold_planner: false,
            hold_committer: false,
            last_input: None,
            failures: Vec::new(),
            order: None,
            actions: Vec::new(),
            attempts: BTreeMap::new(),
            routings: BTreeMap::new(),
            restoring: BTreeMap::new(),
            indexes: BTreeMap::new(),
            claimed: BTreeSet::new(),
            committed: BTreeMap::new(),
            references: BTreeMap::new(),
            lost_rows: 0,
            saved: Saved::default(),
            sequence: 0,
        }
    }

    pub(super) fn in_random_order(mut self, seed: u64) -> Self {
        self.order = Some(Random::new(seed));
        self
    }

    // === what happens from outside ===

    pub(super) fn join(&mut self, slots: u32) -> ExecutorId {
        let executor = ExecutorId(self.next_executor);
        self.next_executor += 1;
        let process = Executor {
            saved: Rc::clone(&self.saved),
            ..Executor::default()
        };
        self.executors.insert(executor, process);
        self.known.insert(executor);
        self.event(Event::ExecutorRegistered { executor, slots });
        executor
    }

    /// The process is gone; nobody has noticed.
    pub(super) fn kill(&mut self, executor: ExecutorId) {
        self.executors.remove(&executor);
        self.frames
            .retain(|frame| frame.from != executor && frame.to != executor);
    }

    /// The driver notices that an executor is gone.
    pub(super) fn lose(&mut self, executor: ExecutorId) {
        self.kill(executor);
        self.known.remove(&executor);
        self.event(Event::ExecutorLost {
            executor,
            reason: "killed".to_owned(),
        });
    }

    /// The driver is gone and another one goes on with a job, from what the first knew of it; `executors` processes come
    /// to it.
    pub(super) fn restart(&mut self, job: JobId, executors: u32) {
        let resume = self.scheduler.resume_point(job).expect("a job");
        // What it says and what was recorded on the way is the same.
        self.check_recorded(job, &resume);
        let options = self.options.clone();
        *self = Self {
            now: self.now,
            next_executor: self.next_executor,
            specs: std::mem::take(&mut self.specs),
            last_input: self.last_input,
            order: self.order.take(),
            committed: std::mem::take(&mut self.committed),
            references: std::mem::take(&mut self.references),
            recorded: std::mem::take(&mut self.recorded),
            saved: Rc::clone(&self.saved),
            hold_committer: self.hold_committer,
            hold_planner: self.hold_planner,
            ..Self::with_options(options)
        };
        let spec = JobSpec {
            resume: Some(Box::new(resume)),
            ..self.specs[&job].clone()
        };
        self.event(Event::JobSubmitted(Box::new(spec)));
        for _ in 0..executors {
            self.join(2);
        }
    }

    pub(super) fn submit(&mut self, spec: JobSpec) -> JobId {
        let id = spec.id;
        self.specs.insert(id, spec.clone());
        self.event(Event::JobSubmitted(Box::new(spec)));
        id
    }

    pub(super) fn stop(&mut self, job: JobId, now: bool) {
        self.event(Event::StopRequested { job, now });
    }

    /// A receiver stores a block and reports it; `border` is in milliseconds.
    pub(super) fn receive(&mut self, job: JobId, receiver: ReceiverId, rows: u64, border: i64) -> Option<BlockId> {
        let (id, session) = self.receiving(job, receiver)?;
        let executor = self.executors.get_mut(&id).expect("the receiver's executor");
        let block = BlockId {
            job,
            receiver,
            executor: id,
            session,
            sequence: self.sequence,
        };
        self.sequence += 1;
        executor
            .jobs
            .get_mut(&job)
            .expect("the receiver's job")
            .blocks
            .insert(block, rows);
        executor.outbox.push_back(Event::BlocksReported {
            job,
            receiver,
            session,
            blocks: vec![StoredBlock {
                id: block,
                rows,
                bytes: rows * 80,
                border: BatchTime(border),
            }],
            border: BatchTime(border),
        });
        Some(block)
    }

    /// Where a receiver runs, and its session.
    pub(super) fn receiving(&self, job: JobId, receiver: ReceiverId) -> Option<(ExecutorId, u32)> {
        self.executors.iter().find_map(|(id, executor)| {
            let session = executor.jobs.get(&job)?.receivers.get(&receiver)?;
            Some((*id, *session))
        })
    }

    // === time ===

    /// Lets the clock go on to a time in milliseconds; everything that can happen on the way happens.
    pub(super) fn run_until(&mut self, millis: i64) {
        self.settle();
        while let Some(deadline) = self
            .scheduler
            .next_deadline()
            .filter(|deadline| *deadline <= millis * 1000)
        {
            self.clock(deadline);
            self.settle();
        }
        self.now = self.now.max(millis * 1000);
    }

    /// The clock goes on to a time, in microseconds, and nothing else happens.
    pub(super) fn clock(&mut self, now: i64) {
        self.now = self.now.max(now);
        self.event(Event::Clock);
    }

    /// Does all that can be done without the clock.
    pub(super) fn settle(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 1_000_000, "the cluster never comes to rest");
        }
    }

    /// Steps until a condition holds.
    pub(super) fn step_until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        while !holds(self) {
            assert!(self.step(), "nothing left to do before {what}");
        }
    }

    // === looking ===

    pub(super) fn is_live(&self, job: JobId) -> bool {
        self.scheduler.job(job).is_some_and(|job| !job.state.is_ended())
    }

    pub(super) fn state(&self, job: JobId) -> JobState {
        self.scheduler.job(job).expect("a job").state.clone()
    }

    /// The indexes of the batches that were committed.
    pub(super) fn committed(&self, job: JobId) -> Vec<i64> {
        self.committed.get(&job).cloned().unwrap_or_default()
    }

    /// All actions since the last call.
    pub(super) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    pub(super) fn take_launches(&mut self) -> Vec<(ExecutorId, Launch)> {
        launches(self.take_actions())
    }

    pub(super) fn take_notices(&mut self) -> Vec<Notice> {
        let notice = |action| match action {
            Action::Publish(notice) => Some(notice),
            _ => None,
        };
        self.take_actions().into_iter().filter_map(notice).collect()
    }

    /// The owners of a stage's partitions.
    pub(super) fn owners(&self, job: JobId, stage: StageId) -> Vec<ExecutorId> {
        let job = self.scheduler.job(job).expect("a job");
        job.stages.into_iter().find(|(id, _)| *id == stage).expect("a stage").1
    }
}

pub(super) fn launches(actions: Vec<Action>) -> Vec<(ExecutorId, Launch)> {
    let launch = |action| match action {
        Action::Launch { executor, launch } => Some((executor, launch)),
        _ => None,
    };
    actions.into_iter().filter_map(launch).collect()
}

/// The tasks of launches: batch index, stage, partition, executor.
pub(super) fn tasks(launches: &[(ExecutorId, Launch)]) -> Vec<(i64, StageId, u32, ExecutorId)> {
    let mut tasks = Vec::new();
    for (executor, launch) in launches {
        tasks.extend(
            launch
                .tasks
                .iter()
                .map(|task| (launch.index, task.stage, task.partition, *executor)),
        );
    }
    tasks.sort_unstable();
    tasks
}

pub(super) fn failure(kind: FailureKind) -> TaskFailure {
    TaskFailure::new(kind, "made to fail")
}

pub(super) fn options(min_executors: u32, timeout: Duration) -> Options {
    Options {
        min_executors,
        min_executors_timeout: timeout,
        ..Options::default()
    }
}
