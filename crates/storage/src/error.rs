//! What can go wrong with held data, by fact.

use std::path::PathBuf;

use arrow::error::ArrowError;
use thiserror::Error;
use tidemill_types::{BatchTime, FailureKind, JobId, StageId, TaskKey};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, Error)]
pub enum Error {
    /// Spilled data is gone or damaged. It can be made again.
    #[error("spilled data in {} is lost: {reason}", path.display())]
    SpillLost { path: PathBuf, reason: String },

    #[error("cannot spill to {}", path.display())]
    SpillFailed {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },

    #[error("spilled data has reached its limit of {limit} bytes (storage.disk)")]
    SpillFull { limit: u64 },

    /// Neither memory nor disk has room.
    #[error(
        "{bytes} bytes have no room in memory ({memory}) and {disk}: give executors more memory (executor.memory) or \
         disk (storage.disk), use more partitions, or keep less"
    )]
    Full {
        bytes: u64,
        /// Who holds how much.
        memory: String,
        disk: &'static str,
    },

    /// A frame or stream that no correct peer sends.
    #[error("malformed frame: {reason}")]
    Malformed { reason: String },

    /// A shuffle was read before all of its maps had sent.
    #[error(
        "job {job} batch {batch}: partition {partition} of the shuffle from stage {from_stage} still misses maps {missing:?}"
    )]
    Incomplete {
        job: JobId,
        batch: BatchTime,
        from_stage: StageId,
        partition: u32,
        missing: Vec<u32>,
    },

    /// What one map task sent was spilled and is lost. The shuffle waits for it again.
    #[error("what {map} sent is lost")]
    MapInputLost {
        map: TaskKey,
        #[source]
        source: Box<Error>,
    },

    #[error("job {job} has no exchange behind stage {stage}, or no routing for it")]
    NoRoute { job: JobId, stage: StageId },

    #[error("rows cannot be encoded or decoded")]
    Arrow(#[from] ArrowError),
}

impl Error {
    pub(crate) fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed { reason: reason.into() }
    }

    /// Who can do something about it.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::SpillLost { .. } | Self::MapInputLost { .. } | Self::Incomplete { .. } => FailureKind::InputLost,
            Self::SpillFailed { .. } | Self::SpillFull { .. } | Self::Full { .. } => FailureKind::Resource,
            Self::Malformed { .. } | Self::NoRoute { .. } | Self::Arrow(_) => FailureKind::Internal,
        }
    }
}
