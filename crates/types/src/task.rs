//! What names a unit of work and a unit of data.

use std::fmt;

use crate::{Attempt, BatchTime, ExecutorId, JobId, ReceiverId, StageId};

/// One stage of one batch applied to one partition. A task's output is a function of this key alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey {
    pub job: JobId,
    pub batch: BatchTime,
    pub stage: StageId,
    pub partition: u32,
}

/// One try of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskAttempt {
    pub key: TaskKey,
    pub attempt: Attempt,
}

/// A run of records that a receiver stored, in the order in which it received them.
///
/// `receiver` and `session` name one start of one receiver; `sequence` counts its blocks from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId {
    pub job: JobId,
    pub receiver: ReceiverId,
    pub executor: ExecutorId,
    pub session: u32,
    pub sequence: u64,
}

impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "job {} batch {} stage {} partition {}",
            self.job, self.batch, self.stage, self.partition
        )
    }
}

impl fmt::Display for TaskAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} attempt {}", self.key, self.attempt)
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "block {}-{}-{}-{}-{}",
            self.job, self.receiver, self.executor, self.session, self.sequence
        )
    }
}
