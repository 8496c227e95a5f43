//! Frames: the pieces in which one map task's rows travel to one executor.
//!
//! A map task makes one *delivery* to each executor that reads some of its partitions, the *targets* of the delivery.
//! A delivery is cut into frames of a few MiB, numbered from 0, the last one marked; one without rows has one empty
//! frame, because the receiver counts deliveries, not rows. Rows of several partitions share a frame as consecutive
//! *runs*.
//!
//! Inside a process a frame is slices of the map task's output, never copied. Between processes it is one Arrow IPC
//! record batch message without its schema, which both sides know from the plan.

use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use tidemill_types::{Attempt, BatchTime, ExecutorId, JobId, RoutingVersion, StageId, TaskKey};

mod build;
mod codec;
mod layout;
#[cfg(test)]
mod tests;
mod wire_type;

pub use build::FrameBuilder;
pub use codec::{decode, encode};

/// What a frame is charged beside its rows, so that a flood of empty ones is bounded too.
pub(crate) const FRAME_OVERHEAD: u64 = 256;

/// What a frame belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameHead {
    pub job: JobId,
    pub batch: BatchTime,
    pub from_stage: StageId,
    pub map_partition: u32,
    pub attempt: Attempt,
    /// The routing that the sender went by.
    pub routing_version: RoutingVersion,
    /// The executor that ran the map task.
    pub source: ExecutorId,
    /// Numbers the deliveries of `source`: a repeated frame has the same number, rows that are sent again another.
    pub delivery: u64,
    /// All partitions that this delivery is for, ascending, whether they have rows or not.
    pub targets: Arc<[u32]>,
    /// The place of the frame in its delivery.
    pub index: u32,
    /// No frame of the delivery has a higher index.
    pub last: bool,
    /// Sent without credit, because its batch was the oldest unfinished one of its job.
    pub oldest: bool,
}

impl FrameHead {
    /// The task whose output this is.
    #[must_use]
    pub fn map(&self) -> TaskKey {
        TaskKey {
            job: self.job,
            batch: self.batch,
            stage: self.from_stage,
            partition: self.map_partition,
        }
    }
}

/// Consecutive rows for one partition.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub partition: u32,
    pub rows: RecordBatch,
}

/// A frame in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub head: FrameHead,
    pub runs: Vec<Run>,
    /// What it counts in credit and memory, for its sender and its receiver alike.
    pub bytes: u64,
}

/// A frame as it goes to another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFrame {
    pub head: FrameHead,
    /// Partition and number of rows of each run in the body, in its order.
    pub runs: Vec<(u32, u32)>,
    /// An Arrow IPC record batch message; empty if there are no rows.
    pub header: Bytes,
    pub body: Bytes,
}

impl EncodedFrame {
    /// What it counts in credit and memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        FRAME_OVERHEAD + self.body.len() as u64
    }
}
