//! Launched batches: which task waits for what, which runs, what is reported, what is forgotten.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidemill_dstream::plan::Keeps;
use tidemill_rpc::driver::attach_request::Event as Report;
use tidemill_storage::Stowed;
use tidemill_types::{BatchTime, FailureKind, JobId, TaskAttempt, TaskFailure, TaskKey};
use tokio::runtime::Handle;
use tracing::{error, warn};

use crate::batch::{BatchRun, Need, TaskRun, TaskState, due_marks, is_remote, needs, shuffle_partitions};
use crate::event::Event;
use crate::event_loop::EventLoop;
use crate::launch::{Launch, TaskLaunch};
use crate::node::Node;
use crate::report::task_report;
use crate::task::{BatchInfo, Finished, Task};

impl EventLoop {
    pub(crate) fn launch(&mut self, launch: Launch) {
        let (Some(node), Some(job)) = (self.node.clone(), self.installed(launch.job)) else {
            error!(job = %launch.job, batch = %launch.batch, "a batch of a job that is not installed here");
            return;
        };
        if launch.plan != job.plan.version {
            error!(job = %job.id, plan = %launch.plan, "a batch of another version of the plan");
            return;
        }
        if !launch.restore {
            self.forget(job.id, launch.oldest, launch.remember_from);
        }
        node.blocks.forget_blocks(&launch.forget_blocks);
        node.router.launch(job.id, launch.batch, launch.routing);
        let at = (job.id, launch.batch);
        let known = self
            .batches
            .get(&at)
            .is_some_and(|run| run.info.restore == launch.restore);
        if !known {
            self.drop_batches(|run| run == at);
            self.batches.insert(at, BatchRun::new(&job, &launch));
        }
        let Some(run) = self.batches.get(&at) else { return };
        let info = Arc::clone(&run.info);
        let partitions = shuffle_partitions(&info, &launch.tasks);
        for task in launch.tasks {
            self.plan_task(&node, &info, task);
        }
        // What is complete already is told at once, to tasks that wait by now.
        for (from_stage, maps) in &launch.expectations {
            if let Some(partitions) = partitions.get(from_stage) {
                node.shuffle.expect(job.id, info.batch, *from_stage, maps, partitions);
            }
        }
        if let Some(failure) = self.refused.remove(&at) {
            self.on_refused(at.0, at.1, &failure);
        }
    }

    pub(crate) fn plan_task(&mut self, node: &Arc<Node>, info: &Arc<BatchInfo>, launch: TaskLaunch) {
        let task = TaskAttempt {
            key: TaskKey {
                job: info.job.id,
                batch: info.batch,
                stage: launch.stage,
                partition: launch.partition,
            },
            attempt: launch.attempt,
        };
        let mut missing = needs(info, &launch);
        missing.extend(self.state_before(info, &task.key));
        missing.retain(|need| match need {
            Need::Shuffle(ready) => !self.complete.contains(ready),
            Need::Dataset(key) => !node.blocks.has_dataset(*key),
            Need::Block(id) => is_remote(id, node.executor) && !node.blocks.has_block(*id),
            Need::State(_) => true,
            Need::Broadcast(key) => node.broadcasts.value(*key).is_none(),
        });
        for need in &missing {
            let first = !self.waiting.contains_key(need);
            self.waiting.entry(*need).or_default().push(task);
            if let (Need::Block(id), true) = (need, first) {
                self.fetch_block(node, *id);
            }
            // It was dropped from memory: batches are launched only where it is held.
            if let (Need::Broadcast(key), true) = (need, first) {
                self.collect_broadcast(*key);
            }
        }
        let run = TaskRun {
            due: due_marks(node, info, &launch),
            launch: Arc::new(launch),
            missing,
            state: TaskState::Waiting,
            ready: None,
        };
        if let Some(batch) = self.batches.get_mut(&(info.job.id, info.batch)) {
            batch.tasks.insert((task.key.stage, task.key.partition), run);
        }
        self.queue_if_ready(task);
    }

    /// The task whose state this one goes on with, if it is still on its way. One that is not known here has ended or has
    /// been somewhere else: the task finds out by itself.
    fn state_before(&self, info: &BatchInfo, key: &TaskKey) -> Option<Need> {
        let stage = info.job.stage(key.stage)?;
        if !matches!(stage.keeps, Keeps::State { .. }) {
            return None;
        }
        let before = TaskKey {
            batch: info.time_of(info.previous(stage)?),
            ..*key
        };
        let run = self.batches.get(&(before.job, before.batch))?;
        let task = run.tasks.get(&(before.stage, before.partition))?;
        (task.state != TaskState::Done).then_some(Need::State(before))
    }

    pub(crate) fn queue_if_ready(&mut self, task: TaskAttempt) {
        let Some(run) = self.batches.get_mut(&(task.key.job, task.key.batch)) else {
            return;
        };
        let Some(current) = run.current(task.key.stage, task.key.partition, task.attempt) else {
            return;
        };
        if current.state == TaskState::Waiting && current.missing.is_empty() {
            current.state = TaskState::Queued;
            current.ready = Some(Instant::now());
            self.queue.push(task);
        }
    }

    /// Something that tasks waited for is here.
    pub(crate) fn satisfy(&mut self, need: Need) {
        for task in self.waiting.remove(&need).unwrap_or_default() {
            let run = self.batches.get_mut(&(task.key.job, task.key.batch));
            let current = run.and_then(|run| run.current(task.key.stage, task.key.partition, task.attempt));
            if let Some(current) = current {
                current.missing.remove(&need);
                if let (Need::Dataset(key), Some(node)) = (need, &self.node) {
                    current.due.extend(node.blocks.mark_due(Stowed::Dataset(key)));
                }
            }
            self.queue_if_ready(task);
        }
    }

    pub(crate) fn start_tasks(&mut self) {
        let Some(node) = self.node.clone() else { return };
        while let Some(attempt) = self.queue.start_next() {
            let run = self.batches.get_mut(&(attempt.key.job, attempt.key.batch));
            let info = run.as_ref().map(|run| Arc::clone(&run.info));
            let current = run.and_then(|run| run.current(attempt.key.stage, attempt.key.partition, attempt.attempt));
            let (Some(current), Some(info)) = (current, info) else {
                // Cancelled while it was queued.
                self.queue.finished(attempt.key.job);
                continue;
            };
            current.state = TaskState::Running;
            let task = Task {
                node: Arc::clone(&node),
                info,
                launch: Arc::clone(&current.launch),
                io: Handle::current(),
                max_line_bytes: self.options.max_line_bytes,
            };
            let (events, epoch) = (self.events.clone(), self.epoch);
            self.cpu.spawn(async move {
                let task_attempt = task.attempt();
                let result = task.run().await;
                let _ = events.send(Event::TaskFinished {
                    epoch,
                    task: task_attempt,
                    result,
                });
            });
        }
    }

    pub(crate) fn on_task_finished(&mut self, task: TaskAttempt, result: Result<Box<Finished>, TaskFailure>) {
        let at = (task.key.job, task.key.batch);
        let Some(run) = self.batches.get_mut(&at) else { return };
        let Some(current) = run.current(task.key.stage, task.key.partition, task.attempt) else {
            return;
        };
        current.state = if result.is_ok() {
            TaskState::Done
        } else {
            TaskState::Failed
        };
        current.due.clear();
        let wait = current.ready.map_or(Duration::ZERO, |ready| ready.elapsed());
        let dataset = result.as_ref().ok().and_then(|finished| finished.dataset);
        let wait = wait.saturating_sub(result.as_ref().map_or(Duration::ZERO, |finished| finished.run));
        let failed = result.as_ref().err().cloned();
        if let Some(failure) = &failed {
            warn!(%task, %failure, "task failed");
        }
        run.reports.push(task_report(task, run.info.restore, wait, result));
        let tell = failed.is_some() || run.prompt || run.all_ended();
        let report = if tell { run.take_report() } else { None };
        if failed.is_none() {
            self.satisfy(Need::State(task.key));
        }
        // Readers of the dataset first: they may be the rest of this batch.
        if let Some(dataset) = dataset {
            self.satisfy(Need::Dataset(dataset));
        }
        if failed.is_some_and(|failure| failure.kind == FailureKind::InputLost) {
            // Frames that were spilled and are lost come again; completeness is told anew.
            let (batch, job) = (task.key.batch, task.key.job);
            self.complete.retain(|ready| {
                ready.job != job
                    || ready.batch != batch
                    || self
                        .node
                        .as_ref()
                        .is_some_and(|node| node.shuffle.missing(job, batch, ready.from_stage).is_empty())
            });
        }
        if let Some(report) = report {
            self.report(Report::BatchReport(report));
        }
    }

    /// Reports what the tasks of a batch have come to, and from now on each as it ends.
    pub(crate) fn report_promptly(&mut self, job: JobId, batch: BatchTime) {
        let Some(run) = self.batches.get_mut(&(job, batch)) else {
            return;
        };
        run.prompt = true;
        if let Some(report) = run.take_report() {
            self.report(Report::BatchReport(report));
        }
    }

    pub(crate) fn forget(&mut self, job: JobId, oldest: BatchTime, remember_from: BatchTime) {
        let Some(node) = self.node.clone() else {
            return;
        };
        node.peers.set_oldest(job, oldest);
        self.refused.retain(|(of, batch), _| *of != job || *batch >= oldest);
        self.drop_batches(|(of, batch)| of == job && batch < oldest);
        node.shuffle
            .forget_before(job, oldest, node.router.routing_version(job));
        node.router.forget_before(job, oldest);
        node.blocks.set_oldest(job, oldest);
        node.blocks.forget_datasets_before(job, remember_from);
        // Local credit that came back.
        node.peers.grant_local(node.shuffle.take_credit(node.executor));
    }

    /// Drops batches that have no part in the future. A restore that still runs stays.
    pub(crate) fn drop_batches(&mut self, which: impl Fn((JobId, BatchTime)) -> bool) {
        let gone: Vec<(JobId, BatchTime)> = self
            .batches
            .iter()
            .filter(|(at, run)| {
                which(**at) && !(run.info.restore && !run.all_succeeded() && self.jobs.contains_key(&at.0))
            })
            .map(|(at, _)| *at)
            .collect();
        for at in &gone {
            let restored = self.batches.remove(at).is_some_and(|run| run.info.restore);
            // A batch that was opened again for a restore is not covered by what is forgotten up to the oldest.
            if let (true, Some(node)) = (restored, &self.node) {
                node.shuffle.forget_batch(at.0, at.1, node.router.routing_version(at.0));
                node.router.forget_batch(at.0, at.1);
            }
        }
        if gone.is_empty() {
            return;
        }
        let gone: HashSet<(JobId, BatchTime)> = gone.into_iter().collect();
        self.queue.remove(|task| gone.contains(&(task.key.job, task.key.batch)));
        self.complete.retain(|ready| !gone.contains(&(ready.job, ready.batch)));
        self.waiting.retain(|_, tasks| {
            tasks.retain(|task| !gone.contains(&(task.key.job, task.key.batch)));
            !tasks.is_empty()
        });
    }
}
