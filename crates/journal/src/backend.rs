//! Where a journal is kept.

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;
use tidemill_types::Generation;

use crate::error::Error;
use crate::group::Group;

/// What an opening found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The generation that the opening took.
    pub generation: Generation,
    /// The newest snapshot, and the sequence up to which it stands for all records.
    pub snapshot: Option<(u64, Bytes)>,
    /// The records behind it, with their sequences, which are without gaps.
    pub records: Vec<(u64, Bytes)>,
}

impl Recovered {
    /// The sequence that the next record gets.
    #[must_use]
    pub fn next(&self) -> u64 {
        let snapshot = self.snapshot.as_ref().map_or(0, |(up_to, _)| *up_to);
        self.records.last().map_or(snapshot, |(sequence, _)| *sequence) + 1
    }
}

/// Why a group is not durable.
#[derive(Debug, Error)]
pub enum AppendError {
    /// A newer generation was taken: this writer has to stop.
    #[error("generation {by} has taken over the journal")]
    Fenced { by: Generation },
    /// It may be tried again, with the same group.
    #[error(transparent)]
    Unavailable(#[from] Error),
}

/// A log of groups with one writer, that of the newest generation.
///
/// If [`append`](Self::append) returns `Ok`, the group is durable and every later opening reads it, whatever other
/// writers do. If it fails with [`AppendError::Unavailable`], the group may or may not be there, and appending the same
/// group again has it there once.
#[async_trait]
pub trait Backend: Send + 'static {
    async fn append(&mut self, group: &Group) -> Result<(), AppendError>;

    /// Keeps a snapshot that stands for all records up to `up_to`, which are durable, and lets go what is not needed
    /// any more: all but the last two snapshots, and records that the older of them stands for.
    async fn snapshot(&mut self, up_to: u64, state: Bytes) -> Result<(), AppendError>;
}

#[async_trait]
impl Backend for Box<dyn Backend> {
    async fn append(&mut self, group: &Group) -> Result<(), AppendError> {
        self.as_mut().append(group).await
    }

    async fn snapshot(&mut self, up_to: u64, state: Bytes) -> Result<(), AppendError> {
        self.as_mut().snapshot(up_to, state).await
    }
}
