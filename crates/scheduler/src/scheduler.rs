//! The state machine's outside: executors, jobs, dispatch.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_types::{BatchTime, DatasetId, ExecutorId, JobId, StageId};

use crate::action::Action;
use crate::event::{Event, Resume};
use crate::job::{Forgotten, Job, JobView, RememberedBatch, StateVersion};
use crate::placement::Capacity;

/// Read-only settings of the scheduler.
#[derive(Clone, Debug)]
pub struct Options {
    /// Executors that have to be there before the first batch of a job.
    pub min_executors: u32,
    /// After this time one executor is enough.
    pub min_executors_timeout: Duration,
    /// How long allocation waits for the receivers' reports of a batch border: the greater of this and 5 % of the
    /// interval.
    pub border_wait: Duration,
    /// How long a task whose input could not be read waits for news of the holder before it is tried again.
    pub retry_delay: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            min_executors: 1,
            min_executors_timeout: Duration::from_secs(30),
            border_wait: Duration::from_millis(2),
            retry_delay: Duration::from_millis(200),
        }
    }
}

/// Owns all scheduling state. Times are microseconds since the Unix epoch on the driver's monotonic clock.
#[derive(Debug)]
pub struct Scheduler {
    options: Options,
    executors: BTreeMap<ExecutorId, ExecutorView>,
    jobs: BTreeMap<JobId, Job>,
}

/// What the scheduler knows of an executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecutorView {
    pub slots: u32,
    pub completed_tasks: u64,
    pub failed_tasks: u64,
}

impl Scheduler {
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            executors: BTreeMap::new(),
            jobs: BTreeMap::new(),
        }
    }

    /// Takes one event at `now` and returns what is to be done, in order.
    pub fn on(&mut self, now: i64, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::ExecutorRegistered { executor, slots } => {
                // A number that is known already stands for a new process: the old one is gone.
                self.lose(now, executor, &mut actions);
                let view = ExecutorView {
                    slots,
                    completed_tasks: 0,
                    failed_tasks: 0,
                };
                self.executors.insert(executor, view);
                self.each_job(now, &mut actions, |job, cx| job.on_executor_registered(cx, executor));
            }
            Event::ExecutorLost { executor, reason: _ } => self.lose(now, executor, &mut actions),
            Event::JobSubmitted(spec) => {
                let id = spec.id;
                self.jobs.insert(id, Job::new(*spec, now));
                self.one_job(now, id, &mut actions, |job, cx| job.on_submitted(cx));
            }
            Event::JobInstalled { job, executor, error } => {
                self.one_job(now, job, &mut actions, |job, cx| job.on_installed(cx, executor, error));
            }
            Event::StopRequested { job, now: at_once } => {
                self.one_job(now, job, &mut actions, |job, cx| job.on_stop_requested(cx, at_once));
            }
            Event::BlocksReported {
                job,
                receiver,
                session,
                blocks,
                border,
            } => self.one_job(now, job, &mut actions, |job, _| {
                job.on_blocks_reported(receiver, session, blocks, border);
            }),
            Event::ReceiverStopped { job, receiver, session } => {
                self.one_job(now, job, &mut actions, |job, _| {
                    job.on_receiver_stopped(receiver, session)
                });
            }
            Event::Allocated { job, batch, result } => {
                self.one_job(now, job, &mut actions, |job, cx| job.on_allocated(cx, batch, result));
            }
            Event::BatchReported {
                executor,
                job,
                batch,
                restore,
                tasks,
            } => {
                if let Some(view) = self.executors.get_mut(&executor) {
                    let failed = tasks.iter().filter(|task| task.result.is_err()).count() as u64;
                    view.failed_tasks += failed;
                    view.completed_tasks += tasks.len() as u64 - failed;
                    self.one_job(now, job, &mut actions, |job, cx| {
                        job.on_batch_reported(cx, executor, batch, restore, tasks);
                    });
                }
            }
            Event::DatasetsFetched { executor, job, missing } => {
                self.one_job(now, job, &mut actions, |job, _| {
                    job.on_datasets_fetched(executor, &missing)
                });
            }
            Event::DataLost {
                executor,
                job,
                datasets,
                outputs,
                blocks,
            } => self.one_job(now, job, &mut actions, |job, cx| {
                job.on_data_lost(cx, executor, &datasets, &outputs, &blocks);
            }),
            Event::PartsWanted { job, parts } => {
                self.one_job(now, job, &mut actions, |job, _| job.on_parts_wanted(&parts));
            }
            Event::Unpersisted { job, dataset } => {
                self.one_job(now, job, &mut actions, |job, cx| job.on_unpersisted(cx, dataset));
            }
            Event::Committed { job, batch, result } => {
                self.one_job(now, job, &mut actions, |job, cx| job.on_committed(cx, batch, result));
            }
            Event::TableInstalled { job, name, version } => {
                self.one_job(now, job, &mut actions, |job, _| job.on_table_installed(name, version));
            }
            Event::BroadcastOffered {
                job,
                broadcast,
                version,
            } => self.one_job(now, job, &mut actions, |job, _| {
                job.on_broadcast_offered(broadcast, version);
            }),
            Event::BroadcastHeld {
                job,
                executor,
                broadcast,
                version,
            } => self.one_job(now, job, &mut actions, |job, _| {
                job.on_broadcast_held(executor, broadcast, version);
            }),
            Event::BroadcastDestroyed { job, broadcast } => {
                self.one_job(now, job, &mut actions, |job, _| job.on_broadcast_destroyed(broadcast));
            }
            Event::StateSaved {
                job,
                batch,
                stage,
                partition,
                error,
            } => self.one_job(now, job, &mut actions, |job, cx| match error {
                None => job.on_state_saved(cx, batch, stage, partition),
                Some(error) => job.on_state_not_saved(cx, batch, stage, partition, error),
            }),
            Event::Clock => self.each_job(now, &mut actions, |_, _| ()),
        }
        actions
    }

    /// The earliest time at which [`Event::Clock`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<i64> {
        self.jobs
            .values()
            .filter_map(|job| job.next_deadline(&self.options))
            .min()
    }

    pub fn executors(&self) -> impl Iterator<Item = (ExecutorId, &ExecutorView)> {
        self.executors.iter().map(|(id, view)| (*id, view))
    }

    pub fn jobs(&self) -> impl Iterator<Item = JobView<'_>> {
        self.jobs.values().map(Job::view)
    }

    #[must_use]
    pub fn job(&self, id: JobId) -> Option<JobView<'_>> {
        self.jobs.get(&id).map(Job::view)
    }

    /// The version of a stage's state that the last completed batch left; `None` if there is none.
    #[must_use]
    pub fn state_version(&self, job: JobId, stage: StageId) -> Option<StateVersion> {
        self.jobs.get(&job)?.state_version(stage)
    }

    /// The completed batches of a dataset that are remembered, oldest first: those from one time to another, both floored
    /// to the dataset's slide and both included, or all.
    ///
    /// # Errors
    /// The job does not remember that far back.
    pub fn remembered(
        &self,
        job: JobId,
        dataset: DatasetId,
        range: Option<(BatchTime, BatchTime)>,
    ) -> Result<Vec<RememberedBatch>, Forgotten> {
        self.jobs
            .get(&job)
            .map_or_else(|| Ok(Vec::new()), |job| job.remembered(dataset, range))
    }

    /// What a driver after this one has to know, to go on with a job: as if it had ended now. A batch whose commit has
    /// not been answered is not committed.
    #[must_use]
    pub fn resume_point(&self, job: JobId) -> Option<Resume> {
        self.jobs.get(&job).map(Job::resume_point)
    }

    /// The job of that name that has not ended.
    #[must_use]
    pub fn live_job(&self, name: &str) -> Option<JobId> {
        self.jobs()
            .find(|job| job.name == name && !job.state.is_ended())
            .map(|job| job.id)
    }

    /// Lets go of a job that has ended.
    pub fn drop_ended(&mut self, id: JobId) {
        if self.job(id).is_some_and(|job| job.state.is_ended()) {
            self.jobs.remove(&id);
        }
    }

    #[cfg(test)]
    pub(crate) fn check(&self) {
        self.jobs.values().for_each(Job::check);
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self, id: JobId) -> String {
        self.jobs.get(&id).map(Job::waiting).unwrap_or_default()
    }

    fn lose(&mut self, now: i64, executor: ExecutorId, actions: &mut Vec<Action>) {
        if self.executors.remove(&executor).is_some() {
            self.each_job(now, actions, |job, cx| job.on_executor_lost(cx, executor));
        }
    }

    fn one_job(&mut self, now: i64, id: JobId, actions: &mut Vec<Action>, f: impl FnOnce(&mut Job, &mut Context<'_>)) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let mut cx = Context {
            now,
            options: &self.options,
            executors: &self.executors,
            actions,
        };
        f(job, &mut cx);
        job.advance(&mut cx);
    }

    fn each_job(&mut self, now: i64, actions: &mut Vec<Action>, mut f: impl FnMut(&mut Job, &mut Context<'_>)) {
        for job in self.jobs.values_mut() {
            let mut cx = Context {
                now,
                options: &self.options,
                executors: &self.executors,
                actions,
            };
            f(job, &mut cx);
            job.advance(&mut cx);
        }
    }
}

/// What a job sees of the world while it handles an event.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) now: i64,
    pub(crate) options: &'a Options,
    executors: &'a BTreeMap<ExecutorId, ExecutorView>,
    actions: &'a mut Vec<Action>,
}

impl Context<'_> {
    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(crate) fn executors(&self) -> impl Iterator<Item = ExecutorId> {
        self.executors.keys().copied()
    }

    pub(crate) fn slots(&self, executor: ExecutorId) -> u32 {
        self.executors.get(&executor).map_or(0, |view| view.slots)
    }

    pub(crate) fn capacities(&self, of: impl Fn(ExecutorId) -> bool) -> Vec<Capacity> {
        let known = self.executors.iter().filter(|(id, _)| of(**id));
        known
            .map(|(id, view)| Capacity {
                executor: *id,
                slots: view.slots,
            })
            .collect()
    }
}
