//! The tasks of one run of a batch, and what has become of each.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_types::{Attempt, ExecutorId, StageId};

use crate::event::TaskSuccess;

/// A task within its batch.
pub(crate) type Key = (StageId, u32);

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) executor: ExecutorId,
    pub(crate) attempt: Attempt,
    state: TaskState,
    /// Failures that count toward the job's limit.
    pub(crate) failures: u32,
    /// Attempts that ended for other reasons, most often because an input was missing.
    pub(crate) misses: u32,
    /// Its last attempt ended without all of its input, which has to be sent again.
    pub(crate) lacks_input: bool,
    /// What the running attempt leaves is lost before its end is known.
    pub(crate) output_lost: bool,
    /// Partitions of the next stage that it sends to, if not all.
    pub(crate) only_targets: Vec<u32>,
}

#[derive(Debug)]
enum TaskState {
    Running,
    /// Is launched again at this time.
    Deferred {
        until: i64,
    },
    Done(TaskSuccess),
}

impl Task {
    pub(crate) fn is_done(&self) -> bool {
        self.success().is_some()
    }

    pub(crate) fn success(&self) -> Option<&TaskSuccess> {
        match &self.state {
            TaskState::Done(success) => Some(success),
            TaskState::Running | TaskState::Deferred { .. } => None,
        }
    }
}

/// At most one attempt of a task is current (SCH-1).
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    by_key: BTreeMap<Key, Task>,
    unfinished: usize,
    deferred: BTreeSet<(i64, Key)>,
}

impl Tasks {
    /// Puts an attempt of a task on an executor, in place of the one before it.
    pub(crate) fn launch(&mut self, key: Key, executor: ExecutorId, attempt: Attempt) {
        match self.by_key.get_mut(&key) {
            Some(task) => {
                match task.state {
                    TaskState::Done(_) => self.unfinished += 1,
                    TaskState::Deferred { until } => {
                        self.deferred.remove(&(until, key));
                    }
                    TaskState::Running => {}
                }
                task.executor = executor;
                task.attempt = attempt;
                task.state = TaskState::Running;
                task.lacks_input = false;
                task.output_lost = false;
            }
            None => {
                let task = Task {
                    executor,
                    attempt,
                    state: TaskState::Running,
                    failures: 0,
                    misses: 0,
                    lacks_input: false,
                    output_lost: false,
                    only_targets: Vec::new(),
                };
                self.by_key.insert(key, task);
                self.unfinished += 1;
            }
        }
    }

    pub(crate) fn send_only_to(&mut self, key: Key, targets: impl IntoIterator<Item = u32>) {
        if let Some(task) = self.by_key.get_mut(&key) {
            task.only_targets = targets.into_iter().collect();
        }
    }

    /// The task, if this attempt on this executor is the current one and is running. Reports of others are late or
    /// repeated.
    pub(crate) fn current(&mut self, key: Key, executor: ExecutorId, attempt: Attempt) -> Option<&mut Task> {
        self.by_key.get_mut(&key).filter(|task| {
            task.executor == executor && task.attempt == attempt && matches!(task.state, TaskState::Running)
        })
    }

    pub(crate) fn finish(&mut self, key: Key, success: TaskSuccess) {
        if let Some(task) = self.by_key.get_mut(&key)
            && matches!(task.state, TaskState::Running)
        {
            task.state = TaskState::Done(success);
            self.unfinished -= 1;
        }
    }

    /// The running attempt has failed; there will be another at `until`.
    pub(crate) fn defer(&mut self, key: Key, until: i64) {
        if let Some(task) = self.by_key.get_mut(&key)
            && matches!(task.state, TaskState::Running)
        {
            task.state = TaskState::Deferred { until };
            self.deferred.insert((until, key));
        }
    }

    /// The deferred tasks whose time has come.
    pub(crate) fn due(&self, now: i64) -> BTreeSet<Key> {
        let due = self.deferred.iter().take_while(|(until, _)| *until <= now);
        due.map(|(_, key)| *key).collect()
    }

    pub(crate) fn next_retry(&self) -> Option<i64> {
        self.deferred.first().map(|(until, _)| *until)
    }

    pub(crate) fn all_done(&self) -> bool {
        self.unfinished == 0
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut Task> {
        self.by_key.get_mut(&key)
    }

    pub(crate) fn get(&self, key: Key) -> Option<&Task> {
        self.by_key.get(&key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &Task)> {
        self.by_key.iter().map(|(key, task)| (*key, task))
    }

    pub(crate) fn of_stage(&self, stage: StageId) -> impl Iterator<Item = (Key, &Task)> {
        self.by_key
            .range((stage, 0)..=(stage, u32::MAX))
            .map(|(key, task)| (*key, task))
    }

    pub(crate) fn keys(&self) -> BTreeSet<Key> {
        self.by_key.keys().copied().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }
}
