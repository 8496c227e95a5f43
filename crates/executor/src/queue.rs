//! Which ready task runs next.
//!
//! Slots are shared between jobs by weight: the job with the fewest running tasks for its weight goes first. Within a
//! job older batches go first, then earlier stages, so that an old batch never waits for a new one.

use std::collections::BTreeMap;

use tidemill_types::{JobId, TaskAttempt};

#[derive(Debug)]
pub(crate) struct ReadyQueue {
    slots: u32,
    running: u32,
    jobs: BTreeMap<JobId, Share>,
}

#[derive(Debug)]
struct Share {
    weight: u32,
    running: u32,
    /// In the order of (batch, stage, partition, attempt).
    ready: std::collections::BTreeSet<TaskAttempt>,
}

impl ReadyQueue {
    pub(crate) fn new(slots: u32) -> Self {
        Self {
            slots: slots.max(1),
            running: 0,
            jobs: BTreeMap::new(),
        }
    }

    pub(crate) fn set_weight(&mut self, job: JobId, weight: u32) {
        self.share(job).weight = weight.max(1);
    }

    pub(crate) fn push(&mut self, task: TaskAttempt) {
        self.share(task.key.job).ready.insert(task);
    }

    /// Takes the next task if a slot is free; the slot is in use until [`finished`](Self::finished).
    pub(crate) fn start_next(&mut self) -> Option<TaskAttempt> {
        if self.running >= self.slots {
            return None;
        }
        let waiting = self.jobs.iter_mut().filter(|(_, share)| !share.ready.is_empty());
        // running/weight, compared without division.
        let (_, share) = waiting.min_by(|(_, a), (_, b)| {
            let (left, right) = (
                u64::from(a.running) * u64::from(b.weight),
                u64::from(b.running) * u64::from(a.weight),
            );
            left.cmp(&right)
        })?;
        let task = share.ready.pop_first()?;
        share.running += 1;
        self.running += 1;
        Some(task)
    }

    /// A task that was started has ended.
    pub(crate) fn finished(&mut self, job: JobId) {
        self.running = self.running.saturating_sub(1);
        if let Some(share) = self.jobs.get_mut(&job) {
            share.running = share.running.saturating_sub(1);
        }
    }

    /// Takes out waiting tasks.
    pub(crate) fn remove(&mut self, which: impl Fn(&TaskAttempt) -> bool) {
        for share in self.jobs.values_mut() {
            share.ready.retain(|task| !which(task));
        }
    }

    pub(crate) fn running(&self) -> u32 {
        self.running
    }

    pub(crate) fn queued(&self) -> u32 {
        self.jobs.values().map(|share| share.ready.len() as u32).sum()
    }

    fn share(&mut self, job: JobId) -> &mut Share {
        self.jobs.entry(job).or_insert_with(|| Share {
            weight: 1,
            running: 0,
            ready: std::collections::BTreeSet::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use tidemill_types::{Attempt, BatchTime, StageId, TaskKey};

    use super::*;

    fn task(job: u32, batch: i64, stage: u32, partition: u32) -> TaskAttempt {
        TaskAttempt {
            key: TaskKey {
                job: JobId(job),
                batch: BatchTime(batch),
                stage: StageId(stage),
                partition,
            },
            attempt: Attempt(0),
        }
    }

    #[test]
    fn an_old_batch_goes_before_a_new_one_and_slots_bound_what_runs() {
        let mut queue = ReadyQueue::new(2);
        queue.push(task(1, 2000, 0, 0));
        queue.push(task(1, 1000, 1, 0));
        queue.push(task(1, 1000, 0, 0));
        assert_eq!(queue.start_next(), Some(task(1, 1000, 0, 0)));
        assert_eq!(queue.start_next(), Some(task(1, 1000, 1, 0)));
        assert_eq!(queue.start_next(), None);
        queue.finished(JobId(1));
        assert_eq!(queue.start_next(), Some(task(1, 2000, 0, 0)));
    }

    #[test]
    fn jobs_share_slots_by_weight() {
        let mut queue = ReadyQueue::new(4);
        queue.set_weight(JobId(1), 1);
        queue.set_weight(JobId(2), 3);
        for partition in 0..8 {
            queue.push(task(1, 1000, 0, partition));
            queue.push(task(2, 1000, 0, partition));
        }
        let started: Vec<u32> = std::iter::from_fn(|| queue.start_next())
            .map(|task| task.key.job.0)
            .collect();
        assert_eq!(started.iter().filter(|job| **job == 1).count(), 1);
        assert_eq!(started.iter().filter(|job| **job == 2).count(), 3);
    }

    #[test]
    fn a_job_alone_uses_all_slots() {
        let mut queue = ReadyQueue::new(3);
        queue.set_weight(JobId(1), 1);
        for partition in 0..3 {
            queue.push(task(1, 1000, 0, partition));
        }
        assert_eq!(std::iter::from_fn(|| queue.start_next()).count(), 3);
    }
}
