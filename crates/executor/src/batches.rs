//! Launched batches: which task waits for what, which runs, what is reported, what is forgotten.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidemill_dstream::plan::Keeps;
use tidemill_engine::StateHere;
use tidemill_rpc::driver::attach_request::Event as Report;
use tidemill_storage::Stowed;
use tidemill_types::{BatchTime, FailureKind, JobId, StageId, TaskAttempt, TaskFailure, TaskKey};
use tokio::runtime::Handle;
use tracing::{error, warn};

use crate::batch::{BatchRun, Need, TaskRun, TaskState, due_marks, is_remote, needs, shuffle_partitions};
use crate::event::Event;
use crate::event_loop::EventLoop;
use crate::job::InstalledJob;
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
        self.drop_superseded(&launch, &job);
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
        let Some(run) = self.batches.get_mut(&at) else { return };
        run.routing = launch.routing;
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

    /// Drops tasks that the launch makes superfluous, as far as they have not begun: those of restores that were given up,
    /// for a later routing is known; and behind a restore of state those that go on with that state, which the driver
    /// launches again.
    fn drop_superseded(&mut self, launch: &Launch, job: &InstalledJob) {
        let keeps_state = |task: &&TaskLaunch| {
            let stage = job.stage(task.stage);
            launch.restore && stage.is_some_and(|stage| matches!(stage.keeps, Keeps::State { .. }))
        };
        let states: HashSet<(StageId, u32)> = launch
            .tasks
            .iter()
            .filter(keeps_state)
            .map(|task| (task.stage, task.partition))
            .collect();
        for ((of, batch), run) in &mut self.batches {
            if *of != launch.job {
                continue;
            }
            if run.info.restore && run.routing < launch.routing {
                run.tasks.clear();
                run.reports.clear();
            }
            if !run.info.restore && *batch > launch.batch {
                let waits = |task: &TaskRun| matches!(task.state, TaskState::Waiting | TaskState::Queued);
                run.tasks.retain(|key, task| !(states.contains(key) && waits(task)));
            }
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
        let state = self.state_before(node, info, &task.key, launch.saved_state);
        missing.extend(state.map(|(need, _)| need));
        missing.retain(|need| match need {
            Need::Shuffle(ready) => !self.complete.contains(ready),
            Need::Dataset(key) => !node.blocks.has_dataset(*key),
            Need::Block(id) => is_remote(id, node.executor) && !node.blocks.has_block(*id),
            Need::State(_) | Need::SavedState(_) => true,
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
        if let Some((Need::SavedState(before), index)) = state {
            self.load_state(node, &info.job, before, index);
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

    /// The state that a task goes on with, by the task that leaves it, and the index of its batch, if that is not here.
    /// `saved` is the batch of which the state is in the checkpoint.
    fn state_before(
        &self,
        node: &Node,
        info: &BatchInfo,
        key: &TaskKey,
        saved: Option<BatchTime>,
    ) -> Option<(Need, i64)> {
        let stage = info.job.stage(key.stage)?;
        if !matches!(stage.keeps, Keeps::State { .. }) {
            return None;
        }
        let index = info.previous(stage)?;
        let before = TaskKey {
            batch: info.time_of(index),
            ..*key
        };
        let run = self.batches.get(&(before.job, before.batch));
        let task = run.and_then(|run| run.tasks.get(&(before.stage, before.partition)));
        let memory = node.memories.find(key.job, key.stage, key.partition);
        let need = state_need(&Before {
            task: before,
            state: task.map(|task| task.state),
            here: memory.map_or(StateHere::Nothing, |memory| memory.state_here(index)),
            named: saved.is_some(),
            saved: saved == Some(before.batch),
            restorable: info.job.checkpoint.is_some(),
        });
        need.map(|need| (need, index))
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

    pub(crate) fn on_task_finished(&mut self, task: TaskAttempt, mut result: Result<Box<Finished>, TaskFailure>) {
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
        let left = result.as_mut().ok().and_then(|finished| finished.state.take());
        if let Some(failure) = &failed {
            warn!(%task, %failure, "task failed");
        }
        run.reports.push(task_report(task, run.info.restore, wait, result));
        let tell = failed.is_some() || run.prompt || run.all_ended();
        let report = if tell { run.take_report() } else { None };
        if failed.is_none() {
            self.satisfy(Need::State(task.key));
        }
        if let Some(left) = left {
            self.save_state(task.key, left);
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

/// What is known of the state that a task goes on with.
struct Before {
    /// The task that leaves it.
    task: TaskKey,
    /// How far that is, if it is known here.
    state: Option<TaskState>,
    here: StateHere,
    /// The driver knows that it, or one before it, has to be loaded.
    named: bool,
    /// It is in the checkpoint.
    saved: bool,
    /// The driver has what is missing made again.
    restorable: bool,
}

/// What a task waits for before it goes on with a state; `None`: it begins, and if the state cannot be used, it says so.
fn state_need(before: &Before) -> Option<Need> {
    let on_its_way = match before.state {
        Some(TaskState::Queued | TaskState::Running) => true,
        // It may have been given to another executor, which has saved it since.
        Some(TaskState::Waiting | TaskState::Failed) => !before.saved,
        Some(TaskState::Done) | None => false,
    };
    if on_its_way {
        return Some(Need::State(before.task));
    }
    match before.here {
        StateHere::Here => None,
        _ if before.saved => Some(Need::SavedState(before.task)),
        StateHere::Lost if !before.named => None,
        StateHere::Another if !before.restorable => None,
        // The batches between are on their way.
        StateHere::Nothing | StateHere::Another | StateHere::Lost => Some(Need::State(before.task)),
    }
}

#[cfg(test)]
mod tests {
    use tidemill_types::StageId;

    use super::*;

    fn task() -> TaskKey {
        TaskKey {
            job: JobId(1),
            batch: BatchTime(1000),
            stage: StageId(2),
            partition: 3,
        }
    }

    fn need(state: Option<TaskState>, here: StateHere, saved: bool, restorable: bool) -> Option<Need> {
        state_need(&Before {
            task: task(),
            state,
            here,
            named: saved,
            saved,
            restorable,
        })
    }

    const WAITS: Option<Need> = Some(Need::State(TaskKey {
        job: JobId(1),
        batch: BatchTime(1000),
        stage: StageId(2),
        partition: 3,
    }));

    #[test]
    fn a_task_waits_for_the_one_before_it_while_that_is_on_its_way() {
        for here in [StateHere::Here, StateHere::Another, StateHere::Nothing] {
            for state in [TaskState::Queued, TaskState::Running] {
                assert_eq!(need(Some(state), here, true, true), WAITS);
            }
            for state in [TaskState::Waiting, TaskState::Failed] {
                assert_eq!(need(Some(state), here, false, true), WAITS);
            }
        }
        for state in [None, Some(TaskState::Done)] {
            assert_eq!(need(state, StateHere::Here, false, true), None);
            assert_eq!(need(state, StateHere::Here, true, true), None);
        }
    }

    #[test]
    fn a_saved_state_is_loaded_in_place_of_what_is_here() {
        let loads = Some(Need::SavedState(task()));
        for here in [StateHere::Another, StateHere::Nothing, StateHere::Lost] {
            for state in [
                None,
                Some(TaskState::Done),
                Some(TaskState::Waiting),
                Some(TaskState::Failed),
            ] {
                assert_eq!(need(state, here, true, true), loads);
            }
        }
    }

    #[test]
    fn a_state_that_is_not_here_and_not_saved_is_waited_for() {
        assert_eq!(need(None, StateHere::Nothing, false, true), WAITS);
        assert_eq!(need(None, StateHere::Nothing, false, false), WAITS);
        assert_eq!(need(Some(TaskState::Done), StateHere::Another, false, true), WAITS);
    }

    #[test]
    fn where_nobody_makes_it_again_the_task_finds_out_by_itself() {
        assert_eq!(need(None, StateHere::Another, false, false), None);
        assert_eq!(need(None, StateHere::Lost, false, true), None);
    }

    #[test]
    fn a_lost_state_is_waited_for_once_the_driver_has_it_made_again() {
        let before = Before {
            task: task(),
            state: None,
            here: StateHere::Lost,
            named: true,
            saved: false,
            restorable: true,
        };
        assert_eq!(state_need(&before), WAITS);
    }
}
