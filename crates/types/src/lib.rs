//! The vocabulary of Tidemill: ids, batch times, task keys and outcomes.
//!
//! Plain values without I/O, runtime or data-model dependencies, shared by every other crate.

mod failure;
mod id;
mod storage_level;
mod task;
mod time;

pub use failure::{FailureKind, TaskFailure};
pub use id::{
    AccumulatorId, Attempt, BroadcastId, DatasetId, ExecutorId, Generation, Incarnation, JobId, OutputId, PlanVersion,
    ReceiverId, RoutingVersion, SlotId, StageId, StreamId,
};
pub use storage_level::{Medium, StorageLevel, UnknownLevel};
pub use task::{BlockId, TaskAttempt, TaskKey};
pub use time::BatchTime;
